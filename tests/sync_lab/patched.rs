//! Large files that changed a little, between two machines.

use pc_switcher_testkit::lab::Machine;

use crate::hosts::{alice, assert_moved, first_sync, lab, root, sync};

/// Overwrites blocks of a file without another size.
const WRITE: &str = "dd if=/dev/urandom bs=4k conv=notrunc status=none";

/// What the last sync that was typed here says of how it compared what it wrote.
fn compared(machine: &Machine) -> String {
    let lines = alice(
        machine,
        "grep -rlI 'by what changed in them' .local/state/pc-switcher | xargs ls -t | head -n 1 | xargs grep -h 'by what changed in them' | tail -n 1",
    );
    assert!(!lines.is_empty(), "no sync says how it compared");
    lines
}

/// Bytes that came from the disk of the machine so far.
fn read(machine: &Machine) -> u64 {
    let disk = "cat /sys/class/block/$(findmnt -no SOURCE -T /home | sed 's|/dev/||; s|\\[.*||')/stat";
    root(machine, &format!("{disk} | awk '{{ printf \"%.0f\", $3 * 512 }}'")).trim().parse().unwrap()
}

#[test]
fn of_an_image_that_is_proven_both_machines_read_what_changed_and_nothing_else() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir vms && head -c 256M /dev/urandom >vms/disk.img");
    first_sync(&lab);
    let mut so_far = [read(laptop), read(desk)];
    for (from, to, name) in [(laptop, desk, "desk"), (laptop, desk, "desk"), (desk, laptop, "laptop")] {
        alice(from, &format!("{WRITE} of=vms/disk.img count=64 seek=1000; sync"));
        alice(from, "fallocate -p -o 20M -l 2M vms/disk.img; printf end >>vms/disk.img");
        sync(from, name, &[]).ends_with(0).says(&["1 changed"]);
        let now = [read(laptop), read(desk)];
        for (now, before) in now.iter().zip(so_far) {
            assert!(now - before < 64 << 20, "{} bytes came from a disk", now - before);
        }
        assert!(compared(from).contains("0 were compared whole, 1 by what"), "{}", compared(from));
        assert_moved(from, to);
        so_far = [read(laptop), read(desk)];
    }
}

#[test]
fn an_image_that_was_not_what_it_seemed_or_whose_proof_is_gone_is_compared_whole() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "head -c 4M /dev/urandom >disk.img");
    first_sync(&lab);
    // A person works on the image there, and sets its times back.
    alice(
        desk,
        &format!(
            "touch -r disk.img then; {WRITE} of=disk.img count=1 seek=9; touch -r then disk.img; rm then"
        ),
    );
    alice(laptop, &format!("{WRITE} of=disk.img count=1 seek=20"));
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/disk.img"]);
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert!(compared(laptop).contains("1 were compared whole, 0 by what"), "{}", compared(laptop));
    assert_moved(laptop, desk);
    for damage in
        ["rm", "truncate -s 90", "sed -i s/session/cession/", "sed -i 's/\"format\":1/\"format\":9/'"]
    {
        alice(laptop, &format!("{WRITE} of=disk.img count=1 seek=20"));
        sync(laptop, "desk", &[]).ends_with(0);
        assert!(compared(laptop).contains("0 were compared whole, 1 by what"), "{}", compared(laptop));
        root(laptop, &format!("{damage} /var/lib/pc-switcher/proven/*.json"));
        alice(laptop, &format!("{WRITE} of=disk.img count=1 seek=30"));
        sync(laptop, "desk", &[]).ends_with(0);
        assert!(
            compared(laptop).contains("1 were compared whole, 0 by what"),
            "{damage}: {}",
            compared(laptop)
        );
        assert_moved(laptop, desk);
    }
    // What was set on the target alone is no change of content.
    alice(laptop, "chmod 600 disk.img");
    sync(laptop, "desk", &[]).ends_with(0);
    alice(laptop, &format!("{WRITE} of=disk.img count=1 seek=40"));
    sync(laptop, "desk", &[]).ends_with(0);
    assert!(compared(laptop).contains("0 were compared whole, 1 by what"), "{}", compared(laptop));
    // Once in a while all of it is read.
    root(laptop, "sed -i 's/\"patches\":[0-9]*/\"patches\":20/' /var/lib/pc-switcher/proven/*.json");
    alice(laptop, &format!("{WRITE} of=disk.img count=1 seek=50"));
    sync(laptop, "desk", &[]).ends_with(0);
    assert!(compared(laptop).contains("1 were compared whole, 0 by what"), "{}", compared(laptop));
    assert_moved(laptop, desk);
}

#[test]
fn of_a_disk_image_only_what_changed_goes_over() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir vms && head -c 48M /dev/urandom >vms/disk.img");
    first_sync(&lab);
    let write = "dd if=/dev/urandom of=vms/disk.img bs=4k conv=notrunc status=none";
    alice(
        laptop,
        &format!(
            "{write} count=64 seek=1000; {write} count=1 seek=12000; fallocate -p -o 20M -l 2M vms/disk.img"
        ),
    );
    sync(laptop, "desk", &[]).ends_with(0).says(&["1 changed, 260.0 KiB"]);
    assert_moved(laptop, desk);
    // And back, after work there.
    alice(desk, &format!("{write} count=3 seek=2000; truncate -s 50M vms/disk.img"));
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
    sync(desk, "laptop", &[]).ends_with(0).says(&["nothing"]);
}

#[test]
fn an_image_that_both_machines_changed_is_a_conflict_and_goes_over_whole() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "head -c 4M /dev/urandom >disk.img");
    first_sync(&lab);
    let write = "dd if=/dev/urandom of=disk.img bs=4k conv=notrunc status=none count=1";
    alice(laptop, &format!("{write} seek=10"));
    alice(desk, &format!("{write} seek=20"));
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/disk.img"]);
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
}
