//! Large files that changed a little, between two machines.

use crate::hosts::{alice, assert_moved, first_sync, lab, sync};

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
