//! What one bad read, a disk that is not mounted, or a program that knows more than this one makes of a repair: nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, Ordering::SeqCst};

use super::crash_tests::{everything_is_there, is_sound, opened};
use super::repair_tests::{change, names, packs, repair_as};
use super::world::{DEAD, World, with_three_backups};
use super::*;
use crate::engine::{Quiet, Reading, check};
use crate::format::index::IndexFile;
use crate::format::{BlobKind, Id};
use crate::repo::Writer;
use crate::store::faults::Faults;
use crate::store::{Kind, MemoryStore, Store};

/// A store of which one read is not what is there.
struct Flaky {
    inner: Arc<MemoryStore>,
    /// The number of that read.
    at: usize,
    reads: AtomicUsize,
}

impl Flaky {
    fn new(inner: &Arc<MemoryStore>, at: usize) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), at, reads: AtomicUsize::new(0) })
    }

    fn is_bad(&self) -> bool {
        self.reads.fetch_add(1, Ordering::SeqCst) == self.at
    }

    fn flip(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle).filter(|_| self.is_bad()) {
            *byte ^= 1;
        }
        bytes
    }
}

impl Store for Flaky {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        self.inner.put(kind, name, bytes)
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.inner.get(kind, name)?.map(|bytes| self.flip(bytes)))
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.inner.get_range(kind, name, offset, length).map(|bytes| self.flip(bytes))
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        let mut all = self.inner.list(kind)?;
        if !all.is_empty() && self.is_bad() {
            all.pop();
        }
        Ok(all)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.inner.delete(kind, name)
    }

    fn place(&self) -> String {
        "memory".into()
    }
}

fn everything() -> RepairWish {
    RepairWish { read_data: true, drop_lost: true, ..RepairWish::default() }
}

fn objects(store: &MemoryStore) -> BTreeSet<(Kind, String)> {
    let kinds = [Kind::Key, Kind::Snapshot, Kind::Pack, Kind::Index];
    kinds
        .into_iter()
        .flat_map(|kind| store.list(kind).unwrap().into_iter().map(move |(name, _)| (kind, name)))
        .collect()
}

/// Returns the blobs that the index knows.
fn held(store: &Arc<MemoryStore>) -> BTreeSet<Id> {
    let repo = opened(store);
    repo.load_index().unwrap();
    repo.indexed().into_values().flatten().map(|(id, _)| id).collect()
}

fn repair_everything(service: &mut Service) -> Result<()> {
    repair_as(service, &everything()).map(drop)
}

/// Has each read of a run be wrong once, and returns how many runs said what is meant by `noticed`.
fn each_read_wrong(
    world: &World,
    run: impl Fn(&mut Service) -> Result<()>,
    noticed: &str,
    judge: impl Fn(&Arc<MemoryStore>, &Path, &str),
) -> usize {
    let (word, mut noticed) = (noticed, 0);
    for at in 0.. {
        let (state, store) = world.copy();
        let flaky = Flaky::new(&store, at);
        let ended = match Service::open(world.around(state.path(), flaky.clone(), DEAD)) {
            Ok(mut service) => run(&mut service),
            Err(error) => Err(error),
        };
        let what = format!("read {at}: {ended:?}");
        noticed += usize::from(ended.is_err_and(|error| error.to_string().contains(word)));
        judge(&store, state.path(), &what);
        if flaky.reads.load(Ordering::SeqCst) <= at {
            assert!(at > 20, "{at} reads");
            return noticed;
        }
    }
    unreachable!("there is an end to what is read")
}

#[test]
fn one_bad_read_takes_nothing_from_a_sound_vault() {
    let world = with_three_backups();
    let before = objects(&world.store);
    let noticed = each_read_wrong(&world, repair_everything, "different bytes", |store, _, what| {
        let gone: Vec<_> = before
            .difference(&objects(store))
            // One that was not listed is written anew from the packs.
            .filter(|(kind, _)| *kind != Kind::Index)
            .cloned()
            .collect();
        assert_eq!(gone, [], "{what}");
        is_sound(store, what);
    });
    assert!(noticed > 10, "{noticed}");
}

#[test]
fn one_bad_read_takes_nothing_more_from_a_damaged_vault() {
    let mut world = with_three_backups();
    let pack = packs(&world, BlobKind::Data).remove(0);
    change(&world, Kind::Pack, &pack, |bytes| bytes[100] ^= 1);
    let index = names(&world, Kind::Index).remove(0);
    change(&world, Kind::Index, &index, |bytes| bytes[20] ^= 1);
    world.hour += 1;
    let repaired = |store: &Arc<MemoryStore>, state: &Path| {
        let mut service = world.service(state, store.clone(), std::process::id());
        repair_as(&mut service, &everything()).unwrap();
        held(store)
    };
    let (state, store) = world.copy();
    let expected = repaired(&store, state.path());
    let noticed = each_read_wrong(&world, repair_everything, "different bytes", |store, state, what| {
        let held = repaired(store, state);
        assert!(held.is_superset(&expected), "{what}");
        is_sound(store, what);
    });
    assert!(noticed > 10, "{noticed}");
}

#[test]
fn one_bad_read_has_a_prune_remove_nothing_that_is_needed() {
    let mut world = with_three_backups();
    world.hour += 1;
    let prune = |service: &mut Service| {
        let keep = Some("last 2 sessions".parse().unwrap());
        let order = PruneOrder { keep, at_once: true, ..PruneOrder::default() };
        service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).map(drop)
    };
    let newest = names(&world, Kind::Snapshot).len() - 1;
    let before = contents(&open(&world, world.state.path()));
    assert!(before.len() > 12, "{}", before.len());
    let judge = |store: &Arc<MemoryStore>, state: &Path, what: &str| {
        is_sound(store, what);
        assert!(store.list(Kind::Snapshot).unwrap().len() >= newest, "{what}");
        // What the vault can give is known to be there.
        let (held, service) = (held(store), open(&world, state));
        for (content, chunks) in before.iter().filter(|(_, chunks)| chunks.iter().all(|id| held.contains(id)))
        {
            let known = service.catalogue.chunks("local", *content).unwrap();
            assert!(known.is_some_and(|known| known.len() == chunks.len()), "{what}: {content} is forgotten");
        }
    };
    let noticed = each_read_wrong(&world, prune, "was not listed a moment ago", judge);
    assert!(noticed > 0, "a snapshot that is not listed is noticed");
    let noticed = each_read_wrong(&world, prune, "no version is taken for gone", judge);
    assert!(noticed > 0, "an index file that is not listed is noticed");
}

fn open(world: &World, state: &Path) -> Service {
    world.service(state, world.store.clone(), DEAD)
}

/// Returns the contents that the catalogue says the vault can give, each with its chunks.
fn contents(service: &Service) -> Vec<(Id, Vec<Id>)> {
    let docs = service.catalogue.directories().unwrap().remove(0).path;
    let versions =
        (0..12).flat_map(|name| service.history_of(&docs.join(name.to_string())).unwrap().versions);
    let contents: BTreeSet<Id> = versions.map(|version| version.checksum.parse().unwrap()).collect();
    let with_chunks = |content| {
        let chunks = service.catalogue.chunks("local", content).unwrap()?;
        Some((content, chunks.into_iter().map(|chunk| chunk.blob_id).collect()))
    };
    contents.into_iter().filter_map(with_chunks).collect()
}

#[test]
fn one_bad_list_does_not_hide_a_machine_of_which_nobody_knows_what_it_needs() {
    let mut world = with_three_backups();
    world.hour += 1;
    world.store.put(Kind::Meta, "machine-of-bob/db.7", b"torn").unwrap();
    let before = objects(&world.store);
    let mut hit = 0;
    for number in 0..6 {
        let (state, _) = world.copy();
        let store = Arc::new(Faults::on(&world.store).that_lists_less(Kind::Meta, number));
        let mut service = world.service(state.path(), store.clone(), DEAD);
        let error = super::world::prune(&mut service).unwrap_err();
        assert!(error.to_string().contains("machine-of-bob"), "{number}: {error}");
        assert_eq!(objects(&world.store), before, "{number}");
        hit += u32::from(store.was_hit());
    }
    assert!(hit >= 3, "{hit} lists were short");
}

#[test]
fn one_bad_list_of_the_index_has_a_recovery_forget_nothing() {
    let mut world = with_three_backups();
    world.hour += 1;
    let before = contents(&open(&world, world.state.path()));
    let mut hit = 0;
    for number in 0..4 {
        let (state, _) = world.copy();
        std::fs::remove_file(state.path().join("vault/catalogue.db")).unwrap();
        let store = Arc::new(Faults::on(&world.store).that_lists_less(Kind::Index, number));
        let around = world.around(state.path(), store.clone(), std::process::id());
        let order = RecoverOrder::default();
        Service::recover(&around, &order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
        assert_eq!(contents(&open(&world, state.path())), before, "{number}");
        hit += u32::from(store.was_hit());
    }
    assert!(hit >= 2, "{hit} lists were short");
}

#[test]
fn a_check_cries_for_no_version_that_went_with_its_snapshot_and_for_each_that_did_not() {
    let mut world = with_three_backups();
    world.hour += 1;
    // As another machine of the vault knows it, which was away meanwhile.
    let (state, _) = world.copy();
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    let keep = Some("last 1 session".parse().unwrap());
    let order = PruneOrder { keep, at_once: true, ..PruneOrder::default() };
    let report = service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
    let gone = report.vaults[0].versions_gone;
    assert!(gone > 0, "{report:?}");
    let checked = |state: &Path| {
        let mut service = world.service(state, world.store.clone(), std::process::id());
        service.check(None, None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap().remove(0)
    };
    let away = checked(state.path());
    assert!(away.summary.problems.is_empty(), "{away:?}");
    assert_eq!(away.versions_gone, gone);
    let here = checked(world.state.path());
    assert!(here.summary.problems.is_empty() && here.versions_gone == 0, "{here:?}");
    // Without the newest snapshot, which no rule takes, what came with it went for no reason that anybody knows.
    for kind in [Kind::Snapshot, Kind::Index, Kind::Pack] {
        for (name, _) in world.store.list(kind).unwrap() {
            world.store.delete(kind, &name).unwrap();
        }
    }
    let lost = checked(world.state.path());
    assert!(lost.summary.problems.count() >= 12 && lost.versions_gone == 0, "{lost:?}");
}

#[test]
fn a_vault_that_is_full_is_pruned_and_what_found_no_room_leaves_nothing_behind() {
    let mut world = with_three_backups();
    // Each of them leaves small packs, which a prune would put together.
    for seed in 4..9 {
        world.put(0..1, seed);
        world.now(|service| super::world::stage(service).and_then(|()| super::world::back_up(service)));
    }
    world.hour += 1;
    let prune = |store: Arc<dyn Store>, keep: &str| {
        let mut service = world.service(world.state.path(), store, DEAD);
        let keep = Some(keep.parse().unwrap());
        let order = PruneOrder { keep, at_once: true, ..PruneOrder::default() };
        service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).map(drop)
    };
    let stored = || world.store.list(Kind::Pack).unwrap();
    let bytes = || stored().iter().map(|(_, size)| size).sum::<u64>();
    let before = (stored(), bytes());
    // So many packs find room while those of all backups are put together, and while those of one are.
    for (fits, keep) in [(1, "all 100d"), (0, "last 1 session")] {
        let room = AtomicUsize::new(fits);
        let full = Faults::on(&world.store).that_fails(move |call| {
            let is_put = call.what == "put" && call.kind == Kind::Pack;
            let is_over = is_put && room.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err();
            is_over.then(|| ModuleError::new(ErrorKind::DiskSpace, "no room"))
        });
        let error = prune(Arc::new(full), keep).unwrap_err();
        assert_eq!(error.kind, ErrorKind::DiskSpace, "{error}");
        let is_old = |pack: &(String, u64)| before.0.contains(pack);
        assert!(stored().iter().all(is_old), "{fits}: nothing is left of what found no room");
        is_sound(&world.store, "full");
        everything_is_there(
            &world.service(world.state.path(), world.store.clone(), DEAD),
            &world.store,
            "full",
        );
    }
    assert!(bytes() < before.1, "what nobody needs went: {} of {}", bytes(), before.1);
    prune(world.store.clone(), "last 1 session").unwrap();
    assert!(stored().len() < before.0.len());
    is_sound(&world.store, "in the end");
}

#[test]
fn a_check_says_of_what_it_found_whether_a_second_read_differs() {
    let world = with_three_backups();
    let checked = |at| {
        let flaky = Flaky::new(&world.store, at);
        let repo = Repository::open(flaky, b"x").ok()?;
        check(&repo, &Reading::All, &Quiet::default()).ok().map(|found| found.problems.kept().to_vec())
    };
    let mut told = 0;
    for at in 0..40 {
        let problems = checked(at).unwrap_or_default();
        // What is not listed is missing for this run.
        let is_unlisted = problems.iter().any(|one| one.contains("is missing") || one.contains("no index"));
        let is_told = problems.iter().any(|one| one.contains("a second read gives other bytes"));
        assert!(problems.is_empty() || is_unlisted || is_told, "{at}: {problems:?}");
        told += u32::from(is_told);
    }
    assert!(told > 8, "{told}");
    let pack = packs(&world, BlobKind::Data).remove(0);
    change(&world, Kind::Pack, &pack, |bytes| bytes[100] ^= 1);
    let really = checked(usize::MAX).unwrap();
    assert!(!really.is_empty() && really.iter().all(|one| !one.contains("second read")), "{really:?}");
}

#[test]
fn a_disk_that_is_not_mounted_is_not_a_vault_that_lost_everything() {
    let world = with_three_backups();
    for (name, _) in world.store.list(Kind::Pack).unwrap() {
        world.store.delete(Kind::Pack, &name).unwrap();
    }
    let before = objects(&world.store);
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    let error = repair_as(&mut service, &RepairWish::default()).unwrap_err();
    assert!(error.kind == ErrorKind::Unreachable && error.to_string().contains("none of the"), "{error}");
    assert_eq!(objects(&world.store), before);
    let summary = repair_as(&mut service, &everything()).unwrap().summary;
    assert_eq!(summary.removed.len(), 3, "who says that it is lost is believed: {summary:?}");
    is_sound(&world.store, "empty");
}

#[test]
fn what_a_newer_program_wrote_is_not_damaged() {
    let world = with_three_backups();
    for kind in [Kind::Snapshot, Kind::Index] {
        let name = opened(&world.store).save(kind, &["of the future"]).unwrap().hex();
        let before = objects(&world.store);
        let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
        let error = repair_as(&mut service, &everything()).unwrap_err();
        assert!(error.to_string().contains("not understood") && error.to_string().contains(&name), "{error}");
        assert_eq!(objects(&world.store), before);
        world.store.delete(kind, &name).unwrap();
    }
}

#[test]
fn what_a_pack_that_was_not_read_should_have_as_well_is_kept_unless_it_has_it() {
    let world = with_three_backups();
    let pack: Id = packs(&world, BlobKind::Data).remove(0).parse().unwrap();
    let repo = opened(&world.store);
    let indexed = || {
        let files = repo.index_files().unwrap();
        files.into_iter().flat_map(|(_, file)| file.packs).find(|one| one.id == pack).unwrap()
    };
    let before = indexed();
    // The same blobs once more, of which the first is damaged: its pack is not read, and so nobody knows.
    let writer = Writer::new(&repo).unwrap();
    let mut packer = writer.packer(BlobKind::Data).unwrap();
    repo.load_index().unwrap();
    for blob in &before.blobs {
        let at = repo.find(BlobKind::Data, &blob.id).unwrap();
        let sealed = world.store.get_range(Kind::Pack, &pack.hex(), at.offset.into(), at.length as usize);
        packer.carry(blob.id, &at, &sealed.unwrap()).unwrap();
    }
    packer.flush().unwrap();
    writer.index().unwrap();
    let twin = repo.find(BlobKind::Data, &before.blobs[0].id).unwrap().pack;
    assert_ne!(twin, pack);
    change(&world, Kind::Pack, &twin.hex(), |bytes| bytes[40] ^= 1);
    let end = before.blobs.last().map(|blob| (blob.offset + blob.length) as usize).unwrap();
    change(&world, Kind::Pack, &pack.hex(), |bytes| bytes.truncate(end - 1));
    let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
    let summary = repair_as(&mut service, &RepairWish::default()).unwrap().summary;
    assert_eq!(summary.damaged.len(), 1, "{summary:?}");
    repair_as(&mut service, &everything()).unwrap();
    is_sound(&world.store, "each blob was somewhere");
    everything_is_there(&service, &world.store, "in the end");
    let held = held(&world.store);
    assert!(before.blobs.iter().all(|blob| held.contains(&blob.id)));
    let named: Vec<(String, IndexFile)> = opened(&world.store).index_files().unwrap();
    assert!(named.iter().flat_map(|(_, file)| &file.packs).all(|one| one.id != pack && one.id != twin));
}
