//! Sets of thin volumes in a machine with a kernel of its own: real LVM, ext4 and XFS.
//!
//! Takes root, qemu and some minutes: `tests/full vm-lvm`. What is done and looked at stands in `task.sh`.

use std::path::PathBuf;

use pc_switcher_testkit::vm_thin::{ThinVm, why_not};

/// The program to be tried.
fn program() -> PathBuf {
    std::env::var_os("PC_SWITCHER_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_pc-switcher").into(), PathBuf::from)
}

#[test]
#[ignore = "takes qemu and minutes: `tests/full vm-lvm`"]
fn sets_of_thin_volumes_are_taken_read_and_removed_and_nothing_else_is_touched() {
    if let Some(why) = why_not() {
        assert!(std::env::var_os("LAB_REQUIRED").is_none(), "no machine: {why}");
        eprintln!("skipped: no machine can be made here: {why}");
        return;
    }
    let vm = ThinVm::make(&program(), include_str!("task.sh")).unwrap();
    let ended = vm.start().unwrap();
    eprintln!("{}", ended.said);
    let failed: Vec<&str> = ended.said.lines().filter(|line| line.starts_with("FAILED")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(ended.said.contains("\nTASK DONE\n"), "it did not come so far");
    assert!(ended.by_itself, "it hung");
}
