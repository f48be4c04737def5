//! What both machines had in common is what was compared: neither what lies elsewhere now, nor what was left alone.

use pc_switcher_testkit::lab::{Lab, Machine};

use crate::hosts::{alice, assert_moved, configure, first_sync, lab, root, sync};

/// Mounts a subvolume of the machine's disk.
fn mount(machine: &Machine, subvolume: &str, point: &str) {
    let disk = "$(findmnt -no SOURCE / | cut -d[ -f1)";
    root(machine, &format!("mount -o subvol=/{subvolume} {disk} {point}"));
}

#[test]
fn a_home_on_another_subvolume_than_last_time_is_asked_about() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir proj; echo old >proj/f");
    first_sync(&lab);
    root(
        laptop,
        "mkdir -p /mnt/top; mount -o subvolid=5 $(findmnt -no SOURCE / | cut -d[ -f1) /mnt/top; \
         btrfs -q subvolume snapshot /mnt/top/@home /mnt/top/@home-restored",
    );
    alice(laptop, "echo new >proj/f; echo x >proj/more");
    sync(laptop, "desk", &[]).ends_with(0);
    root(laptop, "umount -l /home");
    mount(laptop, "@home-restored", "/home");
    let named = ["/home", "lies on `@home-restored` now", "lay on `@home`", "--allow-replaced-source"];
    sync(laptop, "desk", &[]).ends_with(7).says(&named);
    assert_eq!(alice(desk, "cat proj/f proj/more"), "new\nx\n");
}

#[test]
fn what_is_not_mounted_on_either_machine_is_asked_about() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(laptop, "echo work >/root/work");
    first_sync(&lab);
    root(laptop, "umount -l /root; echo stub >/root/.bash_history");
    sync(laptop, "desk", &[]).ends_with(7).says(&["laptop: `/root` lies on `@` as", "mounted?"]);
    mount(laptop, "@root", "/root");
    root(desk, "umount -l /root");
    root(laptop, "echo more >/root/work");
    sync(laptop, "desk", &[]).ends_with(7).says(&["desk: `/root` lies on `@` as", "mounted?"]);
    assert_eq!(root(desk, "ls -A /root"), "");
    mount(desk, "@root", "/root");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_eq!(root(desk, "cat /root/work"), "more\n");
}

#[test]
fn what_stays_because_it_holds_a_key_does_not_come_back_over_the_other_machines_work() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir -p pr/.ssh; echo a >pr/f");
    first_sync(&lab);
    alice(desk, "echo key >pr/.ssh/id_rsa");
    alice(laptop, "rm -r pr; echo notes >pr");
    sync(laptop, "desk", &[]).ends_with(0).says(&["`/home/alice/pr` stays"]);
    sync(desk, "laptop", &[]).ends_with(7).says(&["/home/alice/pr", "--allow-conflicts"]);
    assert_eq!(alice(laptop, "cat pr"), "notes\n");
}

#[test]
fn a_directory_that_stays_because_of_what_is_not_mirrored_is_no_conflict() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(desk, "pc-switcher init; mkdir -p .mozilla/x .local/share/Trash/files; : >.mozilla/x/lock");
    alice(laptop, "echo more >more");
    sync(laptop, "desk", &[]).ends_with(0).says(&["stays"]);
    assert_eq!(
        alice(desk, "cat more; ls -A .config/pc-switcher .mozilla/x"),
        "more\n.config/pc-switcher:\nconfig.toml\n\n.mozilla/x:\nlock\n"
    );
    // A file that somebody made beside it is one.
    alice(desk, "echo mine >.mozilla/mine");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/.mozilla/mine", "--allow-conflicts"]);
}

#[test]
fn what_was_left_alone_is_not_deleted_when_the_reason_is_gone() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[user-data]\nnested = \"skip\"\n");
    alice(laptop, "btrfs -q subvolume create vms");
    alice(desk, "mkdir vms; echo mine >vms/disk");
    first_sync(&lab);
    assert_eq!(alice(desk, "cat vms/disk"), "mine\n");
    root(laptop, "btrfs -q subvolume delete /home/alice/vms");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/vms/disk", "--allow-conflicts"]);
    assert_eq!(alice(desk, "cat vms/disk"), "mine\n");
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn what_lies_under_a_mount_of_either_machine_is_left_alone_in_a_dry_run_as_in_a_real_one() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir -p nas/local; echo x >nas/local/f");
    first_sync(&lab);
    alice(laptop, "rm -r nas/local");
    root(laptop, "mount -t tmpfs none /home/alice/nas");
    alice(desk, "echo y >nas/local/g");
    for flags in [&["--dry-run"][..], &[]] {
        sync(laptop, "desk", flags).ends_with(0).says(&["`/home/alice/nas` (tmpfs)", "nothing"]);
    }
    assert_eq!(alice(desk, "cat nas/local/f nas/local/g"), "x\ny\n");
    sync(desk, "laptop", &[]).ends_with(0);
    root(laptop, "umount /home/alice/nas");
    assert_eq!(alice(laptop, "ls -A nas"), "");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/nas/local/g", "--allow-conflicts"]);
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
}

#[test]
fn the_same_made_on_both_machines_at_other_times_is_no_conflict() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "ln -s one link");
    first_sync(&lab);
    for machine in [laptop, desk] {
        alice(machine, "mkdir made; : >empty; ln -s nowhere new; ln -sfn two link; mkfifo pipe; sleep 1.1");
    }
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn other_rules_than_last_time_ask_only_about_what_they_bring_in() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[user-data]\nexclude = [\"*.iso\", \"vm/\"]\n");
    for machine in [laptop, desk] {
        let name = machine.hostname();
        alice(machine, &format!("mkdir -p vm/disks; echo {name} >system.iso; echo {name} >vm/disks/one"));
    }
    alice(laptop, "echo draft >thesis");
    first_sync(&lab);
    // More is left out: nothing comes in.
    configure(laptop, "[user-data]\nexclude = [\"*.iso\", \"vm/\", \"*.tmp\"]\n");
    alice(laptop, "echo final >thesis; echo x >x.tmp");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_eq!(
        alice(desk, "cat thesis; ls x.tmp 2>&1 || true"),
        "final\nls: cannot access 'x.tmp': No such file or directory\n"
    );
    configure(laptop, "[user-data]\nexclude = [\"*.tmp\"]\n");
    let named = ["/home/alice/system.iso", "/home/alice/vm/disks/one", "--allow-conflicts"];
    let ran = sync(laptop, "desk", &[]).ends_with(7).says(&named);
    assert!(!ran.text.contains("--allow-first-sync"), "{}", ran.text);
    assert_eq!(alice(desk, "cat system.iso vm/disks/one"), "desk\ndesk\n");
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_eq!(alice(desk, "cat system.iso vm/disks/one"), "laptop\nlaptop\n");
    // The way back has the desk's rules, the defaults: `*.tmp` comes in, and the laptop has one.
    sync(desk, "laptop", &[]).ends_with(7).says(&["/home/alice/x.tmp"]);
}

/// Both machines forget each other.
fn forget(lab: &Lab) {
    [lab.laptop(), lab.desk()]
        .into_iter()
        .for_each(|machine| drop(root(machine, "rm -r /var/lib/pc-switcher/pairs")));
}

#[test]
fn where_nobody_remembers_a_sync_digests_tell_which_directories_differ() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "mkdir -p many; cd many; for n in $(seq 60); do mkdir -p $n/deep; echo $n >$n/deep/file; echo $n >$n/top; done; \
         ln 1/top 2/deep/second; mkfifo 3/pipe; ln -s nowhere 4/link",
    );
    first_sync(&lab);
    forget(&lab);
    // Nothing differs but what each machine has for itself, and each kind of difference.
    let first = ["--allow-first-sync"];
    sync(laptop, "desk", &first).ends_with(0).says(&["nothing to change"]);
    forget(&lab);
    alice(
        laptop,
        "cd many; echo new >5/deep/file; chmod 600 6/deep/file; rm 7/top; mkdir 8/more; echo x >8/more/x; mv 9 nine; \
         echo both >2/deep/second; ln -sf elsewhere 4/link; touch -d 2020-01-01 10/deep; setfattr -n user.a -v b 11/top",
    );
    alice(
        desk,
        "cd many; echo desk >12/deep/own; rm -r 13; echo other >14/deep/file; mkdir 15/top2; touch 15/top2/f",
    );
    let ran = sync(laptop, "desk", &[&first[..], &["--log-level", "FULL"]].concat()).ends_with(0);
    ran.says(&["directories of `/home` may differ, by their digests"]);
    assert_moved(laptop, desk);
    sync(laptop, "desk", &[]).ends_with(0).says(&["nothing to change"]);
    root(laptop, "echo '{ torn' >$(ls /var/lib/pc-switcher/pairs/*.json)");
    root(desk, "echo '{ torn' >$(ls /var/lib/pc-switcher/pairs/*.json)");
    sync(laptop, "desk", &[]).ends_with(7).says(&["its record cannot be read", "--allow-first-sync"]);
}

#[test]
fn people_whose_numbers_differ_are_asked_about() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(laptop, "useradd -m -u 1801 bert");
    root(desk, "useradd -m -u 1802 bert");
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(7).says(&[
        "bert",
        "1801",
        "1802",
        "--allow-id-mismatch",
    ]);
    assert_eq!(root(desk, "stat -c %u /home/bert").trim(), "1802");
    sync(laptop, "desk", &["--allow-first-sync", "--allow-id-mismatch"]).ends_with(0);
    assert_eq!(root(desk, "stat -c %u /home/bert").trim(), "1801", "numbers go over as they are");
}
