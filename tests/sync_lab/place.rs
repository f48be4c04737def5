//! `init` gives the snapshots a place of their own, on machines that have none.

use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, Lab, Machine, Result, SharedLab, SnapshotDir};

use crate::hosts::{Ran, alice, install, options, root, run};

static NONE: SharedLab = SharedLab::new(|| options("place-none").snapshot_dir(SnapshotDir::None), both);
static PLAIN: SharedLab = SharedLab::new(|| options("place-plain").snapshot_dir(SnapshotDir::Plain), both);

const MINUTE: Duration = Duration::from_secs(60);
const LINES: &str = "proc /proc proc defaults 0 0\n# mine\nUUID=x /data ext4 noauto 0 0";

fn both(lab: &Lab) -> Result<()> {
    install(lab.laptop())?;
    lab.laptop().write_file("/etc/fstab", LINES.as_bytes(), 0o644, "root")
}

#[track_caller]
fn init(machine: &Machine, flags: &[&str]) -> Ran {
    run(machine, &Cmd::new("pc-switcher").arg("init").args(flags.iter().copied()).as_alice())
}

/// The snapshots lie in a top-level subvolume that only root may go into, and the next start mounts it.
#[track_caller]
fn has_a_place(machine: &Machine) {
    let found = root(machine, "findmnt -no FSROOT /.snapshots; stat -c '%a %U' /.snapshots");
    assert_eq!(found, "/@snapshots\n700 root\n");
    let uuid = root(machine, "findmnt -no UUID /");
    let table = root(machine, "cat /etc/fstab; stat -c %a /etc/fstab");
    let line = format!("UUID={} /.snapshots btrfs subvol=@snapshots 0 0", uuid.trim());
    assert_eq!(table, format!("{LINES}\n{line}\n644\n"), "no line is lost");
    assert_eq!(root(machine, "ls /mnt; ls /etc/fstab.new 2>/dev/null || true"), "");
    root(machine, "umount /.snapshots; mount /.snapshots");
    let again = init(machine, &["--force"]).ends_with(0);
    assert!(!again.text.contains("sudo") && again.text.contains("wrote"), "{}", again.text);
}

#[test]
fn without_a_terminal_the_commands_are_shown_and_on_one_they_are_run_if_somebody_says_yes() {
    let Some(lab) = NONE.take() else { return };
    let laptop = lab.laptop();
    let shown = init(laptop, &[]).ends_with(0);
    shown.says(&[
        "sudo unshare --mount",
        "btrfs subvolume create /mnt/@snapshots",
        "init --make-snapshot-dir",
    ]);
    assert!(!laptop.exists("/.snapshots").unwrap());
    for (answer, is_made) in [("", false), ("n", false), ("y", true)] {
        let mut terminal =
            laptop.spawn_pty(&Cmd::new("pc-switcher").args(["init", "--force"]).as_alice()).unwrap();
        terminal.expect("Run them now? [y/N]", MINUTE).unwrap();
        terminal.send_line(answer).unwrap();
        let (status, text) = terminal.wait().unwrap();
        assert_eq!((status.code(), laptop.exists("/.snapshots").unwrap()), (Some(0), is_made), "{text}");
    }
    has_a_place(laptop);
    run(laptop, &Cmd::new("pc-switcher").args(["snapshots", "create"]).as_alice()).ends_with(0);
    assert_eq!(root(laptop, "ls /.snapshots | wc -l"), "2\n");
}

#[test]
fn what_was_taken_before_is_kept_aside_and_a_command_that_fails_is_named_with_what_was_done() {
    let Some(lab) = PLAIN.take() else { return };
    let laptop = lab.laptop();
    run(laptop, &Cmd::new("pc-switcher").args(["snapshots", "create", "early"]).as_alice()).ends_with(0);
    // Its pin lies in a directory that not even root removes.
    run(laptop, &Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice()).ends_with(0);
    alice(laptop, "mkdir -p .config/pc-switcher; echo '[btrfs-snapshots]' >.config/pc-switcher/config.toml");
    // Something stands where the former directory is to go.
    root(laptop, "mkdir -p /.snapshots-before/other");
    let failed = init(laptop, &["--make-snapshot-dir"]);
    assert_ne!(failed.code, Some(0), "{failed:?}");
    failed.says(&[
        "done: sudo unshare --mount",
        "mv -T /.snapshots /.snapshots-before",
        "failed: exit status",
        "goes on from here",
    ]);
    assert_eq!(root(laptop, "cat /etc/fstab"), LINES);
    root(laptop, "rm -r /.snapshots-before");
    init(laptop, &["--make-snapshot-dir"])
        .ends_with(0)
        .says(&["adopt --from orphan --dir /.snapshots-before"]);
    assert_eq!(alice(laptop, "cat .config/pc-switcher/config.toml"), "[btrfs-snapshots]\n", "it stays");
    let adopt = ["snapshots", "adopt", "--from", "orphan", "--dir", "/.snapshots-before"];
    let adopted = run(laptop, &Cmd::new("pc-switcher").args(adopt).as_alice()).ends_with(0);
    let remove = adopted
        .text
        .lines()
        .find_map(|line| line.trim().strip_prefix("sudo sh -c"))
        .expect("how to remove it");
    root(laptop, &format!("sh -c {remove}"));
    assert!(!laptop.exists("/.snapshots-before").unwrap());
    let listed = run(laptop, &Cmd::new("pc-switcher").args(["snapshots", "list"]).as_alice()).ends_with(0);
    assert!(listed.text.contains("early"), "{}", listed.text);
    run(laptop, &Cmd::new("pc-switcher").args(["snapshots", "verify"]).as_alice()).ends_with(0);
    has_a_place(laptop);
}

#[test]
fn what_another_tool_keeps_there_is_left_alone() {
    let Some(lab) = PLAIN.take() else { return };
    let laptop = lab.laptop();
    root(laptop, "chmod 755 /.snapshots; mkdir -p /.snapshots/1; touch /.snapshots/1/info.xml");
    init(laptop, &["--make-snapshot-dir"])
        .says(&["holds something that is not of pc-switcher", "snapshot_dir"])
        .ends_with(1);
    // Where only root may look, the command that would move it does, and finds it among what is ours.
    root(laptop, "chmod 700 /.snapshots; mkdir -p /.snapshots/.pc-switcher");
    init(laptop, &["--make-snapshot-dir"])
        .says(&["/.snapshots/1 is not of pc-switcher", "goes on from here"])
        .ends_with(1);
    assert!(laptop.exists("/.snapshots/1/info.xml").unwrap());
}
