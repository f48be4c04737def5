//! Endings by the user's hand: nothing runs on, both locks are free, the next sync works.

use std::time::Duration;

use pc_switcher_testkit::{
    lab::{CTRL_C, Lab},
    manifest::assert_same_tree,
};
use rustix::process::Signal;

use crate::hosts::{
    CHILD, SOON, alice, assert_moved, assert_nothing_runs, configure, dawdle, first_sync, home, lab, line,
    ours, sync, wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the module's children run on both machines.
fn wait_for_children(lab: &Lab) {
    for machine in [lab.laptop(), lab.desk()] {
        wait_for("child", LIMIT, || ours(machine).iter().any(|command| command == CHILD));
    }
}

#[test]
fn ctrl_c_during_a_module_leaves_no_process_and_no_lock_on_either_machine() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "echo new >notes/new");
    dawdle(laptop, 60, "");
    let before = home(desk);
    let mut terminal = laptop.spawn_pty(&line("desk", &["--no-progress"])).unwrap();
    terminal.expect("stage: module:dummy-success", LIMIT).unwrap();
    wait_for_children(&lab);
    terminal.send(CTRL_C).unwrap();
    let (status, screen) = terminal.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{screen}");
    assert_nothing_runs(&[laptop, desk], SOON);
    assert_same_tree(&before, &home(desk));
    configure(laptop, "");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn ctrl_c_pressed_again_and_again_leaves_no_more_behind_than_once() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "echo new >notes/new");
    let before = home(desk);
    for more in [1, 2] {
        // Work that does not listen, with nothing but the grace period or the person to end it.
        configure(
            laptop,
            "[sync_modules]\ndummy-fail = true\nuser-data = true\n[dummy-fail]\nhow = \"hang\"\n",
        );
        let mut terminal = laptop.spawn_pty(&line("desk", &["--no-progress"])).unwrap();
        terminal.expect("stage: module:dummy-fail", LIMIT).unwrap();
        terminal.send(CTRL_C).unwrap();
        terminal.expect("once more skips the waits, a third time exits at once", LIMIT).unwrap();
        for _ in 0..more {
            terminal.send(CTRL_C).unwrap();
        }
        let (status, screen) = terminal.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{screen}");
        assert_nothing_runs(&[laptop, desk], LIMIT);
        assert_same_tree(&before, &home(desk));
    }
    configure(laptop, "");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn what_a_stopped_sync_has_brought_over_is_no_conflict_for_the_next_one() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "echo one >notes/ours; echo one >notes/both; echo one >notes/vault");
    configure(
        laptop,
        "[sync_modules]\nuser-data = true\ndummy-success = true\n[dummy-success]\nduration = 60\n",
    );
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: module:dummy-success", LIMIT).unwrap();
    running.signal(Signal::INT).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    configure(laptop, "[sync_modules]\nuser-data = true\n");
    alice(laptop, "echo two >notes/ours; echo two >notes/both; echo two >notes/vault");
    // Some programs give what they wrote its old time.
    alice(
        desk,
        "cat notes/ours; echo desk >notes/both; touch -r notes/vault t; echo six >notes/vault; touch -r t notes/vault; rm t",
    );
    let before = home(desk);
    let ran = sync(laptop, "desk", &[]).ends_with(7);
    ran.says(&["2 paths changed on desk", "/home/alice/notes/both", "/home/alice/notes/vault"]);
    assert_same_tree(&before, &home(desk));
    alice(laptop, "echo desk >notes/both; echo six >notes/vault");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn a_request_to_end_is_like_ctrl_c() {
    let Some(lab) = lab() else { return };
    first_sync(&lab);
    dawdle(lab.laptop(), 60, "");
    for signal in [Signal::TERM, Signal::HUP] {
        let running = lab.laptop().spawn(&line("desk", &[])).unwrap();
        wait_for_children(&lab);
        running.signal(signal).unwrap();
        let output = running.wait().unwrap();
        assert_eq!(output.code(), Some(130), "{}{}", output.error_text(), output.text());
        assert_nothing_runs(&[lab.laptop(), lab.desk()], SOON);
    }
}

#[test]
fn a_killed_front_leaves_nothing_on_either_machine() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    dawdle(laptop, 60, "");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    wait_for_children(&lab);
    running.signal(Signal::KILL).unwrap();
    assert_nothing_runs(&[laptop, desk], Duration::from_secs(30));
    assert_eq!(running.wait().unwrap().code(), None);
    configure(laptop, "");
    for machine in [laptop, desk] {
        let status = alice(machine, "pc-switcher status");
        assert!(status.contains("Left behind: the sync "), "{status}");
    }
    sync(laptop, "desk", &[]).ends_with(0).says(&["this run goes on from there"]);
    assert_moved(laptop, desk);
}
