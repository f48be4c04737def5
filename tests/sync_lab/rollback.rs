//! Whole subvolumes of the desk go back to what they were before a sync, and forth again.

use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, DiskCache, Machine, Running};
use pc_switcher_testkit::manifest::assert_same_tree;

use crate::hosts::{
    HOME, Ran, SOON, alice, assert_nothing_runs, configure, first_sync, home, identity, lab, picture, root,
    run, sync, wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

#[track_caller]
pub fn rollback(machine: &Machine, words: &[&str]) -> Ran {
    let cmd = Cmd::new("pc-switcher").arg("rollback").args(words.iter().copied());
    run(machine, &cmd.as_alice().timeout(MINUTE))
}

#[track_caller]
pub fn restart(machine: &Machine) {
    machine.sync_disk().unwrap();
    machine.power_cut(DiskCache::Volatile).unwrap();
    machine.boot().unwrap();
}

pub fn session_of(ran: &Ran) -> String {
    ran.stdout.split_once("(session ").unwrap().1[..8].to_owned()
}

/// What stands at the top level of a machine's disk beside the trees that are in place.
pub fn beside(machine: &Machine) -> String {
    root(
        machine,
        "btrfs subvolume list / | cut -d ' ' -f 9 | grep -E '[.](incoming|replaced|cancelled)-' || true",
    )
}

#[test]
fn the_home_goes_back_after_a_restart_and_no_sync_starts_before_that() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo good >letter");
    first_sync(&lab);
    rollback(desk, &["good", "--plan"])
        .ends_with(0)
        .says(&["-postsync", "marked by a sync that was confirmed"]);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "good", "--none"]).as_alice()).ends_with(0);
    rollback(desk, &["good", "--plan"]).ends_with(2).says(&["no set on desk is marked as good"]);
    let store = Cmd::new("pc-switcher").args(["snapshots", "good"]);
    run(desk, &store.as_alice()).ends_with(0).says(&["-manual is the last known good one"]);
    let before = home(desk);
    alice(laptop, "echo bad >letter; mkdir fresh");
    let session = session_of(&sync(laptop, "desk", &[]).ends_with(0));
    let keys = identity(desk);
    let seen = picture(desk);
    rollback(desk, &[&session, "--plan", "--machine", "desk"])
        .ends_with(0)
        .says(&["nothing stands in the way"]);
    assert_eq!(seen.1, picture(desk).1, "a plan makes nothing");

    rollback(desk, &["good", "--plan"]).ends_with(0).says(&[
        "nothing stands in the way",
        "-manual",
        "marked by hand",
    ]);

    let _shell = in_her_home(desk);
    let said = rollback(desk, &[&session, "--subvol", "@home", "--machine", "target"]).ends_with(0);
    said.says(&["desk: `@home` went back to set", "start desk anew", "-prerollback"]);
    assert_eq!(alice(desk, "cat letter; echo late >late"), "bad\n", "what runs works on in the former tree");
    let doctor = run(desk, &Cmd::new("pc-switcher").arg("doctor").as_alice());
    doctor.ends_with(3).says(&["former tree of `@home`", "start the machine anew"]);
    sync(laptop, "desk", &[]).ends_with(7).says(&["former tree of `@home`", "rollback cancel"]);
    rollback(laptop, &["confirm", "--machine", "desk"]).ends_with(7).says(&["start the machine anew"]);
    restart(desk);
    assert_same_tree(&before, &home(desk));
    assert_eq!(identity(desk), keys);
    rollback(laptop, &["status", "--machine", "desk"])
        .ends_with(0)
        .says(&["went back to set", "rollback confirm"]);

    sync(laptop, "desk", &[]).ends_with(7).says(&["--allow-first-sync"]);
    sync(desk, "laptop", &[]).ends_with(7).says(&["--allow-first-sync"]);
    assert_eq!(alice(laptop, "cat letter"), "bad\n", "nothing of the laptop's is lost unasked");
    rollback(desk, &["confirm"]).ends_with(0).says(&["the rollback is kept", "is kept as set"]);
    assert_eq!(beside(desk), "");
    let late = root(desk, "cat /.snapshots/@home-prerollback-*/alice/late");
    assert_eq!(late, "late\n", "what was written before the restart is in a set");
    rollback(desk, &["status"]).ends_with(0).says(&["there is no rollback"]);
    assert_eq!(alice(desk, "cat letter"), "good\n");
    assert_nothing_runs(&[laptop, desk], SOON);
}

/// Alice works on a machine.
fn in_her_home(machine: &Machine) -> Running {
    let shell = machine.spawn(&Cmd::script("exec sleep 3600").as_alice()).unwrap();
    wait_for("alice's shell", MINUTE, || {
        root(machine, "readlink /proc/$(pgrep -f '^sleep 3600' | head -n 1)/cwd || true").trim() == HOME
    });
    shell
}

#[test]
fn a_home_that_nobody_uses_goes_back_at_once_and_one_with_a_shell_in_it_when_that_is_over() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo good >letter");
    first_sync(&lab);
    let before = home(desk);
    alice(laptop, "echo bad >letter; mkdir fresh");
    let session = session_of(&sync(laptop, "desk", &[]).ends_with(0));
    let after = home(desk);
    let to = [session.as_str(), "--subvol", "@home", "--machine", "desk"];
    let mount = || root(desk, "findmnt -rno TARGET,FSROOT,OPTIONS /home | sed 's/subvolid=[0-9]*//'");
    let mounted = mount();

    let planned = rollback(laptop, &[&to[..], &["--plan"]].concat()).ends_with(0);
    assert!(!planned.text.contains("started anew"), "{}", planned.text);
    planned.says(&["`@home` goes back at once: nobody uses it"]);
    let done = rollback(laptop, &to).ends_with(0);
    assert!(!done.text.contains("start desk anew"), "{}", done.text);
    done.says(&["desk: `@home` went back to set", "it is in place now: no restart is needed"]);
    assert_same_tree(&before, &home(desk));
    assert_eq!(mount(), mounted);
    rollback(laptop, &["status", "--machine", "desk"]).ends_with(0).says(&["in place now"]);
    sync(laptop, "desk", &[]).ends_with(7).says(&["--allow-first-sync"]);
    alice(desk, "echo work >work");
    rollback(laptop, &["cancel", "--machine", "desk"]).ends_with(0).says(&[
        "the rollback is taken back",
        "what was done since it is kept",
        "in place now",
    ]);
    assert_same_tree(&after, &home(desk));
    rollback(laptop, &["confirm", "--machine", "desk"]).ends_with(0);
    assert_eq!((beside(desk), mount()), (String::new(), mounted.clone()));

    let shell = in_her_home(desk);
    let named = ["used by `sleep` (pid ", ", alice)"];
    let planned = rollback(laptop, &[&to[..], &["--plan"]].concat()).ends_with(0).says(&named);
    planned.says(&["`@home` needs a restart", "desk would have to be started anew"]);
    let done = rollback(laptop, &to).ends_with(0).says(&named);
    done.says(&["start desk anew", "log out there", "give the same command again"]);
    assert_eq!(alice(desk, "cat letter"), "bad\n");
    rollback(laptop, &to).ends_with(0).says(&named);
    sync(laptop, "desk", &[]).ends_with(7).says(&["former tree of `@home`"]);
    drop(shell);
    // A plan and a look unmount nothing.
    rollback(laptop, &[&to[..], &["--plan"]].concat()).ends_with(7).says(&["is not over"]);
    rollback(laptop, &["status", "--machine", "desk"]).ends_with(0).says(&["start desk anew"]);
    rollback(laptop, &["confirm", "--machine", "desk"])
        .ends_with(7)
        .says(&["still works on the former tree"]);
    assert_eq!(alice(desk, "cat letter"), "bad\n");
    rollback(laptop, &to).ends_with(0).says(&["it is in place now: no restart is needed"]);
    assert_same_tree(&before, &home(desk));
    rollback(laptop, &to).ends_with(7).says(&["is not over"]);
    // What is in place is what the next start finds.
    restart(desk);
    assert_same_tree(&before, &home(desk));
    assert_eq!(mount(), mounted);
    rollback(laptop, &["confirm", "--machine", "desk"]).ends_with(0).says(&["the rollback is kept"]);
    assert_eq!(beside(desk), "");
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn a_state_that_was_gone_back_behind_is_no_good_one_any_more() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[rollback]\ndeadman = \"always\"\ndeadman_limit = 3600\n");
    first_sync(&lab);
    let is_marked =
        || rollback(desk, &["good", "--plan"]).ends_with(0).says(&["by a sync that was confirmed"]);
    let unmarked = ["is not marked as good any more"];
    for word in ["undo", "rollback"] {
        alice(laptop, &format!("echo {word} >letter"));
        let session =
            session_of(&sync(laptop, "desk", &["--allow-conflicts", "--allow-first-sync"]).ends_with(0));
        is_marked();
        if word == "undo" {
            let undo = Cmd::new("pc-switcher").arg("undo").as_alice().timeout(MINUTE);
            run(desk, &undo).ends_with(0).says(&unmarked);
        } else {
            rollback(desk, &[&session, "--subvol", "@home", "--machine", "target"]).ends_with(0);
            restart(desk);
            let confirmed = rollback(desk, &["confirm", "--json"]).ends_with(0);
            let confirmed: serde_json::Value = serde_json::from_str(&confirmed.stdout).unwrap();
            assert_eq!(confirmed["unmarked"].as_array().unwrap().len(), 1, "{confirmed:#}");
        }
        rollback(desk, &["good", "--plan"]).ends_with(2).says(&["no set on desk is marked as good"]);
    }
}

#[test]
fn the_whole_system_goes_back_remembers_who_it_is_and_can_be_put_back() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(
        desk,
        "mkdir -p /boot/grub/i386-pc; echo old >/boot/grub/i386-pc/normal.mod; echo menu >/boot/grub/grub.cfg",
    );
    let session = session_of(&first_sync(&lab));
    // As `grub-install` does, which writes the core of the same version in front of the disk.
    root(desk, "echo new >/boot/grub/i386-pc/normal.mod; echo menu with more >/boot/grub/grub.cfg");
    let grub = "cd /boot/grub; cat i386-pc/normal.mod grub.cfg";
    root(desk, "echo broken >/etc/motd; echo key-made-since >>/home/alice/.ssh/authorized_keys.new");
    let who = "cat /etc/machine-id /etc/hostname /etc/ssh/ssh_host_*; cat /home/alice/.ssh/authorized_keys*";
    let (before, motd) = (root(desk, who), root(desk, "cat /etc/motd"));
    let after = home(desk);
    rollback(laptop, &[&session, "--machine", "desk"])
        .ends_with(0)
        .says(&["`@`, `@home`, `@root` went back"]);
    restart(desk);
    assert_ne!(root(desk, "cat /etc/motd 2>/dev/null || true"), motd);
    assert_eq!(root(desk, who), before);
    assert_eq!(
        root(desk, grub),
        "new\nmenu\n",
        "modules are of the version of their core, menus of their kernels"
    );
    // The program was not there before the first sync, and is carried along.
    rollback(desk, &["cancel"]).ends_with(0).says(&[
        "taken back",
        "what was done since it is kept",
        "start desk anew",
    ]);
    restart(desk);
    assert_eq!((root(desk, "cat /etc/motd"), root(desk, who)), (motd, before));
    assert_same_tree(&after, &home(desk));
    root(desk, "pc-switcher agent --redo");
    assert!(beside(desk).contains(".cancelled-"), "what was written before the restart is there still");
    rollback(desk, &["confirm"]).ends_with(0).says(&["what the rollback had put in place is removed"]);
    assert_eq!(beside(desk), "");
    // The common past is there again as well.
    sync(laptop, "desk", &[]).ends_with(0);
}

#[test]
fn what_stands_in_the_way_of_a_rollback_is_named_and_nothing_is_made() {
    let Some(lab) = lab() else { return };
    let desk = lab.desk();
    let session = session_of(&first_sync(&lab));
    alice(desk, "btrfs -q subvolume create vms");
    let id = root(desk, "btrfs inspect-internal rootid /home");
    root(desk, &format!("echo 'UUID=x /home btrfs subvol=@home,subvolid={} 0 0' >>/etc/fstab", id.trim()));
    root(desk, "echo 'tmpfs /home/alice/vms/tmp tmpfs defaults 0 0' >>/etc/fstab");
    // Both machines are meant, and neither is touched if one of them is not ready.
    rollback(desk, &[&session]).ends_with(7).says(&[
        "desk: `/home/alice/vms` is a subvolume inside of `@home` that cannot come along",
        "`/etc/fstab` mounts `/home/alice/vms/tmp` before it could come",
        "`/etc/fstab` mounts `/home` by the number of the present tree",
    ]);
    assert_eq!((beside(desk), beside(lab.laptop())), (String::new(), String::new()));
    rollback(desk, &["00000000"]).ends_with(2).says(&["there is no set, session or name `00000000`"]);
    rollback(desk, &[&session, "--subvol", "@nix"]).ends_with(2).says(&["does not hold `@nix`", "`@home`"]);
    rollback(desk, &["cancel"]).ends_with(1).says(&["there is no rollback"]);
}

/// What a machine says of its rollback.
pub fn phase(machine: &Machine) -> String {
    let ran = run(machine, &Cmd::new("pc-switcher").args(["rollback", "status", "--json"]).as_alice());
    let said: serde_json::Value = serde_json::from_str(&ran.ends_with(0).stdout).unwrap();
    said["phase"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn both_machines_go_back_by_one_decision() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo good >letter");
    // What the desk calls itself is nothing that ssh of the laptop knows.
    let known =
        "Host office\n  HostName desk\n  HostKeyAlias desk\n  User alice\nHost desk\n  ProxyCommand false\n";
    laptop.write_file("/home/alice/.ssh/config", known.as_bytes(), 0o600, "alice").unwrap();
    sync(laptop, "office", &["--allow-first-sync"]).ends_with(0);
    alice(laptop, "echo bad >letter");
    let session = session_of(&sync(laptop, "office", &[]).ends_with(0));
    alice(laptop, "echo worse >letter");
    rollback(laptop, &[&session, "--plan"])
        .ends_with(0)
        .says(&["laptop: nothing stands", "desk: nothing stands"]);
    rollback(laptop, &[&session, "--subvol", "@home"])
        .ends_with(0)
        .says(&["laptop: `@home` went back", "desk: `@home` went back"]);
    // The home here is that of whoever asks, and there it is in place: the same again is no other rollback.
    rollback(laptop, &[&session, "--subvol", "@home"]).ends_with(0).says(&[
        "start laptop anew",
        "give the same command again",
        "desk: `@home` went back",
        "it is in place now",
    ]);
    restart(laptop);
    restart(desk);
    assert_eq!((alice(laptop, "cat letter"), alice(desk, "cat letter")), ("bad\n".into(), "good\n".into()));
    sync(laptop, "office", &[]).ends_with(7).says(&["--allow-first-sync"]);
    sync(laptop, "office", &["--allow-first-sync"]).ends_with(0);
    assert_eq!(alice(desk, "cat letter"), "bad\n");
}

/// Spoils a machine as a bad day does: sshd's configuration, files that it needs, and a package that is half installed.
fn spoil(machine: &Machine) {
    root(
        machine,
        "echo Nonsense yes >>/etc/ssh/sshd_config; rm /etc/profile /usr/bin/whoami; \
         mkdir -p /root/bad/DEBIAN; cd /root/bad; \
         printf 'Package: bad\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: bad\\n' >DEBIAN/control; \
         printf '#!/bin/sh\\nexit 1\\n' >DEBIAN/postinst; chmod 755 DEBIAN/postinst; \
         dpkg-deb --build /root/bad /root/bad.deb; ! dpkg -i /root/bad.deb; dpkg --audit | grep -q bad; ! sshd -t",
    );
}

#[track_caller]
fn assert_is_well(machine: &Machine) {
    root(machine, "sshd -t && [ -z \"$(dpkg --audit)\" ] && [ -e /etc/profile ] && whoami");
}

#[test]
fn both_machines_go_back_from_a_sync_after_which_sshd_files_and_packages_were_broken() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo good >letter");
    first_sync(&lab);
    alice(laptop, "echo bad >letter; rm -r names");
    let session = session_of(&sync(laptop, "desk", &[]).ends_with(0));
    assert!(!desk.exists("/home/alice/names").unwrap());
    [laptop, desk].into_iter().for_each(spoil);
    rollback(laptop, &[&session]).ends_with(0).says(&["laptop: `@`", "desk: `@`", "went back"]);
    for machine in [laptop, desk] {
        restart(machine);
        assert_is_well(machine);
        rollback(machine, &["confirm"]).ends_with(0);
    }
    assert_eq!((alice(laptop, "cat letter"), alice(desk, "cat letter")), ("bad\n".into(), "good\n".into()));
    assert!(desk.exists("/home/alice/names").unwrap() && !laptop.exists("/home/alice/names").unwrap());
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn the_system_goes_back_by_itself_unless_somebody_confirms_the_rollback_after_the_restart() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice()).ends_with(0);
    let to_good = |words: &[&str]| rollback(desk, &[&["good", "--subvol", "@"], words].concat()).ends_with(0);
    let motd = || root(desk, "cat /etc/motd 2>/dev/null || true");
    let write = |word: &str| root(desk, &format!("echo {word} >/etc/motd"));
    // What the unit of the boot starts where there is systemd.
    let start_anew = || {
        restart(desk);
        root(desk, "pc-switcher agent --redo 2>&1").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let by_itself = "was taken back by this machine itself";

    write("one");
    to_good(&["--plan"]).says(&["confirm it within 10 min of that restart"]);
    to_good(&[]).says(&["start desk anew", "confirm it within 10 min of that restart", "--keep-former"]);
    let said = start_anew();
    assert!(said.contains("10 min are left to confirm it"), "{said}");
    assert_ne!(motd(), "one\n");
    rollback(desk, &["status"]).ends_with(0).says(&["left to confirm it", "rollback confirm"]);
    sync(laptop, "desk", &[]).ends_with(7).says(&["waits for somebody", "left to confirm it"]);
    let said = start_anew();
    assert!(said.contains(by_itself) && said.contains("was started anew before anybody"), "{said}");
    // It works on what was gone back to until the next restart: it is not too late.
    rollback(desk, &["confirm"]).ends_with(0).says(&["the rollback is kept"]);
    assert_eq!(beside(desk), "");

    configure(desk, "[rollback]\nrestart_limit = 5\n");
    write("two");
    to_good(&[]).says(&["confirm it within 5 s"]);
    start_anew();
    assert_ne!(motd(), "two\n");
    wait_for("way back", MINUTE, || phase(desk) == "cancelled");
    assert_nothing_runs(&[desk], SOON);
    let why = "nobody confirmed it within 5 s";
    rollback(desk, &["status"]).ends_with(0).says(&[by_itself, why, "keeps them after all"]);
    for verb in ["status", "history"] {
        run(desk, &Cmd::new("pc-switcher").arg(verb).as_alice()).ends_with(0).says(&[by_itself]);
    }
    start_anew();
    assert_eq!(motd(), "two\n");
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0).says(&[by_itself, why]);
    rollback(desk, &["confirm"]).ends_with(0).says(&["what the rollback had put in place is removed"]);
    assert_eq!(beside(desk), "");

    to_good(&["--boot-once"]).says(&["it holds for one start"]);
    start_anew();
    assert_ne!(motd(), "two\n");
    start_anew();
    assert_eq!(motd(), "two\n");
    rollback(desk, &["status"]).ends_with(0).says(&[by_itself, "it was to hold for one start"]);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn a_plan_warns_of_a_table_of_mounts_that_goes_back() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    let ask = |args: &[&str]| run(laptop, &Cmd::new("pc-switcher").args(args.iter().copied()).as_alice());
    root(laptop, "echo 'UUID=gone-0 /data ext4 defaults 0 2' >/etc/fstab");
    ask(&["snapshots", "create", "before"]).ends_with(0);
    let digest = ask(&["snapshots", "show", "before"]).ends_with(0);
    assert!(digest.text.contains("fstab     state "), "{}", digest.text);
    rollback(laptop, &["before", "--plan"]).ends_with(0).says(&["mounts `UUID=gone-0` at `/data`"]);
    root(laptop, "echo 'UUID=gone-0 /older ext4 noauto 0 2' >/etc/fstab");
    let plan = rollback(laptop, &["before", "--plan"]).ends_with(0);
    plan.says(&[
        "nothing stands in the way",
        "`/etc/fstab` goes back too",
        "it does not mount `/older`; it still mounts `/data`",
    ]);
    let home = rollback(laptop, &["before", "--plan", "--subvol", "@home"]).ends_with(0);
    assert!(!home.text.contains("fstab"), "it does not go back with a home: {}", home.text);
}
