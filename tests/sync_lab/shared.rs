//! Files that share their content on one machine share it on the other, between two machines.

use pc_switcher_testkit::{lab::Machine, seed::Random};

use crate::hosts::{alice, assert_moved, first_sync, lab, root, run, sync};

/// Bytes that came over the network so far.
fn received(machine: &Machine) -> u64 {
    let all = "cat /sys/class/net/*/statistics/rx_bytes | awk '{ sum += $1 } END { print sum }'";
    root(machine, all).trim().parse().unwrap()
}

/// Bytes that files alone hold, and those that they share with one another.
fn held(machine: &Machine, files: &str) -> [u64; 2] {
    let text = root(machine, &format!("sync; btrfs filesystem du --raw -s /home/alice/{files} | tail -n 1"));
    let words: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    [words[1], words[2]]
}

#[test]
fn twenty_copies_of_an_image_go_over_once_and_a_copy_of_what_is_there_costs_next_to_nothing() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "mkdir vms && head -c 64M /dev/urandom >vms/base.img && cd vms && \
         for n in $(seq 20); do cp --reflink=always base.img a-$n.img; done; \
         dd if=/dev/urandom of=a-7.img bs=4k count=20 seek=300 conv=notrunc status=none",
    );
    let so_far = received(desk);
    first_sync(&lab);
    let bytes = received(desk) - so_far;
    assert!(bytes < 130 << 20, "{bytes} bytes came for a home with one image of 64 MiB");
    assert_moved(laptop, desk);
    let [exclusive, shared] = held(desk, "vms");
    assert!(exclusive + shared < 80 << 20, "{exclusive} and {shared} bytes on the disk");

    // A copy of an image that the desk has, taken before that changed; and one of which a part was written anew.
    alice(
        laptop,
        "cd vms && cp --reflink=always base.img new.img && cp --reflink=always base.img part.img && \
         dd if=/dev/urandom of=base.img bs=4k count=8 seek=40 conv=notrunc status=none && \
         dd if=/dev/urandom of=part.img bs=4k count=8 seek=4000 conv=notrunc status=none && touch -d 2001-01-01 part.img",
    );
    let so_far = received(desk);
    sync(laptop, "desk", &[]).ends_with(0).says(&["2 new, 1 changed", "64.0 KiB"]);
    let bytes = received(desk) - so_far;
    assert!(bytes < 1 << 20, "{bytes} bytes for two copies of 64 MiB");
    assert_moved(laptop, desk);
    let [exclusive, shared] = held(desk, "vms");
    assert!(exclusive + shared < 80 << 20, "{exclusive} and {shared} bytes on the disk");
    // And back.
    alice(desk, "cp --reflink=always vms/part.img again.img; rm vms/base.img");
    run(desk, &crate::hosts::line("laptop", &[])).ends_with(0);
    assert_moved(desk, laptop);
}

#[test]
fn a_large_file_that_moved_and_changed_or_has_several_names_goes_over_as_what_changed() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "mkdir vms old && head -c 32M /dev/urandom >vms/disk.img && head -c 16M /dev/urandom >old/one && ln old/one old/two",
    );
    first_sync(&lab);
    let write = "dd if=/dev/urandom bs=4k conv=notrunc status=none";
    alice(
        laptop,
        &format!(
            "mkdir new; mv vms/disk.img new/moved.img; {write} of=new/moved.img count=10 seek=500; {write} of=old/two count=6 seek=77"
        ),
    );
    let so_far = received(desk);
    sync(laptop, "desk", &[]).ends_with(0).says(&["64.0 KiB"]);
    let bytes = received(desk) - so_far;
    assert!(bytes < 1 << 20, "{bytes} bytes");
    assert_moved(laptop, desk);
}

#[test]
fn names_of_a_file_with_several_move_and_its_content_stays_where_it_is() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "mkdir a b; head -c 8M /dev/urandom >a/one; ln a/one a/two; ln a/one b/three; echo other >b/four; ln b/four b/five",
    );
    first_sync(&lab);
    let inode = |path: &str| alice(desk, &format!("stat -c '%i %h' {path}"));
    let before = [inode("a/one"), inode("b/four")];
    // One name, both names, all names; over another one, and one that comes besides.
    alice(laptop, "mv a/one b/moved; mv a/two a/zwei; mv b/five a/one; mv b/four b/vier; mv b/three b/drei");
    let so_far = received(desk);
    sync(laptop, "desk", &[]).ends_with(0).says(&["5 moved"]);
    let bytes = received(desk) - so_far;
    assert!(bytes < 1 << 20, "{bytes} bytes");
    assert_eq!(before, [inode("b/drei"), inode("a/one")]);
    assert_moved(laptop, desk);
    alice(desk, "mv b/drei three; ln three four; rm a/zwei; echo more >>a/one; mv a/one a/eins");
    run(desk, &crate::hosts::line("laptop", &[])).ends_with(0);
    assert_moved(desk, laptop);
    run(desk, &crate::hosts::line("laptop", &[])).ends_with(0).says(&["nothing"]);
}

#[test]
fn of_an_image_that_both_machines_had_before_only_the_blocks_that_differ_go_over() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    // The same on both machines, but for a few blocks; no sync has ever brought it over.
    let image = Random::new(12).bytes(128 << 20);
    for machine in [laptop, desk] {
        machine.write_file("/home/alice/disk.img", &image, 0o644, "alice").unwrap();
    }
    let write = "dd if=/dev/urandom of=disk.img bs=64k conv=notrunc status=none count=1";
    alice(
        laptop,
        &format!("for n in $(seq 20); do {write} seek=$((n * 97)); done; truncate -s 127M disk.img"),
    );
    alice(desk, "touch -d 2001-01-01 disk.img");
    let so_far = received(desk);
    sync(laptop, "desk", &["--allow-first-sync", "--allow-conflicts"]).ends_with(0);
    let bytes = received(desk) - so_far;
    assert!(bytes < 40 << 20, "{bytes} bytes for a home and 1.3 MB of an image of 127 MiB");
    assert_moved(laptop, desk);
}
