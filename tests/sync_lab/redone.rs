//! A target that dies while it commits.

use std::time::Duration;

use pc_switcher_testkit::lab::Cmd;

use crate::hosts::{SOON, assert_moved, assert_nothing_runs, cut_off_commit, lab, sync};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn after_a_power_cut_in_the_commit_the_boot_finishes_it_and_the_next_sync_says_so() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let output = cut_off_commit(&lab);
    assert!(matches!(output.code(), Some(1 | 4)), "{}{}", output.error_text(), output.text());
    assert_nothing_runs(&[laptop], SOON);
    // What the unit starts where there is systemd.
    let redo = desk.exec(&Cmd::new("pc-switcher").args(["agent", "--redo"]).timeout(MINUTE)).unwrap();
    assert_eq!(redo.code(), Some(0), "{}", redo.error_text());
    let old = desk.exec(&Cmd::script("grep -Lr second /home/alice/many | wc -l")).unwrap();
    assert_eq!(old.text().trim(), "0", "the whole tree is new: {}", redo.error_text());
    assert!(redo.error_text().contains("the commit is finished now"), "{}", redo.error_text());
    sync(laptop, "desk", &[]).ends_with(0).says(&["was cut off while it committed", "is finished now"]);
    assert_moved(laptop, desk);
    let left = desk.exec(&Cmd::script("ls -d /home/.pc-switcher /var/lib/pc-switcher/*/* 2>&1")).unwrap();
    assert!(!left.text().contains("commits/") && !left.text().contains("redone/"), "{}", left.text());
}
