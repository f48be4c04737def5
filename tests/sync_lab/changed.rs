//! Only what changed is compared after the first sync: places where the two machines differ on purpose, or share inodes.

use crate::hosts::{alice, assert_moved, configure, first_sync, lab, root, run, sync};

/// The other listings stay as they are: whoever looks into a directory moves its time of access.
const QUIET: &str = "mount -o remount,noatime / /home 2>/dev/null; mount -o remount,noatime /home";

#[test]
fn a_directory_that_is_left_alone_stays_though_somebody_works_in_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(desk, QUIET);
    configure(laptop, "[user-data]\nnested = \"skip\"\n");
    alice(laptop, "mkdir -p vm/n1 vm/n2; echo x >vm/n1/f; echo y >vm/n2/f");
    first_sync(&lab);
    root(laptop, "mv /home/alice/vm /home/alice/vm.old; btrfs subvolume create /home/alice/vm");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_eq!(alice(desk, "cat vm.old/n1/f vm/n1/f"), "x\nx\n");
    for touch in ["touch -a vm/n2", "chmod 711 vm/n2"] {
        alice(desk, touch);
        sync(laptop, "desk", &[]).ends_with(0);
        assert_eq!(alice(desk, "cat vm/n1/f vm/n2/f"), "x\ny\n", "after `{touch}`");
    }
}

#[test]
fn a_kept_directory_is_in_nobodys_way() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(desk, QUIET);
    configure(laptop, "[user-data]\nexclude = [\"*.lock\"]\n");
    alice(laptop, "mkdir -p app/deep/er; echo x >app/deep/er/f");
    first_sync(&lab);
    alice(desk, "touch app/deep/er/one.lock");
    alice(laptop, "rm -r app");
    sync(laptop, "desk", &["--allow-mass-deletion", "--allow-conflicts"]).ends_with(0);
    assert_eq!(alice(desk, "ls app/deep/er"), "one.lock\n");
    for word in ["two", "three"] {
        alice(desk, &format!("touch app/deep/er/{word}.lock"));
        sync(laptop, "desk", &[]).ends_with(0);
    }
    alice(desk, "rm app/deep/er/*.lock");
    sync(laptop, "desk", &[]).ends_with(0);
    assert!(!desk.exists("/home/alice/app").unwrap());
}

#[test]
fn hard_links_stay_together_when_a_directory_is_renamed_on_either_machine() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir a h1 h2 h3; echo x >h2/f; ln h2/f a/f; echo y >h1/g; ln h1/g h3/g");
    first_sync(&lab);
    alice(laptop, "mv a a9; mv h1 h9");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
    alice(desk, "mv h2 h0");
    run(desk, &crate::hosts::line("laptop", &[])).ends_with(0);
    assert_moved(desk, laptop);
}

#[test]
fn folders_whose_names_begin_alike_and_another_tree_at_the_same_place_are_told_apart() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    for machine in [laptop, desk] {
        root(machine, "mkdir -p /root/p1 /root/p2 /srv/d; mount --bind /root/p1 /srv/d");
    }
    root(laptop, "echo one >/root/p1/f; echo two >/root/p2/f; touch -d 2001-01-01 /root/p2/f");
    alice(laptop, "mkdir do docs; echo x >do/f; echo y >docs/f");
    configure(laptop, "[user-data]\nfolders = [\"/home/alice/do\", \"/home/alice/docs\", \"/srv/d\"]\n");
    alice(desk, "mkdir -p do docs");
    first_sync(&lab);
    assert_eq!(root(desk, "cat /srv/d/f /home/alice/docs/f"), "one\ny\n");
    root(laptop, "umount /srv/d; mount --bind /root/p2 /srv/d");
    alice(laptop, "echo more >docs/g");
    sync(laptop, "desk", &["--allow-first-sync", "--allow-replaced-source"]).ends_with(0);
    assert_eq!(root(desk, "cat /srv/d/f /home/alice/docs/g"), "two\nmore\n");
}

/// Thousands of files go into one frame when hardly anything of each does, and each is made of a version on the desk.
#[test]
fn thousands_of_touched_files_go_over_with_few_descriptors() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir many; head -c 20000000 /dev/urandom | split -b 5000 -a 4 - many/");
    first_sync(&lab);
    root(desk, "for pid in $(pgrep -x sshd); do prlimit --nofile=512:512 --pid $pid; done");
    alice(laptop, "touch many/*; echo more >>many/aaaa");
    sync(laptop, "desk", &[]).ends_with(0).says(&["4000 changed"]);
    assert_moved(laptop, desk);
}

/// Files below keep all their times when a directory above them gets another name, and other rules mean that everything is compared.
#[test]
fn two_directories_that_change_places_are_told_apart_by_more_than_sizes_and_times() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir a b; echo one >a/f; echo two >b/f; touch -d 2001-01-01 a/f b/f");
    first_sync(&lab);
    alice(laptop, "mv a x; mv b a; mv x b");
    configure(laptop, "[user-data]\nexclude = [\"*.tmp\"]\n");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_eq!(alice(desk, "cat a/f b/f"), "two\none\n");
    assert_moved(laptop, desk);
}

#[test]
fn a_file_that_cannot_come_over_is_named_and_counted() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo x >thing");
    root(desk, "mknod /home/alice/thing c 1 3");
    let said = ["`/home/alice/thing` is left alone: a device node", "but for 1 path left as told"];
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0).says(&said);
    root(desk, "rm /home/alice/thing");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_eq!(alice(desk, "cat thing"), "x\n");
}

#[test]
fn a_directory_that_somebody_closes_on_the_target_is_asked_about_and_an_image_stays_without_copy_on_write() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "mkdir private images; touch images/disk; chattr +C images/disk; head -c 3000000 /dev/urandom >>images/disk",
    );
    first_sync(&lab);
    assert!(root(desk, "lsattr /home/alice/images/disk").contains('C'));
    alice(desk, "chmod 700 private");
    alice(laptop, "chmod 750 private; echo x >private/f");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/private", "--allow-conflicts"]);
    assert_eq!(alice(desk, "stat -c %a private"), "700\n");
}
