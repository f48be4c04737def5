//! A laptop whose homes lie on another btrfs than its system: sets over both disks.

use pc_switcher_testkit::lab::{Cmd, HomeDisk, Machine, MachineName, SharedLab};

use crate::hosts::{Ran, alice, assert_moved, first_sync, install, line, options, root, run, sync};

static LAB: SharedLab = SharedLab::new(
    || options("two-disks").home(MachineName::Laptop, HomeDisk::Btrfs),
    |lab| install(lab.laptop()),
);

/// Returns the names in a directory of snapshots, sorted; without what belongs to the sets.
#[track_caller]
fn names(machine: &Machine, dir: &str) -> Vec<String> {
    root(machine, &format!("ls {dir}")).lines().map(str::to_owned).collect()
}

#[track_caller]
fn ask(machine: &Machine, args: &[&str]) -> Ran {
    run(machine, &Cmd::new("pc-switcher").args(args.iter().copied()).as_alice())
}

#[test]
fn a_folder_on_a_second_disk_is_synced_between_two_sets_that_hold_it_too() {
    let Some(lab) = LAB.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    assert_moved(laptop, desk);
    let kinds = |dir: &str, name: &str| -> Vec<bool> {
        let found = names(laptop, dir);
        let is_there = |kind: &str| found.iter().any(|one| one.starts_with(&format!("{name}-{kind}-")));
        ["presync", "postsync"].into_iter().map(is_there).collect()
    };
    assert_eq!(kinds("/.snapshots-home", "@home"), [true, true]);
    assert_eq!(kinds("/.snapshots", "@"), [true, true]);
    assert_eq!(kinds("/.snapshots", "@home"), [false, false]);
    ask(laptop, &["snapshots", "verify", "--deep"]).ends_with(0);
    let first = ask(laptop, &["snapshots", "list", "--json"]).ends_with(0);
    assert!(first.stdout.contains("\"other_file_system\": \""), "{}", first.stdout);

    sync(laptop, "desk", &[]).ends_with(0).says(&["nothing to change"]);
    alice(desk, "sleep 1.1; echo back >notes/back; rm src/project/README.md");
    // The laptop is the target now: what it loses is in its set.
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
    ask(laptop, &["undo", "--yes"]).ends_with(0);
    assert!(laptop.exists("/home/alice/src/project/README.md").unwrap());
    assert!(!laptop.exists("/home/alice/notes/back").unwrap());

    // What is asked for by hand holds both disks.
    ask(laptop, &["snapshots", "create", "both"]).ends_with(0);
    alice(laptop, "echo other >notes/more; mkdir found");
    ask(laptop, &["snapshots", "restore", "both", "/home/alice/notes", "--to", "/home/alice/found"])
        .ends_with(0);
    ask(laptop, &["snapshots", "diff", "both"]).ends_with(0).says(&["/home/alice/notes/more"]);
    ask(laptop, &["snapshots", "show", "both"]).ends_with(0).says(&["one for all members on a disk"]);
    // A rollback leaves what lies on the other disk, and says why if that is named.
    let plan = ["rollback", "both", "--plan", "--subvol", "@home"];
    let refused = ask(laptop, &plan);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    refused.says(&["lies on another file system than `/.snapshots`"]);
    ask(laptop, &["rollback", "both", "--plan"])
        .ends_with(0)
        .says(&["nothing stands in the way of a rollback of `@` to set"]);

    // It goes from both disks.
    let before = names(laptop, "/.snapshots-home").len();
    ask(laptop, &["snapshots", "delete", "both", "--yes"]).ends_with(0);
    assert_eq!(names(laptop, "/.snapshots-home").len(), before - 1);
}

#[test]
fn without_a_place_for_its_snapshots_nothing_is_synced_and_doctor_has_the_commands() {
    let Some(lab) = LAB.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(laptop, "umount /.snapshots-home; rmdir /.snapshots-home");
    let refused = run(laptop, &line("desk", &["--allow-first-sync"]));
    assert!(matches!(refused.code, Some(3 | 7)), "{refused:?}");
    refused.says(&["`@home` lies on another file system than `/.snapshots`", "pc-switcher doctor"]);
    assert!(!desk.exists("/home/alice/notes").unwrap());
    ask(laptop, &["doctor"]).says(&[
        "sudo mkdir -m 700 /.snapshots-home",
        " /.snapshots-home btrfs subvol=@snapshots 0 0' | sudo tee -a /etc/fstab",
        "sudo mount /.snapshots-home",
    ]);
    // As these do it: the lab has no name of that device by its uuid.
    root(
        laptop,
        "mkdir -m 700 /.snapshots-home; mount -t btrfs -o subvol=@snapshots $(findmnt -vno SOURCE /home) /.snapshots-home",
    );
    first_sync(&lab);
    assert_moved(laptop, desk);
}
