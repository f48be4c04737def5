//! A machine whose clock was wrong.
//!
//! Both machines of the lab have the host's clock, and the program is static, so no clock can be turned for it. What a
//! sync leaves behind that ran when the clock stood two days ahead is made by hand: names of snapshots, the record of the
//! pair, times of files. What the kernel stamps (`ctime`) is right throughout, and a clock that jumps while a sync runs
//! is not shown.

use super::lab;
use crate::hosts::{BY_THEN, alice, assert_moved, first_sync, line, root, snapshots, sync};

/// Moves the date of all snapshots and of the records of pairs.
const FORGE: &str = "cd /.snapshots
    today=$(ls | head -n 1 | grep -oE '[0-9]{8}T'); later=$(date -u -d \"${today%T} +2 days\" +%Y%m%dT)
    for name in *; do mv $name ${name/$today/$later}; done
    sed -i s/$today/$later/g /var/lib/pc-switcher/pairs/*.json; echo -n $later";

#[test]
fn what_a_sync_with_a_clock_two_days_ahead_left_misleads_no_later_sync() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "echo one >notes/edited; echo one >notes/kept-time; touch -d 2024-05-06T07:08:09Z notes/kept-time",
    );
    first_sync(&lab);
    alice(desk, "echo ahead >notes/ahead; touch -d '+2 days' notes/ahead notes");
    sync(desk, "laptop", &[]).ends_with(0);
    for machine in [laptop, desk] {
        let later = root(machine, FORGE);
        assert!(snapshots(machine).iter().all(|name| name.contains(&later)), "{:?}", snapshots(machine));
    }
    // An edit as any, one that keeps size and time, and one whose time is behind that of the other version.
    alice(laptop, "echo more >>notes/edited; echo now >notes/ahead");
    alice(laptop, "echo two >notes/kept-time; touch -d 2024-05-06T07:08:09Z notes/kept-time");
    sync(laptop, "desk", &[]).ends_with(0).says(&["a second plan is empty"]);
    assert_moved(laptop, desk);
    assert_eq!(alice(desk, "cat notes/edited notes/kept-time notes/ahead"), "one\nmore\ntwo\nnow\n");

    // What changed on the target meanwhile is a conflict as ever.
    alice(desk, "echo desk >notes/edited");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/notes/edited"]);
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
    assert!(alice(laptop, "pc-switcher status").starts_with("Last sync: desk → laptop"));
}

#[test]
fn an_edit_right_behind_the_snapshot_is_not_missed_though_it_keeps_size_and_time() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo one >notes/kept-time; touch -d 2024-05-06T07:08:09Z notes/kept-time");
    first_sync(&lab);
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("snapshots: laptop presync", BY_THEN).unwrap();
    alice(laptop, "echo two >notes/kept-time; touch -d 2024-05-06T07:08:09Z notes/kept-time");
    assert_eq!(running.wait().unwrap().code(), Some(0));
    assert_eq!(alice(desk, "cat notes/kept-time"), "one\n");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_eq!(alice(desk, "cat notes/kept-time"), "two\n");
}
