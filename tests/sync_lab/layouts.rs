//! Where homes lie: with and without subvolumes of their own.

use pc_switcher_testkit::lab::{MachineName, SharedLab, SnapshotDir};

use crate::hosts::{
    alice, assert_moved, configure, first_sync, install, lab, options, root, snapshots, sync,
};

static PLAIN: SharedLab = SharedLab::new(
    || options("sync-plain").root_subvolume(false).snapshot_dir(SnapshotDir::Plain),
    |lab| install(lab.laptop()),
);
static NO_SNAPSHOTS: SharedLab =
    SharedLab::new(|| options("sync-ext4").ext4(MachineName::Desk), |lab| install(lab.laptop()));

#[test]
fn the_home_of_root_may_lie_in_the_root_subvolume() {
    let Some(lab) = PLAIN.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(laptop, "echo mine >/root/notes");
    first_sync(&lab);
    assert_moved(laptop, desk);
    assert_eq!(root(desk, "cat /root/notes"), "mine\n");
    assert_eq!(snapshots(desk).len(), 4, "{:?}", snapshots(desk));
    alice(desk, "echo back >notes/back");
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
}

#[test]
fn a_nested_subvolume_is_named_and_never_mirrored_as_an_empty_directory() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[user-data]\nnested = \"skip\"\n");
    root(laptop, "btrfs -q subvolume create /home/alice/nested; echo in >/home/alice/nested/file");
    first_sync(&lab).says(&["`/home/alice/nested` is a nested subvolume"]);
    assert!(!desk.exists("/home/alice/nested").unwrap());
    // On the target it is left alone, too.
    root(desk, "btrfs -q subvolume create /home/alice/theirs; echo in >/home/alice/theirs/file");
    sync(laptop, "desk", &[]);
    assert_eq!(root(desk, "cat /home/alice/theirs/file"), "in\n");
    assert_eq!(root(laptop, "cat /home/alice/nested/file"), "in\n");
}

#[test]
fn a_target_without_snapshots_is_refused() {
    let Some(lab) = NO_SNAPSHOTS.take() else { return };
    let ran = sync(lab.laptop(), "desk", &["--allow-first-sync"]);
    assert!(matches!(ran.code, Some(3 | 7)), "{ran:?}");
    assert!(!lab.desk().exists("/home/alice/notes").unwrap());
}
