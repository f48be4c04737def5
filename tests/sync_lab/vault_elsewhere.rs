//! Vaults of the laptop in a directory of the desk: over ssh, served by the desk's own program, read there by stock restic.

use std::time::Instant;

use pc_switcher_testkit::lab::{CTRL_C, CableCut, Machine};

use crate::hosts::{
    BY_THEN, PROGRAM, SOON, alice, assert_moved, assert_nothing_runs, configure, first_sync, lab, line,
    program, root, run, sync, wait_for,
};
use crate::vault::{MINUTE, packs, ran, restic, switch_on, vault, vault_line};

const ROOT: &str = "ssh://desk/srv/vault";

/// Puts the program on the desk, and a directory that alice may write.
#[track_caller]
fn ready(desk: &Machine) {
    desk.copy_in(program(), PROGRAM, 0o755, "root").unwrap();
    root(desk, "install -d -o alice -g alice -m 700 /srv/vault");
}

/// Makes a vault on the desk and tracks the laptop's notes.
#[track_caller]
fn with_vault(laptop: &Machine, desk: &Machine) {
    ready(desk);
    vault(laptop, &["config", "init", "--name", "desk", "--root", ROOT]).ends_with(0);
    vault(laptop, &["init"]).ends_with(0).says(&["made the vault `desk` in ssh://desk/srv/vault"]);
    vault(laptop, &["dir", "init", "/home/alice/notes"]).ends_with(0);
}

/// Bytes that came over the network so far.
fn received(machine: &Machine) -> u64 {
    let all = "cat /sys/class/net/*/statistics/rx_bytes | awk '{ sum += $1 } END { print sum }'";
    root(machine, all).trim().parse().unwrap()
}

#[test]
fn a_vault_on_the_desk_is_what_restic_reads_there() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    vault(laptop, &["config", "init", "--name", "desk", "--root", ROOT]).ends_with(0);
    vault(laptop, &["init"])
        .ends_with(3)
        .says(&["`desk` serves no vault", "pc-switcher must be installed there"]);
    vault(laptop, &["list"]).ends_with(0).says(&["`desk` serves no vault"]);
    ready(desk);
    vault(laptop, &["init"]).ends_with(0).says(&["made the vault `desk` in ssh://desk/srv/vault"]);
    vault(laptop, &["dir", "init", "/home/alice/notes"]).ends_with(0);
    alice(laptop, "echo first >notes/letter; head -c 20M /dev/urandom >notes/large; chmod 640 notes/letter");
    vault(laptop, &["add", "/home/alice/notes"]).ends_with(0);
    vault(laptop, &["backup"]).ends_with(0).says(&["desk:", "snapshot"]);
    restic(desk, &["check", "--read-data"]);
    assert!(restic(desk, &["ls", "latest"]).contains("/home/alice/notes/letter"));
    let owners = root(desk, "find /srv/vault -not -user alice -o -perm /077 | wc -l");
    assert_eq!(owners.trim(), "0", "all of it is alice's alone");

    alice(laptop, "echo second >notes/letter; rm notes/large");
    vault(laptop, &["backup", "--tracked"]).ends_with(0).says(&["1 new versions", "1 files are gone"]);
    vault(laptop, &["backup"]).ends_with(0).says(&["no new snapshot"]);
    let log = vault(laptop, &["log", "/home/alice/notes/letter"]).ends_with(0);
    assert_eq!(log.stdout.lines().count(), 2, "{}", log.stdout);
    vault(laptop, &["restore", "/home/alice/notes/large", "--to", "/tmp/back"]).ends_with(0);
    assert_eq!(alice(laptop, "stat -c %s /tmp/back/large"), "20971520\n");
    vault(laptop, &["check", "--read-data"]).ends_with(0).says(&["sound"]);
    vault(laptop, &["rehearse"]).ends_with(0).says(&["files came back"]);
    vault(laptop, &["prune", "--keep", "last 1 session", "--at-once"])
        .ends_with(0)
        .says(&["1 of 2 snapshots removed"]);
    restic(desk, &["check", "--read-data"]);
    assert_eq!(root(desk, "ls /srv/vault/locks /srv/vault/pc-switcher/tmp | grep -v : || true").trim(), "");
    assert_nothing_runs(&[laptop, desk], SOON);

    root(desk, "mv /srv/vault /srv/away");
    vault(laptop, &["backup"])
        .ends_with(4)
        .says(&["there is no vault in `ssh://desk/srv/vault`", "is its disk mounted?"]);
    assert!(!desk.exists("/srv/vault").unwrap(), "an unmounted disk is no empty vault");
    root(desk, "mv /srv/away /srv/vault");
    let wrong = vault_line(&["backup"]).env("PC_SWITCHER_VAULT_PASSWORD", "wrong");
    run(laptop, &wrong).ends_with(3).says(&["does not open the vault"]);
}

#[test]
fn a_cable_that_is_cut_in_a_backup_costs_little() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    with_vault(laptop, desk);
    alice(laptop, "for n in $(seq 40); do head -c 8M /dev/urandom >notes/large-$n; done");
    desk.limit_rate(Some(160_000)).unwrap();
    let running = laptop.spawn(&vault_line(&["backup", "--tracked"]).timeout(4 * MINUTE)).unwrap();
    wait_for("packs", BY_THEN, || packs(desk) >= 6);
    desk.cable_cut(CableCut::Silent).unwrap();
    let start = Instant::now();
    ran(running).ends_with(4).says(&["desk"]);
    assert!(start.elapsed() < 3 * MINUTE, "{:?}", start.elapsed());
    assert_nothing_runs(&[laptop], SOON);
    // Nothing is heard there for a minute, and then nothing of it is left.
    assert_nothing_runs(&[desk], 2 * MINUTE);
    desk.cable_restore().unwrap();
    desk.limit_rate(None).unwrap();
    // The laptop's kernel may have found out a moment ago that nobody answers there.
    let is_there = "timeout 5 bash -c '</dev/tcp/desk/22' 2>/dev/null && echo yes || true";
    wait_for("cable", MINUTE, || root(laptop, is_there).trim() == "yes");
    let (stored, so_far) = (packs(desk) as u64, received(desk));
    vault(laptop, &["backup", "--tracked"]).ends_with(0).says(&["58 new versions"]);
    let came = received(desk) - so_far;
    assert!(came < (340 << 20) - stored * (16 << 20), "{came} bytes came, though {stored} packs were there");
    restic(desk, &["check", "--read-data"]);
    let so_far = received(desk);
    vault(laptop, &["backup", "--tracked"]).ends_with(0).says(&["no new snapshot"]);
    assert!(received(desk) - so_far < 1 << 20, "nothing is stored twice");

    // A short one is nothing that anybody is told of.
    alice(laptop, "for n in $(seq 20); do head -c 8M /dev/urandom >notes/more-$n; done");
    let before = packs(desk);
    desk.limit_rate(Some(160_000)).unwrap();
    let running = laptop.spawn(&vault_line(&["backup", "--tracked"]).timeout(4 * MINUTE)).unwrap();
    wait_for("packs", BY_THEN, || packs(desk) > before);
    for process in desk.processes().iter().filter(|process| process.command.contains("vault serve")) {
        let pid = rustix::process::Pid::from_raw(process.host_pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    ran(running).ends_with(0).says(&["20 new versions"]);
    desk.limit_rate(None).unwrap();
    restic(desk, &["check", "--read-data"]);
}

#[test]
fn ctrl_c_in_a_backup_to_the_desk_leaves_a_sound_vault_and_nobody_behind() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    with_vault(laptop, desk);
    alice(laptop, "for n in $(seq 40); do head -c 8M /dev/urandom >notes/large-$n; done");
    desk.limit_rate(Some(160_000)).unwrap();
    let mut terminal = laptop.spawn_pty(&vault_line(&["backup", "--tracked"])).unwrap();
    wait_for("packs", BY_THEN, || packs(desk) >= 2);
    terminal.send(CTRL_C).unwrap();
    let (status, screen) = terminal.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{screen}");
    assert_nothing_runs(&[laptop, desk], SOON);
    assert_eq!(root(desk, "ls /srv/vault/locks"), "", "no lock is left");
    assert_eq!(root(laptop, "ls /.snapshots"), "", "nor is the set that was read");
    desk.limit_rate(None).unwrap();
    restic(desk, &["check", "--read-data"]);
    vault(laptop, &["backup", "--tracked"]).ends_with(0).says(&["58 new versions"]);
    restic(desk, &["check", "--read-data"]);

    desk.cable_cut(CableCut::Carrier).unwrap();
    let start = Instant::now();
    vault(laptop, &["backup", "--tracked"]).ends_with(4).says(&["desk"]);
    assert!(start.elapsed() < MINUTE, "{:?}", start.elapsed());
    vault(laptop, &["dir", "status", "/home/alice/notes"]).ends_with(0);
    desk.cable_restore().unwrap();
}

#[test]
fn a_sync_backs_up_to_the_machine_that_it_goes_to() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    ready(desk);
    // In the main config, without a bt.toml.
    let settings = format!(
        "[sync_modules]\nvault-backup = true\nuser-data = true\n[vault]\nignore = [\"*.o\"]\n\
         [[vaults]]\nname = \"desk\"\ntype = \"ssh\"\nroot = \"{ROOT}\"\n"
    );
    configure(laptop, &settings);
    vault(laptop, &["config", "init"]).ends_with(0).says(&["config.toml"]);
    vault(laptop, &["init"]).ends_with(0);
    vault(laptop, &["dir", "init", "/home/alice/notes"]).ends_with(0);
    alice(laptop, "echo new >notes/new; echo object >notes/new.o");
    switch_on(laptop, &settings);
    sync(laptop, "desk", &["--allow-first-sync"])
        .ends_with(0)
        .says(&["vault-backup SUCCESS", "files came back out of the vaults"]);
    let listed = restic(desk, &["ls", "latest"]);
    assert!(listed.contains("/home/alice/notes/new") && !listed.contains("new.o"), "{listed}");
    restic(desk, &["check", "--read-data"]);
    assert_moved(laptop, desk);
    assert_nothing_runs(&[laptop, desk], SOON);

    alice(laptop, "for n in $(seq 12); do head -c 8M /dev/urandom >notes/large-$n; done");
    let before = packs(desk);
    desk.limit_rate(Some(160_000)).unwrap();
    let mut terminal = laptop.spawn_pty(&line("desk", &["--no-progress"])).unwrap();
    terminal.expect("stage: module:vault-backup", BY_THEN).unwrap();
    wait_for("packs", BY_THEN, || packs(desk) >= before + 2);
    terminal.send(CTRL_C).unwrap();
    let (status, screen) = terminal.wait().unwrap();
    desk.limit_rate(None).unwrap();
    assert_eq!(status.code(), Some(130), "{screen}");
    assert_nothing_runs(&[laptop, desk], SOON);
    assert_eq!(root(desk, "ls /srv/vault/locks"), "", "no lock is left");
    sync(laptop, "desk", &[]).ends_with(0).says(&["vault-backup SUCCESS"]);
    let bytes: u64 = root(desk, "du -sb /srv/vault/data | cut -f 1").trim().parse().unwrap();
    assert!(bytes < 99 << 20, "nothing is stored twice: {bytes}");
    restic(desk, &["check", "--read-data"]);
    assert_moved(laptop, desk);
}

/// Backs up alice's notes, proves that each file comes back as it is, and returns in how many directories only changes were looked at.
#[track_caller]
fn backed_up(machine: &Machine, round: &str) -> u64 {
    let done = vault(machine, &["backup", "--tracked", "--json"]).ends_with(0);
    let said: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    vault(machine, &["restore", "/home/alice/notes", "--to", &format!("/tmp/{round}")]).ends_with(0);
    let left_out = "--exclude=.btignore --exclude='*.o'";
    // Of two pipes it says that one is a pipe while the other one is.
    let differ =
        format!("diff -r --no-dereference {left_out} notes /tmp/{round} 2>&1 | grep -v 'is a fifo' || true");
    assert_eq!(alice(machine, &differ), "", "{round}");
    let names = "cd notes && find . -not -name .btignore -not -name '*.o' | sort";
    let back = names.replace("notes", &format!("/tmp/{round}"));
    assert_eq!(alice(machine, names), alice(machine, &back), "{round}");
    said["changes_alone"].as_u64().unwrap()
}

#[test]
fn a_backup_looks_where_btrfs_names_changes_and_stores_what_one_of_all_would() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    first_sync(&lab);
    root(laptop, "install -d -o alice -g alice -m 700 /srv/vault");
    vault(laptop, &["config", "init", "--root", "/srv/vault"]).ends_with(0);
    vault(laptop, &["init"]).ends_with(0);
    vault(laptop, &["dir", "init", "/home/alice/notes"]).ends_with(0);
    alice(
        laptop,
        "cd notes; for d in $(seq 20); do mkdir -p d$d/sub; for f in $(seq 40); do echo $d-$f >d$d/f$f; echo x$d$f >d$d/sub/g$f; done; done",
    );
    assert_eq!(backed_up(laptop, "first"), 0, "there is no base yet");
    let sets = || root(laptop, "ls /.snapshots | grep -c session || true").trim().to_owned();
    let before = sets();
    alice(
        laptop,
        "cd notes; echo edit >d3/f5; mv d4 d4-moved; rm d5/f1; rm -r d6; mkdir -p new/deep; echo x >new/deep/f; \
         ln d7/f1 d7/hard; ln -s nowhere d7/link; chmod 600 d8/f1; mv d9/f1 d10/f1-moved; mv d12/sub d13/sub-moved; \
         chmod 700 d14; rm d15/f1; mkdir d15/f1; echo in >d15/f1/in; rm -r d16/sub; echo now-a-file >d16/sub; mkfifo d17/pipe",
    );
    assert_eq!(backed_up(laptop, "second"), 1);
    alice(
        laptop,
        "cd notes; mv new renamed; touch d11/x.o d11/y; echo '*.o' >d11/.btignore; rm d7/f1; echo hard >>d7/hard; \
         mv d4-moved/sub/g1 d4-moved/sub/g2; mv d18 tmp; mv d19 d18; mv tmp d19; touch -d 2001-01-01 d20/f1",
    );
    assert_eq!(backed_up(laptop, "third"), 1);
    assert_eq!(backed_up(laptop, "quiet"), 1);
    assert_eq!(sets(), before, "one set is kept, the newest");
    restic(laptop, &["check", "--read-data"]);

    // Another subvolume in it is another tree to compare.
    root(laptop, "btrfs subvolume create /home/alice/notes/vm && chown alice: /home/alice/notes/vm");
    alice(laptop, "echo disk >notes/vm/disk; rm notes/d1/f1");
    vault(laptop, &["backup", "--tracked"]);
    root(laptop, "btrfs subvolume delete /home/alice/notes/vm");
    vault(laptop, &["backup", "--tracked"]).ends_with(0);
    // A base that somebody removed.
    alice(laptop, "echo more >notes/d2/f2");
    root(laptop, "btrfs subvolume delete /.snapshots/*-session-*");
    assert_eq!(backed_up(laptop, "without"), 0);
    alice(laptop, "echo more >notes/d2/f3");
    assert_eq!(backed_up(laptop, "again"), 1);
    assert_nothing_runs(&[laptop], SOON);
}

#[test]
fn a_vault_in_a_synced_folder_is_not_made_what_the_other_machine_has_there() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    ready(desk);
    configure(laptop, "");
    vault(laptop, &["config", "init", "--name", "desk", "--root", "ssh://desk/home/alice/backups/vault"])
        .ends_with(0);
    vault(laptop, &["init"]).ends_with(0);
    vault(laptop, &["dir", "init", "/home/alice/notes"]).ends_with(0);
    vault(laptop, &["backup", "--tracked"]).ends_with(0);
    let listed = root(desk, "find /home/alice/backups | sort");
    let all = ["--allow-first-sync", "--allow-mass-deletion", "--allow-conflicts"];
    sync(laptop, "desk", &all).ends_with(7).says(&[
        "a vault would be lost",
        "desk: `/home/alice/backups/vault` is a vault",
        "`exclude` in [user-data]",
    ]);
    assert_eq!(root(desk, "find /home/alice/backups | sort"), listed);
    configure(laptop, "[user-data]\nexclude = [\"/alice/backups/\"]\n");
    sync(laptop, "desk", &all).ends_with(0);
    assert_eq!(root(desk, "find /home/alice/backups | sort"), listed);
    vault(laptop, &["check", "--read-data"]).ends_with(0).says(&["sound"]);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn a_backup_by_itself_reads_a_set_that_is_taken_for_it_and_lives_without_one() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    root(laptop, "install -d -o alice -g alice -m 700 /srv/vault");
    vault(laptop, &["config", "init", "--root", "/srv/vault"]).ends_with(0);
    vault(laptop, &["init"]).ends_with(0);
    vault(laptop, &["dir", "init", "/home/alice/notes"]).ends_with(0);
    alice(laptop, "for n in $(seq 30); do head -c 8M /dev/urandom >notes/large-$n; done");
    root(laptop, "echo secret >/home/alice/notes/secret; chmod 600 /home/alice/notes/secret");
    let before = root(laptop, "ls /.snapshots");
    let sum = alice(laptop, "cat notes/large-* | sha256sum");
    let running = laptop.spawn(&vault_line(&["backup", "--tracked"])).unwrap();
    wait_for("packs", BY_THEN, || packs(laptop) >= 1);
    alice(laptop, "for n in $(seq 30); do echo during >notes/large-$n; done");
    ran(running).ends_with(1).says(&[
        "notes/secret",
        "Permission denied",
        "1 file failed",
        "48 new versions",
    ]);
    let sets = |text: &str| text.lines().count();
    assert!(sets(&root(laptop, "ls /.snapshots")) > sets(&before), "the next one compares with this set");
    vault(laptop, &["restore", "/home/alice/notes", "--to", "/tmp/back"]).ends_with(0);
    assert_eq!(alice(laptop, "cat /tmp/back/large-* | sha256sum"), sum, "it is of one moment");
    assert_nothing_runs(&[laptop, desk], SOON);

    root(laptop, "rm /home/alice/notes/secret; mv /etc/sudoers.d/alice /root/");
    let live = vault(laptop, &["backup", "--tracked"]).ends_with(0);
    live.says(&["note: files are read where they lie, not in a snapshot", "sudo", "30 new versions"]);
    root(laptop, "mv /root/alice /etc/sudoers.d/");
    configure(laptop, "[btrfs-snapshots]\nsubvolumes = [\"@none\"]\n");
    alice(laptop, "echo more >notes/more");
    let live = vault(laptop, &["backup", "--tracked"]).ends_with(0);
    live.says(&["note: files are read where they lie, not in a snapshot", "@none", "1 new versions"]);
    configure(laptop, "");
    // Nothing is read but the stage: no set is taken for it.
    alice(laptop, "echo staged >notes/staged");
    vault(laptop, &["add", "/home/alice/notes"]).ends_with(0);
    let staged = vault(laptop, &["backup"]).ends_with(0).says(&["1 new versions"]);
    assert!(!staged.text.contains("note:"), "{}", staged.text);
    assert_nothing_runs(&[laptop], SOON);
}
