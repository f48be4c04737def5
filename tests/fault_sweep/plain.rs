//! The sweep where a machine has no snapshots: how a call goes wrong has the same endings, so only what is promised of files
//! and of the next sync is looked at.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pc_switcher::cli::Exit;
use pc_switcher_contract::GateKind;
use pc_switcher_testkit::manifest::assert_same_tree;
use pc_switcher_testkit::model::{Disk, Fault, How, Seen};

use crate::run::{Ran, Wish, sync};
use crate::sweep::{CONFIG, faults, in_model_time};
use crate::world::{World, picture, staging};

/// Calls and phases in which something is otherwise than with snapshots.
const CALLS: [&str; 5] = ["walk-kept", "kept", "check-kept", "read-live", "apply"];
const PHASES: [&str; 2] = ["pre-snapshots", "record"];

fn wish() -> Wish {
    Wish { config: CONFIG.into(), open: vec![GateKind::NoSnapshots], ..Wish::default() }
}

/// Makes two machines that have synced once; those that are named have no snapshots.
async fn acquainted(plain: &[&str]) -> World {
    let disk = |name: &str| {
        let hostname = name.parse().unwrap();
        if plain.contains(&name) { Disk::plain(hostname) } else { Disk::new(hostname) }.unwrap()
    };
    let world = World::of(disk("laptop"), disk("desk"));
    let open = vec![GateKind::FirstSync, GateKind::NoSnapshots];
    let first = sync(&world, Wish { open, ..wish() }).await;
    assert_eq!((first.exit, &first.wrong), (Exit::Completed, &vec![]), "{:#?}", first.complaints());
    world
}

/// Runs one case; returns what is otherwise than promised.
fn case(plain: &[&str], fault: &Fault) -> Vec<String> {
    in_model_time(async {
        let world = acquainted(plain).await;
        let old = picture(&world.desk);
        world.work();
        let new = picture(&world.laptop);
        let impatient = fault.how == How::Hang;
        let ran = sync(&world, Wish { faults: vec![fault.clone()], impatient, ..wish() }).await;
        let mut wrong = ran.wrong.clone();
        if !matches!(ran.exit.code(), 0 | 1 | 4 | 130) {
            wrong.push(format!("it ends with {:?}", ran.exit));
        }
        if !staging(&world.desk).is_empty() {
            wrong.push(format!("staging is left: {:?}", staging(&world.desk)));
        }
        let now = picture(&world.desk);
        for (path, entry) in now.entries() {
            let path = std::str::from_utf8(path).unwrap();
            if ![&old, &new].iter().any(|tree| tree.get(path) == Some(entry)) {
                wrong.push(format!("`{path}` is neither old nor new"));
            }
        }
        world.work_on();
        let healed = sync(&world, wish()).await;
        if healed.exit != Exit::Completed || !healed.wrong.is_empty() {
            wrong.push(format!("the next sync: {:?} {:?}", healed.exit, healed.wrong));
        }
        if healed.asked != [GateKind::NoSnapshots] {
            wrong.push(format!("the next sync asks {:?}", healed.asked));
        }
        let differences = picture(&world.laptop).diff(&picture(&world.desk));
        wrong.extend(differences.iter().map(|difference| format!("after the next sync: {difference}")));
        if !wrong.is_empty() {
            wrong.extend(ran.complaints().into_iter().chain(healed.complaints()));
        }
        wrong
    })
}

/// Returns all that can go wrong where these machines have no snapshots and it matters.
fn cases(plain: &'static [&'static str]) -> Vec<(&'static [&'static str], Fault)> {
    let ran: Ran = in_model_time(async {
        let world = acquainted(plain).await;
        world.work();
        let ran = sync(&world, wish()).await;
        assert_same_tree(&picture(&world.laptop), &picture(&world.desk));
        ran
    });
    assert_eq!((ran.exit, &ran.wrong), (Exit::Completed, &vec![]), "{:#?}", ran.complaints());
    let is_new =
        |seen: &&Seen| CALLS.contains(&seen.key.call.as_str()) || PHASES.contains(&seen.key.phase.as_str());
    let of_these = ran.calls.iter().filter(is_new).flat_map(faults);
    of_these.map(|fault| (plain, fault)).collect()
}

#[test]
fn whatever_call_goes_wrong_without_snapshots_each_path_is_old_or_new_and_the_next_sync_completes() {
    // Each fault with one of those pairs that know it, and with `FAULT_SWEEP=all` with each: that takes minutes of a processor.
    let is_whole = std::env::var("FAULT_SWEEP").is_ok_and(|what| what == "all");
    let pairs = [&["laptop"][..], &["desk"], &["laptop", "desk"]];
    let mut by_fault: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for case in pairs.into_iter().flat_map(cases) {
        by_fault.entry(case.1.to_string()).or_default().push(case);
    }
    let chosen = by_fault.into_values().enumerate().flat_map(|(at, mut cases)| match is_whole {
        true => cases,
        false => vec![cases.swap_remove(at % cases.len())],
    });
    let all: Vec<_> = chosen.collect();
    let (next, surprises) = (Mutex::new(all.iter()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some((plain, fault)) = next.lock().unwrap().next() else { return };
                    let wrong = case(plain, fault);
                    let told = wrong.into_iter().map(|what| format!("{plain:?} {fault}: {what}"));
                    surprises.lock().unwrap().extend(told);
                }
            });
        }
    });
    println!("fault sweep without snapshots: {} faults", all.len());
    let surprises = surprises.into_inner().unwrap();
    assert!(surprises.is_empty(), "{} surprises:\n{}", surprises.len(), surprises.join("\n"));
}
