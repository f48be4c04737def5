//! Backups within a sync: from the snapshots that were taken before it, into a vault on the laptop.

use std::process::Command;
use std::time::Duration;

use pc_switcher_testkit::lab::{CTRL_C, Cmd, Machine, Running};
use pc_switcher_testkit::manifest::assert_same_tree;
use rustix::process::Signal;

use crate::hosts::{
    BY_THEN, CHILD, Ran, SOON, alice, assert_moved, assert_nothing_runs, configure, first_sync, lab, line,
    ours, picture, plan, root, run, sync, wait_for,
};
use crate::rollback::restart;

pub const MINUTE: Duration = Duration::from_secs(60);
pub const WORD: &str = "correct horse";
/// The module with a passphrase, behind one that makes the sync last.
const SLOWLY: &str = "[sync_modules]\ndummy-success = true\nvault-backup = true\nuser-data = true\n\
                      [dummy-success]\nduration = 15\nchild = true\n";
const FIRST: &str = "[sync_modules]\nvault-backup = true\nuser-data = true\n";

/// Runs `vault` as alice.
#[track_caller]
pub fn vault(machine: &Machine, args: &[&str]) -> Ran {
    run(machine, &vault_line(args))
}

/// Describes `vault` as alice types it.
pub fn vault_line(args: &[&str]) -> Cmd {
    let cmd = Cmd::new("pc-switcher").arg("vault").args(args.iter().copied()).as_alice();
    cmd.env("PC_SWITCHER_VAULT_PASSWORD", WORD).timeout(2 * MINUTE)
}

/// Makes a vault on the laptop and tracks alice's notes.
#[track_caller]
fn with_vault(machine: &Machine, modules: &str) {
    root(machine, "install -d -o alice -g alice -m 700 /srv/vault");
    vault(machine, &["config", "init", "--root", "/srv/vault"]).ends_with(0);
    vault(machine, &["init"]).ends_with(0);
    vault(machine, &["dir", "init", "/home/alice/notes"]).ends_with(0);
    switch_on(machine, modules);
}

#[track_caller]
pub fn switch_on(machine: &Machine, modules: &str) {
    let word = "/home/alice/.config/pc-switcher/word";
    configure(machine, &format!("{modules}[vault-backup]\npassword_file = \"{word}\"\n"));
    machine.write_file(word, format!("{WORD}\n").as_bytes(), 0o600, "alice").unwrap();
}

/// Runs Debian's restic on the vault in `/srv/vault` of a machine.
#[track_caller]
pub fn restic(machine: &Machine, args: &[&str]) -> String {
    let repo = machine.root_path().unwrap().join("srv/vault");
    let mut command = Command::new("restic");
    command.args(["--no-cache", "--no-lock", "--repo"]).arg(repo).args(args).env("RESTIC_PASSWORD", WORD);
    let output = command.output().expect("tests/packages installs restic");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "restic {args:?}: {out}\n{err}");
    out.into_owned()
}

/// Waits for a sync and returns how it ended.
pub fn ran(running: Running) -> Ran {
    let output = running.wait().unwrap();
    let text = format!("{}{}", output.error_text(), output.text());
    Ran { code: output.code(), text, stdout: output.text() }
}

/// How many packs the vault has.
pub fn packs(machine: &Machine) -> usize {
    root(machine, "find /srv/vault/data -type f | wc -l").trim().parse().unwrap()
}

#[test]
fn a_backup_in_a_sync_is_of_the_moment_before_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    with_vault(laptop, SLOWLY);
    alice(
        laptop,
        "echo before >notes/letter; echo goes >notes/goes; mkdir -p notes/deep; echo x >notes/deep/x",
    );
    let running = laptop.spawn(&line("desk", &["--allow-first-sync"])).unwrap();
    wait_for("child", BY_THEN, || ours(desk).iter().any(|command| command == CHILD));
    alice(laptop, "echo during >notes/letter; rm notes/goes; echo new >notes/fresh");
    ran(running).ends_with(0).says(&["vault-backup SUCCESS", "files came back out of the vaults"]);
    vault(laptop, &["restore", "/home/alice/notes", "--to", "/tmp/back"]).ends_with(0);
    assert_eq!(alice(laptop, "cd /tmp/back && cat letter goes deep/x"), "before\ngoes\nx\n");
    assert!(!laptop.exists("/tmp/back/fresh").unwrap(), "it was made after the snapshots");
    assert_eq!(alice(desk, "cat notes/letter"), "before\n", "both modules read the same set");
    let status = vault(laptop, &["dir", "status", "--deleted", "/home/alice/notes"]).ends_with(0);
    status.says(&["BM letter", "D goes", "? fresh"]);
    restic(laptop, &["check", "--read-data"]);
    assert!(restic(laptop, &["ls", "latest"]).contains("/home/alice/notes/goes"));

    switch_on(laptop, FIRST);
    sync(laptop, "desk", &[]).ends_with(0).says(&["1 files are gone"]);
    let log = run(laptop, &Cmd::new("pc-switcher").args(["logs", "--last"]).as_alice()).ends_with(0);
    log.says(&["looked where something changed since the last backup alone"]);
    vault(laptop, &["log", "/home/alice/notes/letter"]).ends_with(0).says(&["[current]"]);
    let log = vault(laptop, &["log", "/home/alice/notes/letter"]);
    assert_eq!(log.stdout.lines().count(), 2, "{}", log.stdout);
    assert_moved(laptop, desk);
    let state = "cd .local/state/pc-switcher && ls -d host.toml vault 2>&1 || true";
    assert!(!alice(desk, state).lines().any(|name| name == "host.toml" || name == "vault"), "it stays here");
    assert!(!desk.exists("/home/alice/.config/bt.toml").unwrap(), "and so do its settings");
    restic(laptop, &["check", "--read-data"]);
}

#[test]
fn ctrl_c_in_a_backup_leaves_a_sound_vault_and_the_next_sync_goes_on() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    with_vault(laptop, FIRST);
    alice(laptop, "for n in $(seq 50); do head -c 8M /dev/urandom >notes/large-$n; done");
    let mut terminal = laptop.spawn_pty(&line("desk", &["--no-progress"])).unwrap();
    terminal.expect("stage: module:vault-backup", BY_THEN).unwrap();
    wait_for("packs", BY_THEN, || packs(laptop) >= 2);
    terminal.send(CTRL_C).unwrap();
    let (status, screen) = terminal.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{screen}");
    assert_nothing_runs(&[laptop, desk], SOON);
    assert_eq!(root(laptop, "ls /srv/vault/locks"), "", "no lock is left");
    let stored = packs(laptop);
    restic(laptop, &["check", "--read-data"]);
    vault(laptop, &["check"]).ends_with(0).says(&["sound"]);

    sync(laptop, "desk", &[]).ends_with(0).says(&["new versions", "came back out of the vaults"]);
    assert!(packs(laptop) > stored);
    let bytes: u64 = root(laptop, "du -sb /srv/vault/data | cut -f 1").trim().parse().unwrap();
    assert!(bytes < 440 << 20, "nothing is stored twice: {bytes}");
    restic(laptop, &["check", "--read-data"]);
    assert_moved(laptop, desk);

    // The same by a kill, which nobody hears.
    alice(laptop, "for n in $(seq 20); do head -c 8M /dev/urandom >notes/more-$n; done");
    let before = packs(laptop);
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: module:vault-backup", BY_THEN).unwrap();
    wait_for("packs", BY_THEN, || packs(laptop) > before);
    running.signal(Signal::KILL).unwrap();
    assert_nothing_runs(&[laptop, desk], MINUTE);
    running.wait().unwrap();
    sync(laptop, "desk", &[]).ends_with(0);
    restic(laptop, &["check", "--read-data"]);
    assert_moved(laptop, desk);
}

#[test]
fn what_keeps_a_backup_from_beginning_is_said_before_anything_changes() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    switch_on(laptop, FIRST);
    sync(laptop, "desk", &[])
        .ends_with(3)
        .says(&["there is no `/home/alice/.config/bt.toml`", "bt config init"]);
    with_vault(laptop, FIRST);
    alice(laptop, "echo new >notes/new");
    configure(laptop, FIRST);
    sync(laptop, "desk", &[]).ends_with(3).says(&["there is no passphrase for the vaults", "password_file"]);
    let wrong = line("desk", &[]).env("PC_SWITCHER_VAULT_PASSWORD", "wrong");
    run(laptop, &wrong).ends_with(3).says(&["does not open the vault", "--skip vault-backup"]);
    switch_on(laptop, FIRST);
    root(laptop, "chmod 640 /home/alice/.config/pc-switcher/word");
    sync(laptop, "desk", &[]).ends_with(3).says(&["others may read the passphrase", "chmod 600"]);
    root(laptop, "chmod 600 /home/alice/.config/pc-switcher/word");
    root(laptop, "mv /srv/vault /srv/away");
    for flags in [&["--dry-run"][..], &[]] {
        sync(laptop, "desk", flags)
            .ends_with(3)
            .says(&["there is no vault in `/srv/vault`", "is its disk mounted?"]);
    }
    let elsewhere = format!("{FIRST}[vault-backup]\ndirectories = [\"/home/alice/Documents\"]\n");
    root(laptop, "mv /srv/away /srv/vault");
    configure(laptop, &elsewhere);
    let given = line("desk", &[]).env("PC_SWITCHER_VAULT_PASSWORD", WORD);
    run(laptop, &given).ends_with(3).says(&["`/home/alice/Documents` is no tracked directory"]);
    assert!(!desk.exists("/home/alice/notes/new").unwrap());
    assert_eq!(packs(laptop), 0);
    sync(laptop, "desk", &["--skip", "vault-backup"]).ends_with(0);
    configure(laptop, "");
    assert_moved(laptop, desk);
}

#[test]
fn a_dry_run_says_what_would_be_stored_and_writes_nothing() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    with_vault(laptop, FIRST);
    first_sync(&lab);
    alice(laptop, "echo new >notes/new; echo twice >>notes/new");
    let (seen, stored) = (picture(laptop), packs(laptop));
    let would = plan(laptop, "desk");
    assert!(would.contains(&"\"back-up\" \"/home/alice/notes/new\"".to_owned()), "{would:?}");
    assert_eq!(would.iter().filter(|line| line.contains("back-up")).count(), 1, "{would:?}");
    let now = picture(laptop);
    seen.0.iter().zip(&now.0).for_each(|(before, after)| assert_same_tree(before, after));
    assert_eq!(seen.1, now.1, "a dry run takes no snapshots");
    assert_eq!(packs(laptop), stored);
}

#[test]
fn a_vault_that_goes_away_fails_the_sync_and_a_file_that_cannot_be_read_does_not_stop_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    with_vault(laptop, SLOWLY);
    first_sync(&lab);
    alice(laptop, "echo new >notes/new");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    wait_for("child", BY_THEN, || ours(desk).iter().any(|command| command == CHILD));
    root(laptop, "mv /srv/vault /srv/away");
    ran(running).ends_with(1).says(&["there is no vault in `/srv/vault`", "vault-backup FAILED"]);
    assert!(!desk.exists("/home/alice/notes/new").unwrap(), "what comes after it is not begun");
    root(laptop, "mv /srv/away /srv/vault");

    switch_on(laptop, FIRST);
    root(laptop, "echo secret >/home/alice/notes/secret; chmod 600 /home/alice/notes/secret");
    sync(laptop, "desk", &[])
        .ends_with(1)
        .says(&["`/home/alice/notes/secret` is not backed up", "1 files failed"]);
    assert_moved_but_for_the_code(laptop, desk);
    vault(laptop, &["log", "/home/alice/notes/new"]).ends_with(0);
    root(laptop, "rm /home/alice/notes/secret");
    // It was recorded all the same: nothing is asked.
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

/// Checks that the sync did its other work.
#[track_caller]
fn assert_moved_but_for_the_code(laptop: &Machine, desk: &Machine) {
    for machine in [laptop, desk] {
        assert_eq!(root(machine, "cat /home/alice/notes/new /home/alice/notes/secret"), "new\nsecret\n");
    }
}

#[test]
fn after_a_rollback_the_catalogue_is_as_new_as_the_vault() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    with_vault(laptop, FIRST);
    alice(laptop, "echo old >notes/letter");
    let good = Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice();
    run(laptop, &good).ends_with(0);
    vault(laptop, &["add", "/home/alice/notes"]).ends_with(0);
    vault(laptop, &["backup"]).ends_with(0);
    alice(laptop, "echo new >notes/letter");
    vault(laptop, &["add", "/home/alice/notes"]).ends_with(0);
    vault(laptop, &["backup"]).ends_with(0);
    let back = Cmd::new("pc-switcher").args(["rollback", "good", "--subvol", "@home"]).as_alice();
    run(laptop, &back.timeout(MINUTE)).ends_with(0);
    restart(laptop);
    assert_eq!(alice(laptop, "cat notes/letter"), "old\n");
    let log = vault(laptop, &["log", "/home/alice/notes/letter"]).ends_with(0);
    assert_eq!(log.stdout.lines().count(), 2, "what was backed up since is known: {}", log.stdout);
    vault(laptop, &["add", "/home/alice/notes"]).ends_with(0).says(&["staged"]);
    vault(laptop, &["backup"]).ends_with(0).says(&["1 new versions"]);
    vault(laptop, &["restore", "/home/alice/notes/letter", "--to", "/tmp/back"]).ends_with(0);
    assert_eq!(alice(laptop, "cat /tmp/back/letter"), "old\n");
    vault(laptop, &["rehearse"]).ends_with(0).says(&["files came back"]);
    restic(laptop, &["check", "--read-data"]);
}
