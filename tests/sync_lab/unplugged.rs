//! Endings by nobody's will: cable, power, lid.

use std::time::{Duration, Instant};

use pc_switcher_testkit::lab::{CableCut, DiskCache};

use crate::hosts::{
    BY_THEN, CHILD, SOON, alice, assert_moved, assert_nothing_runs, configure, dawdle, first_sync, lab, line,
    ours, sync, wait_for,
};

/// The promise: both machines are free again within a minute.
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn dead_air_ends_the_sync_on_both_machines_within_a_minute() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "echo new >notes/new");
    dawdle(laptop, 100, "");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    wait_for("child", BY_THEN, || ours(desk).iter().any(|command| command == CHILD));
    let start = Instant::now();
    desk.cable_cut(CableCut::Silent).unwrap();
    let output = running.wait().unwrap();
    assert_eq!(output.code(), Some(4), "{}{}", output.error_text(), output.text());
    assert!(start.elapsed() < MINUTE, "{:?}", start.elapsed());
    assert_nothing_runs(&[laptop], SOON);
    assert_nothing_runs(&[desk], MINUTE.saturating_sub(start.elapsed()));
    desk.cable_restore().unwrap();
    configure(laptop, "");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn after_a_power_cut_of_the_target_the_next_sync_completes() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let running = laptop.spawn(&line("desk", &["--allow-first-sync"])).unwrap();
    running.expect("stage: module:user-data", MINUTE).unwrap();
    let start = Instant::now();
    desk.power_cut(DiskCache::Volatile).unwrap();
    let output = running.wait().unwrap();
    assert!(matches!(output.code(), Some(1 | 4)), "{}{}", output.error_text(), output.text());
    assert!(start.elapsed() < MINUTE, "{:?}", start.elapsed());
    assert_nothing_runs(&[laptop], SOON);
    desk.boot().unwrap();
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn after_a_power_cut_of_the_source_the_target_is_free_within_a_minute() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "echo new >notes/new");
    dawdle(laptop, 100, "");
    for machine in [laptop, desk] {
        machine.sync_disk().unwrap();
    }
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    wait_for("child", BY_THEN, || ours(desk).iter().any(|command| command == CHILD));
    laptop.power_cut(DiskCache::Volatile).unwrap();
    drop(running);
    assert_nothing_runs(&[desk], MINUTE);
    laptop.boot().unwrap();
    configure(laptop, "");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn an_edit_that_only_the_log_of_the_disk_holds_at_a_power_cut_is_a_conflict_afterwards() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo one >notes/logged");
    first_sync(&lab);
    desk.sync_disk().unwrap();
    // No commit of the file system: the edit lies in its log tree alone, and the next mount replays it.
    alice(desk, "echo edited >notes/logged; sync notes/logged");
    desk.power_cut(DiskCache::Volatile).unwrap();
    desk.boot().unwrap();
    assert_eq!(alice(desk, "cat notes/logged"), "edited\n", "what was fsynced survives");
    alice(laptop, "echo two >notes/logged");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/notes/logged"]);
    assert_eq!(alice(desk, "cat notes/logged"), "edited\n");
}
