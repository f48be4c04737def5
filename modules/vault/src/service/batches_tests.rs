//! A queue of several batches: one is stored while the catalogue learns of the one before.

use std::collections::BTreeSet;
use std::fs;

use pc_switcher_contract::ErrorKind;

use super::super::crash_tests::{Fault, Faulty, all_that_is_noted_is_there, contents, is_sound};
use super::super::world::{World, back_up, stage};
use super::*;
use crate::engine::Quiet;

/// Wants a run to end after so many files.
struct After {
    files: u64,
    seen: AtomicU64,
}

impl Observer for After {
    fn progress(&self, progress: Progress) {
        self.seen.fetch_max(progress.files, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.files
    }
}

fn run(world: &World, observer: &dyn Observer) -> Result<BackupReport> {
    let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
    service.backup(None, &mut |_| Ok(b"x".into()), observer)
}

#[test]
fn what_was_stored_before_a_run_ended_is_noted_and_the_rest_is_stored_by_the_next_one() {
    let mut world = World::new();
    world.put(0..40, 1);
    world.now(stage);
    let ended = run(&world, &After { files: 20, seen: AtomicU64::new(0) });
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
    is_sound(&world.store, "cancelled");
    let waiting = || {
        let service = world.service(world.state.path(), world.store.clone(), std::process::id());
        service.catalogue.staged_count().unwrap().0
    };
    // Of the first twenty files at least the first three batches of six came to their end.
    let left = waiting();
    assert!((20..=40 - 3 * ITEMS as u64).contains(&left), "{left}");
    let report = run(&world, &Quiet::default()).unwrap();
    assert_eq!((report.versions, report.items, waiting()), (left, left, 0));
    let service = world.service(world.state.path(), world.store.clone(), std::process::id());
    assert_eq!(all_that_is_noted_is_there(&service, &world.store, "in the end"), 40);
}

#[test]
fn versions_of_one_file_and_files_of_one_content_may_come_in_different_batches() {
    let mut world = World::new();
    let at = |name: &str| world.home.path().join("docs").join(name);
    let (first, twin) = (at("0"), at("twin"));
    world.put(0..8, 1);
    world.now(stage);
    world.put(0..8, 2);
    fs::write(&twin, fs::read(&first).unwrap()).unwrap();
    world.now(stage);
    let waiting = |world: &World| {
        world
            .service(world.state.path(), world.store.clone(), std::process::id())
            .catalogue
            .staged_count()
            .unwrap()
    };
    assert_eq!(waiting(&world).0, 17);
    let report = run(&world, &Quiet::default()).unwrap();
    assert_eq!((report.versions, report.items, report.troubles.len()), (17, 17, 0));
    let service = world.service(world.state.path(), world.store.clone(), std::process::id());
    let history = service.history_of(&first.canonicalize().unwrap()).unwrap();
    let sums: Vec<String> = history.versions.iter().map(|version| version.checksum.clone()).collect();
    let newest = Id::of(&fs::read(&first).unwrap()).hex();
    assert!(sums.len() == 2 && sums[0] == newest && sums[1] != newest, "{sums:?}");
    assert_eq!(contents(&world.store).0.len(), 16, "what two files hold is stored once");
    assert_eq!(all_that_is_noted_is_there(&service, &world.store, "all of it"), 9);
}

#[test]
fn a_batch_that_cannot_be_stored_takes_nothing_from_the_one_before() {
    let mut world = World::new();
    world.put(0..20, 1);
    world.now(stage);
    let (state, store) = world.copy();
    let whole = Faulty::sound(&store);
    back_up(&mut world.service(state.path(), whole.clone(), std::process::id())).unwrap();
    let writes = whole.writes.lock().unwrap().clone();
    let mut noted = Vec::new();
    for at in writes {
        let (state, store) = world.copy();
        let faulty = Faulty::new(&store, at, Fault::DiesBefore);
        let ended = back_up(&mut world.service(state.path(), faulty, std::process::id()));
        is_sound(&store, &format!("{at}: {ended:?}"));
        let service = world.service(state.path(), store.clone(), std::process::id());
        noted.push(20 - service.catalogue.staged_count().unwrap().0);
        assert_eq!(Some(&all_that_is_noted_is_there(&service, &store, &format!("{at}"))), noted.last());
    }
    // How many packs a batch takes differs with which thread takes what, and so does where a call falls.
    let (noted, whole) = (BTreeSet::from_iter(noted), BTreeSet::from([0, 6, 12, 18, 20]));
    assert!(noted.is_subset(&whole) && noted.len() > 2 && noted.contains(&0), "batch by batch: {noted:?}");
}
