//! Vaults that are damaged in every way there is, and what is left of them.

use std::sync::Arc;

use super::crash_tests::{Fault, Faulty, everything_is_there, is_sound, opened};
use super::world::{DEAD, World, back_up, with_three_backups};
use super::*;
use crate::engine::{Quiet, Reading, RepairSummary, check};
use crate::format::{BlobKind, Id};
use crate::store::{Kind, MemoryStore, Store};

fn wish() -> RepairWish {
    RepairWish { read_data: true, ..RepairWish::default() }
}

pub fn repair_as(service: &mut Service, wish: &RepairWish) -> Result<Repaired> {
    let all = service.repair(wish, &mut |_| Ok(b"x".into()), &Quiet::default());
    all.map(|mut all| all.remove(0))
}

fn repair(world: &World) -> RepairSummary {
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    repair_as(&mut service, &wish()).unwrap().summary
}

fn problems(store: &Arc<MemoryStore>) -> Vec<String> {
    check(&opened(store), &Reading::All, &Quiet::default()).unwrap().problems.kept().to_vec()
}

pub fn names(world: &World, kind: Kind) -> Vec<String> {
    world.store.list(kind).unwrap().into_iter().map(|(name, _)| name).collect()
}

pub fn change(world: &World, kind: Kind, name: &str, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = world.store.get(kind, name).unwrap().unwrap();
    how(&mut bytes);
    world.store.delete(kind, name).unwrap();
    world.store.put(kind, name, &bytes).unwrap();
}

/// Returns the packs of a kind, those with the most blobs first.
pub fn packs(world: &World, kind: BlobKind) -> Vec<String> {
    let repo = opened(&world.store);
    repo.load_index().unwrap();
    let mut all: Vec<(usize, Id)> = repo
        .indexed()
        .into_iter()
        .filter(|(_, blobs)| blobs.iter().all(|(_, at)| at.kind == kind))
        .map(|(id, blobs)| (usize::MAX - blobs.len(), id))
        .collect();
    all.sort_unstable();
    all.into_iter().map(|(_, id)| id.hex()).collect()
}

pub fn tracked(service: &mut Service) -> Result<()> {
    service.back_up_tracked(&[], None, &mut |_| Ok(b"x".into()), &Quiet::default()).map(drop)
}

#[test]
fn an_index_that_is_gone_or_damaged_is_made_anew_and_nothing_is_lost() {
    for way in ["gone", "all gone", "damaged", "wrong"] {
        let world = with_three_backups();
        let first = names(&world, Kind::Index).remove(0);
        match way {
            "gone" => world.store.delete(Kind::Index, &first).unwrap(),
            "all gone" => {
                names(&world, Kind::Index)
                    .iter()
                    .for_each(|name| world.store.delete(Kind::Index, name).unwrap());
            }
            "damaged" => change(&world, Kind::Index, &first, |bytes| bytes[20] ^= 1),
            _ => {
                let repo = opened(&world.store);
                let mut file: crate::format::index::IndexFile = repo.load(Kind::Index, &first).unwrap();
                file.packs[0].blobs[0].offset += 16;
                repo.save(Kind::Index, &file).unwrap();
                world.store.delete(Kind::Index, &first).unwrap();
            }
        }
        let found = problems(&world.store);
        assert!(!found.is_empty(), "{way}");
        assert_eq!(
            found.iter().any(|one| one.contains(&first) && one.contains("bt repair")),
            way == "damaged",
            "{found:?}"
        );
        let before = world.store.list(Kind::Index).unwrap();
        let dry = RepairWish { dry_run: true, ..wish() };
        let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
        let would = repair_as(&mut service, &dry).unwrap().summary;
        assert_eq!(world.store.list(Kind::Index).unwrap(), before, "{way}: a dry run writes nothing");
        drop(service);
        let summary = repair(&world);
        assert_eq!(summary, would, "{way}");
        assert!(
            !summary.is_sound() && summary.lost.is_empty() && !summary.taken_up.is_empty(),
            "{way}: {summary:?}"
        );
        is_sound(&world.store, way);
        everything_is_there(&world.service(world.state.path(), world.store.clone(), DEAD), &world.store, way);
        assert!(repair(&world).is_sound(), "{way}: once is enough");
    }
}

#[test]
fn what_a_damaged_pack_lost_is_named_and_the_next_backup_stores_it_again() {
    type Damage = fn(&mut Vec<u8>);
    let ways: [(&str, Damage); 4] = [
        ("a bit", |bytes| bytes[100] ^= 1),
        ("the header", |bytes| *bytes.iter_mut().rev().nth(10).unwrap() ^= 1),
        ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", Vec::clear),
    ];
    for (way, how) in ways {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let way = format!("{way}, {kind:?}");
            let mut world = with_three_backups();
            let pack = packs(&world, kind).remove(0);
            change(&world, Kind::Pack, &pack, how);
            assert!(problems(&world.store).iter().any(|one| one.contains(&pack)), "{way}");
            let summary = repair(&world);
            assert_eq!(summary.damaged.len(), 1, "{way}: {summary:?}");
            assert!(!names(&world, Kind::Pack).contains(&pack), "{way}: it is written anew");
            let lost = summary.damaged[0].2 > 0;
            assert_eq!(lost, !way.starts_with("the header"), "{way}: {summary:?}");
            assert_eq!(summary.lost.is_empty(), !lost, "{way}: {summary:?}");
            assert!(problems(&world.store).iter().all(|one| one.starts_with("snapshot")), "{way}");
            // Of two snapshots of one moment nobody can tell the newer one.
            world.hour += 1;
            world.now(tracked);
            everything_is_there(
                &world.service(world.state.path(), world.store.clone(), DEAD),
                &world.store,
                &way,
            );
            let newest = opened(&world.store).snapshots().unwrap().pop().unwrap().0.short();
            let found = problems(&world.store);
            assert!(found.iter().all(|one| !one.contains(&newest.to_string())), "{way}: {found:?}");
        }
    }
}

#[test]
fn what_cannot_come_back_is_dropped_from_snapshots_only_when_it_is_said() {
    let world = with_three_backups();
    packs(&world, BlobKind::Data).iter().for_each(|pack| world.store.delete(Kind::Pack, pack).unwrap());
    let damaged = names(&world, Kind::Snapshot).remove(0);
    change(&world, Kind::Snapshot, &damaged, |bytes| bytes[0] ^= 1);
    let summary = repair(&world);
    assert!(summary.missing.len() >= 3 && summary.snapshots == [damaged.as_str()], "{summary:?}");
    assert!(summary.lacks() && summary.lost.count() >= 12, "{summary:?}");
    assert_eq!(names(&world, Kind::Snapshot).len(), 3);
    world.now(tracked);
    everything_is_there(
        &world.service(world.state.path(), world.store.clone(), DEAD),
        &world.store,
        "stored again",
    );
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    let dropping = RepairWish { drop_lost: true, ..wish() };
    let summary = repair_as(&mut service, &dropping).unwrap().summary;
    assert!(!summary.lacks() && summary.removed == [damaged.as_str()], "{summary:?}");
    is_sound(&world.store, "without what is lost");
    let marked = |(_, snapshot): &(Id, crate::format::Snapshot)| {
        snapshot.tags.contains(&"repaired".to_owned()) && snapshot.original.is_some()
    };
    let snapshots = opened(&world.store).snapshots().unwrap();
    let rewritten = summary.rewritten.len();
    assert!(
        rewritten > 0 && snapshots.iter().filter(|one| marked(one)).count() == rewritten,
        "{snapshots:?}"
    );
    assert!(repair_as(&mut service, &dropping).unwrap().summary.is_sound());
}

#[test]
fn a_repair_that_dies_at_any_call_is_completed_by_the_next_one() {
    let mut world = with_three_backups();
    let pack = packs(&world, BlobKind::Data).remove(0);
    change(&world, Kind::Pack, &pack, |bytes| bytes[100] ^= 1);
    let indexes = names(&world, Kind::Index);
    change(&world, Kind::Index, &indexes[0], |bytes| bytes[9] ^= 1);
    world.store.delete(Kind::Index, &indexes[1]).unwrap();
    world.hour += 1;
    let wish = RepairWish { drop_lost: true, ..wish() };
    let run = |store: Arc<dyn Store>, state: &Path, pid| {
        repair_as(&mut world.service(state, store, pid), &wish).map(drop)
    };
    let (state, store) = world.copy();
    let whole = Faulty::sound(&store);
    run(whole.clone(), state.path(), DEAD).unwrap();
    let held = |store: &Arc<MemoryStore>| {
        let repo = opened(store);
        repo.load_index().unwrap();
        let mut chunks: Vec<Id> = repo.indexed().into_values().flatten().map(|(id, _)| id).collect();
        chunks.sort_unstable();
        chunks
    };
    let (expected, writes) = (held(&store), whole.writes.lock().unwrap().clone());
    assert!(writes.len() > 10, "{writes:?}");
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::FailsAfter] {
        for at in &writes {
            let (state, store) = world.copy();
            let ended = run(Faulty::new(&store, *at, fault), state.path(), DEAD);
            let what = format!("{fault:?} {at}: {ended:?}");
            run(store.clone(), state.path(), std::process::id())
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            is_sound(&store, &what);
            assert_eq!(held(&store), expected, "{what}");
        }
    }
}

#[test]
fn what_cannot_be_fetched_is_no_damage() {
    let world = with_three_backups();
    let pack = packs(&world, BlobKind::Data).remove(0);
    change(&world, Kind::Pack, &pack, |bytes| bytes[100] ^= 1);
    let reads = 60;
    let mut refused = 0;
    for at in 0..reads {
        let (state, store) = world.copy();
        let faulty = Faulty::new(&store, at, Fault::FailsBefore);
        let mut service = world.service(state.path(), faulty, DEAD);
        if let Err(error) = repair_as(&mut service, &wish()) {
            assert!(error.to_string().contains("the disk is gone"), "{error}");
            refused += 1;
        }
        drop(service);
        let mut service = world.service(state.path(), store.clone(), std::process::id());
        let after = repair_as(&mut service, &wish()).unwrap().summary;
        assert!(
            after.missing.is_empty() && after.indexes.is_empty() && after.unknown.is_empty(),
            "{at}: {after:?}"
        );
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn packs_are_read_in_turns_and_the_catalogue_remembers_when() {
    let world = with_three_backups();
    let all = names(&world, Kind::Pack).len();
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    let mut check = |part: &str| {
        let part = part.parse().unwrap();
        service.check(None, Some(part), &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap().remove(0)
    };
    let first = check("1/3");
    assert!(
        first.summary.read.len() < all && first.unread == (all - first.summary.read.len()) as u64,
        "{first:?}"
    );
    let second = check("1/3");
    // Sizes are random: what was read before is read again only where nothing else is left.
    let is_new = |id| !first.summary.read.contains(id);
    assert!(second.unread == 0 || second.summary.read.iter().all(is_new), "{second:?}");
    let third = check("1/3");
    assert_eq!((third.unread, third.oldest), (0, Some(jiff::Timestamp::UNIX_EPOCH + jiff::ToSpan::hours(3))));
    let damaged = first.summary.read[0].hex();
    change(&world, Kind::Pack, &damaged, |bytes| bytes[0] ^= 1);
    let found: Vec<String> = (0..3).flat_map(|_| check("1/3").summary.problems.kept().to_vec()).collect();
    assert!(found.iter().any(|one| one.contains(&damaged)), "{found:?}");
    assert_eq!(check("1/1").unread, 1, "what is damaged was not found as it was written");
}

#[test]
fn who_only_backs_up_again_needs_no_repair() {
    let world = with_three_backups();
    world.now(back_up);
    assert!(repair(&world).is_sound());
}

#[test]
fn a_lost_catalogue_and_a_damaged_index_and_snapshot_keep_nobody_from_the_rest() {
    let world = with_three_backups();
    let (index, snapshot) = (names(&world, Kind::Index).remove(0), names(&world, Kind::Snapshot).remove(0));
    change(&world, Kind::Index, &index, |bytes| bytes[20] ^= 1);
    change(&world, Kind::Snapshot, &snapshot, |bytes| bytes[20] ^= 1);
    let recover = || {
        for name in names(&world, Kind::Meta).iter().filter(|name| name.contains("/db.")) {
            world.store.delete(Kind::Meta, name).unwrap();
        }
        let around = world.around(world.state.path(), world.store.clone(), DEAD);
        std::fs::remove_file(around.places.catalogue()).unwrap();
        let order = RecoverOrder::default();
        Service::recover(&around, &order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
    };
    let first = recover();
    for name in [&index, &snapshot] {
        assert!(first.troubles.iter().any(|one| one.path == Path::new(name)), "{first:?}");
    }
    assert!(repair(&world).indexes == [index.as_str()]);
    let second = recover();
    assert_eq!(second.troubles.len(), 1, "{second:?}");
    assert!(second.versions >= first.versions && second.versions >= 12, "{first:?} {second:?}");
    assert_eq!(second.source, Source::Snapshots);
}
