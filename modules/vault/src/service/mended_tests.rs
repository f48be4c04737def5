//! What repairs make of what is only half done, half readable or not there, and what comes after them.

use std::sync::Arc;

use pc_switcher_contract::ErrorKind;

use super::crash_tests::{Fault, Faulty, everything_is_there, opened};
use super::repair_tests::{change, names, packs, repair_as, tracked};
use super::world::{DEAD, prune, with_three_backups};
use super::*;
use crate::engine::{Quiet, Reading, check};
use crate::format::{BlobKind, Id};
use crate::store::faults::Faults;
use crate::store::{Kind, MemoryStore, Store};

fn wish() -> RepairWish {
    RepairWish { read_data: true, ..RepairWish::default() }
}

/// Whether an index names a pack.
fn is_indexed(store: &Arc<MemoryStore>, pack: &str) -> bool {
    let repo = opened(store);
    repo.load_index().unwrap();
    repo.indexed().contains_key(&pack.parse::<Id>().unwrap())
}

#[test]
fn what_a_repair_that_died_took_out_of_the_index_nobody_takes_in_again() {
    let mut world = with_three_backups();
    let pack = packs(&world, BlobKind::Data).remove(0);
    change(&world, Kind::Pack, &pack, |bytes| bytes[100] ^= 1);
    world.hour += 1;
    let (state, store) = world.copy();
    let whole = Faulty::sound(&store);
    repair_as(&mut world.service(state.path(), whole.clone(), DEAD), &wish()).unwrap();
    let writes = whole.writes.lock().unwrap().clone();
    type Next = fn(&mut Service) -> Result<()>;
    let plain: Next = |service| repair_as(service, &RepairWish::default()).map(drop);
    let ways: [(&str, Next); 3] = [("a backup", tracked), ("a prune", prune), ("a plain repair", plain)];
    let mut seen = 0;
    for at in writes {
        for (way, next) in ways {
            let (state, store) = world.copy();
            let faulty = Faulty::new(&store, at, Fault::DiesAfter);
            let ended = repair_as(&mut world.service(state.path(), faulty, DEAD), &wish());
            let is_left = store.list(Kind::Pack).unwrap().iter().any(|(name, _)| *name == pack);
            if !is_left || is_indexed(&store, &pack) {
                continue;
            }
            seen += 1;
            let what = format!("{way} after {at}: {:?}", ended.map(drop));
            let mut service = world.service(state.path(), store.clone(), std::process::id());
            // A prune removes nothing as long as something is missing.
            next(&mut service).map_err(|error| assert_eq!(way, "a prune", "{error}")).ok();
            assert!(!is_indexed(&store, &pack), "{what}");
            // What the catalogue did not hear of is found by the first of them.
            for _ in 0..2 {
                tracked(&mut service).unwrap();
            }
            let found = check(&opened(&store), &Reading::All, &Quiet::default()).unwrap();
            assert!(found.unsound.is_empty() && !is_indexed(&store, &pack), "{what}: {found:?}");
            // Of versions that are lost the catalogue hears from a repair that ends.
            repair_as(&mut service, &wish()).unwrap();
            tracked(&mut service).unwrap();
            everything_is_there(&service, &store, &what);
        }
    }
    assert!(seen >= 3, "{seen}");
}

#[test]
fn whatever_read_of_a_repair_fails_it_ends_or_finds_what_it_would_have_found() {
    let world = with_three_backups();
    let pack = packs(&world, BlobKind::Data).remove(0);
    change(&world, Kind::Pack, &pack, |bytes| bytes[100] ^= 1);
    let index = names(&world, Kind::Index).remove(0);
    change(&world, Kind::Index, &index, |bytes| bytes[20] ^= 1);
    let (state, store) = world.copy();
    let sound = Arc::new(Faults::on(&store));
    let expected = repair_as(&mut world.service(state.path(), sound.clone(), DEAD), &wish()).unwrap();
    let (mut ended, mut whole) = (0, 0);
    for kind in [ErrorKind::Unreachable, ErrorKind::Failed] {
        for at in 0..sound.calls() {
            let (state, store) = world.copy();
            let faults = Faults::on(&store).that_fails(move |call| {
                let is_read = !matches!(call.what, "put" | "delete");
                (call.number == at && is_read).then(|| ModuleError::new(kind, "cannot be fetched"))
            });
            let mut service = world.service(state.path(), Arc::new(faults), DEAD);
            match repair_as(&mut service, &wish()) {
                Ok(found) => {
                    assert_eq!(found.summary, expected.summary, "{at}");
                    assert_eq!(found.versions_gone, expected.versions_gone, "{at}");
                    whole += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("cannot be fetched"), "{at}: {error}");
                    ended += 1;
                }
            }
        }
    }
    assert!(ended > 30 && whole > 10, "{ended} {whole}");
}

#[test]
fn what_a_disk_does_not_give_any_more_is_lost_and_what_lies_beside_it_is_not() {
    let world = with_three_backups();
    let pack = packs(&world, BlobKind::Data).remove(0);
    let faults = Arc::new(Faults::on(&world.store).that_lost(Kind::Pack, &pack, 100..200));
    let mut service = world.service(world.state.path(), faults, DEAD);
    let summary = repair_as(&mut service, &wish()).unwrap().summary;
    let (_, kept, lost) = summary.damaged[0];
    assert!(summary.damaged.len() == 1 && kept > 0 && lost == 1, "{summary:?}");
    drop(service);
    assert!(!names(&world, Kind::Pack).contains(&pack));
    world.now(tracked);
    everything_is_there(&world.service(world.state.path(), world.store.clone(), DEAD), &world.store, "then");
    for kind in [Kind::Index, Kind::Snapshot] {
        let one = names(&world, kind).remove(0);
        let faults = Arc::new(Faults::on(&world.store).that_lost(kind, &one, 20..28));
        let mut service = world.service(world.state.path(), faults, DEAD);
        let summary = repair_as(&mut service, &wish()).unwrap().summary;
        let found = if kind == Kind::Index { summary.indexes } else { summary.snapshots };
        assert_eq!(found, [one.as_str()]);
    }
}

#[test]
fn a_snapshot_that_goes_is_named_apart_and_a_copy_of_it_stays() {
    let world = with_three_backups();
    let all = names(&world, Kind::Snapshot);
    change(&world, Kind::Snapshot, &all[0], |bytes| bytes[0] ^= 1);
    let torn = world.store.get(Kind::Snapshot, &all[0]).unwrap();
    // Each snapshot has something in one of them.
    for pack in packs(&world, BlobKind::Data) {
        change(&world, Kind::Pack, &pack, |bytes| bytes.fill(7));
    }
    let dropping = RepairWish { drop_lost: true, ..wish() };
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    let would = repair_as(&mut service, &RepairWish { dry_run: true, ..dropping.clone() }).unwrap().summary;
    let did = repair_as(&mut service, &dropping).unwrap().summary;
    assert_eq!(did.removed, [all[0].as_str()]);
    assert_eq!(would.removed, did.removed);
    assert!(!did.rewritten.is_empty() && did.rewritten.iter().all(|(_, by)| by.is_some()), "{did:?}");
    let old = |summary: &crate::engine::RepairSummary| -> Vec<Id> {
        summary.rewritten.iter().map(|(old, _)| *old).collect()
    };
    assert_eq!(old(&would), old(&did));
    assert_eq!(world.store.get(Kind::Meta, &format!("all/dropped.{}", all[0])).unwrap(), torn);
    for id in old(&did) {
        let copy = world.store.get(Kind::Meta, &format!("all/dropped.{id}")).unwrap().unwrap();
        assert_eq!(Id::of(&copy), id, "as it was");
    }
}

#[test]
fn a_repair_without_any_snapshot_ends_before_it_changes_anything() {
    let world = with_three_backups();
    for name in names(&world, Kind::Snapshot) {
        world.store.delete(Kind::Snapshot, &name).unwrap();
    }
    let pack = packs(&world, BlobKind::Data).remove(0);
    world.store.delete(Kind::Pack, &pack).unwrap();
    let there = || [Kind::Index, Kind::Pack, Kind::Meta].map(|kind| world.store.list(kind).unwrap());
    let before = there();
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    let error = repair_as(&mut service, &wish()).unwrap_err();
    assert!(error.kind == ErrorKind::Unreachable && there() == before, "{error}");
}

#[test]
fn a_key_that_cannot_be_read_is_no_fault_of_the_copy_and_a_copy_that_went_is_stored_again() {
    let mut world = with_three_backups();
    world.hour += 1;
    let key = "ab".repeat(32);
    world.store.put(Kind::Key, &key, b"damaged").unwrap();
    let back_up = |store: Arc<dyn Store>| {
        let mut service = world.service(world.state.path(), store, std::process::id());
        service.backup(None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
    };
    let copies = || {
        let all = world.store.list(Kind::Meta).unwrap().into_iter().map(|(name, _)| name);
        all.filter(|name| name.contains("/db.")).collect::<Vec<_>>()
    };
    let before = copies();
    assert!(back_up(world.store.clone()).warnings.is_empty() && copies() == before, "nothing is due");
    let places: [Arc<dyn Store>; 2] =
        [world.store.clone(), Arc::new(Faults::on(&world.store).that_cannot_read(Kind::Key, &key))];
    for place in places {
        let newest =
            copies().into_iter().max_by_key(|name| name.rsplit('.').next().unwrap().parse::<i64>().unwrap());
        world.store.delete(Kind::Meta, &newest.unwrap()).unwrap();
        let report = back_up(place);
        assert_eq!(copies().len(), before.len());
        let said = report.warnings.join(" ");
        assert!(report.is_clean() && said.contains(&key) && !said.contains("not copied"), "{said}");
    }
}

#[test]
fn versions_that_no_snapshot_has_are_checked_as_well() {
    let mut world = with_three_backups();
    world.hour += 1;
    // Replaced before the backup that stores it ends, so that it is in no snapshot.
    world.put(0..1, 7);
    world.now(super::world::stage);
    world.put(0..1, 8);
    world.now(|service| super::world::stage(service).and_then(|()| super::world::back_up(service)));
    world.hour += 1;
    let checked = || {
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        service
            .check(None, None, &mut |_| Ok(b"x".into()), &Quiet::default())
            .unwrap()
            .remove(0)
            .summary
            .problems
    };
    assert!(checked().is_empty());
    let repo = opened(&world.store);
    repo.load_index().unwrap();
    let lost = Id::of(&super::world::noise(8_000, 701));
    let pack = repo.find(BlobKind::Data, &lost).unwrap().pack;
    // An index that does not name it any more, as after a `restic prune`.
    for (name, mut file) in repo.index_files().unwrap() {
        for one in file.packs.iter_mut().filter(|one| one.id == pack) {
            one.blobs.retain(|blob| blob.id != lost);
        }
        world.store.delete(Kind::Index, &name).unwrap();
        repo.save(Kind::Index, &file).unwrap();
    }
    let problems = checked();
    let path = world.home.path().join("docs/0").canonicalize().unwrap();
    assert!(problems.count() == 1 && problems.kept()[0].contains(path.to_str().unwrap()), "{problems:?}");
    assert!(problems.kept()[0].contains("is not in the vault any more"), "{problems:?}");
}
