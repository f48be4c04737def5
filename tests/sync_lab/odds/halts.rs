//! An sshd that dies in the middle of a sync: each path is old or new, and the next sync heals.

use std::time::{Duration, Instant};

use pc_switcher_testkit::lab::{Lab, Machine, Running};

use super::{lab, rewrite};
use crate::hosts::{
    BY_THEN, alice, assert_moved, assert_nothing_runs, configure, first_sync, kill, line, root, sync,
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
/// The marks of a sync at which it is stopped.
const MARKS: [&str; 4] = ["stage: compare", "stage: stage", "stage: committing", "stage: verify"];

/// Both machines hold the first version of a tree.
fn prepare(lab: &Lab) {
    configure(lab.laptop(), "[user-data]\nmass_deletion_share = 1.0\n");
    alice(lab.laptop(), "mkdir work");
    alice(lab.laptop(), &rewrite("version-0"));
    first_sync(lab);
}

/// Starts a sync of another version and waits until it says so.
fn start(lab: &Lab, version: usize, mark: &str) -> Running {
    alice(lab.laptop(), &rewrite(&format!("version-{version}")));
    let running = lab.laptop().spawn(&line("desk", &[]).timeout(MINUTE * 3)).unwrap();
    running.expect(mark, MINUTE).unwrap();
    running
}

/// Checks that no file of the tree is anything but a whole version.
#[track_caller]
fn assert_old_or_new(machine: &Machine, version: usize, mark: &str) {
    let old = format!("^version-{}$", version - 1);
    let new = format!("^version-{version}$");
    let half = format!("grep -rLE '{old}|{new}' work || true; grep -rvE '{old}|{new}' work || true");
    assert_eq!(alice(machine, &half), "", "after `{mark}`");
}

#[track_caller]
fn heal(lab: &Lab) {
    sync(lab.laptop(), "desk", &[]).ends_with(0);
    assert_moved(lab.laptop(), lab.desk());
    let left = root(lab.desk(), "ls -A /home/.pc-switcher /root/.pc-switcher 2>/dev/null || true");
    assert!(!left.contains("stage") && !left.contains("undo") && !left.contains("kept"), "{left}");
}

#[test]
fn a_killed_sshd_ends_the_sync_and_the_next_one_heals() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    prepare(&lab);
    for (version, mark) in (1..).zip(MARKS) {
        let running = start(&lab, version, mark);
        let start = Instant::now();
        // The listener and the processes of the connection.
        assert!(kill(desk, "sshd") > 2);
        let output = running.wait().unwrap();
        println!("{mark}: {:?} after {:?}", output.code(), start.elapsed());
        let text = format!("{}{}", output.error_text(), output.text());
        assert_eq!(output.code(), Some(4), "after `{mark}`: {text}");
        assert_nothing_runs(&[laptop, desk], MINUTE.saturating_sub(start.elapsed()));
        assert_old_or_new(desk, version, mark);
        root(desk, "/usr/sbin/sshd");
        wait_for("listener", BY_THEN, || root(desk, "ss -Hltn sport = :22 || true").contains(":22"));
        heal(&lab);
    }
}
