//! Every store call of a backup and of a prune fails, or is the last one of a program that dies, before or after it counts.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::world::{DEAD, World, back_up, prune, stage, with_three_backups};
use super::*;
use crate::engine::{Quiet, Reading, check};
use crate::format::{BlobKind, Id};
use crate::store::{Kind, MemoryStore, Store};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    FailsBefore,
    FailsAfter,
    DiesBefore,
    DiesAfter,
}

/// A store of which one call goes wrong.
pub struct Faulty {
    inner: Arc<MemoryStore>,
    at: usize,
    fault: Fault,
    calls: AtomicUsize,
    is_dead: AtomicBool,
    packed: AtomicU64,
    pub writes: Mutex<Vec<usize>>,
}

impl Faulty {
    pub fn new(inner: &Arc<MemoryStore>, at: usize, fault: Fault) -> Arc<Self> {
        let (calls, is_dead, packed) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicU64::new(0));
        Arc::new(Self { inner: inner.clone(), at, fault, calls, is_dead, packed, writes: Mutex::default() })
    }

    pub fn sound(inner: &Arc<MemoryStore>) -> Arc<Self> {
        Self::new(inner, usize::MAX, Fault::FailsBefore)
    }

    fn was_hit(&self) -> bool {
        self.calls.load(Ordering::SeqCst) > self.at
    }

    pub fn packed(&self) -> u64 {
        self.packed.load(Ordering::SeqCst)
    }

    fn call<T>(&self, writes: bool, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let gone = || Err(ModuleError::failed("the disk is gone"));
        if self.is_dead.load(Ordering::SeqCst) {
            return gone();
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if writes {
            self.writes.lock().unwrap().push(call);
        }
        if call != self.at {
            return run();
        }
        if matches!(self.fault, Fault::DiesBefore | Fault::DiesAfter) {
            self.is_dead.store(true, Ordering::SeqCst);
        }
        if writes && matches!(self.fault, Fault::FailsAfter | Fault::DiesAfter) {
            run()?;
        }
        gone()
    }
}

impl Store for Faulty {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        self.call(true, || {
            if kind == Kind::Pack {
                self.packed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            }
            self.inner.put(kind, name, bytes)
        })
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.call(false, || self.inner.get(kind, name))
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.call(false, || self.inner.get_range(kind, name, offset, length))
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        self.call(false, || self.inner.list(kind))
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.call(true, || self.inner.delete(kind, name))
    }

    fn place(&self) -> String {
        "memory".into()
    }
}

impl World {
    /// Lets every call of a run go wrong once, and runs it again; returns how many faults there were.
    fn survives(&self, run: impl Fn(&mut Service) -> Result<()>) -> usize {
        let (state, store) = self.copy();
        let whole = Faulty::sound(&store);
        run(&mut self.service(state.path(), whole.clone(), DEAD)).unwrap();
        let (expected, mut faults) = (contents(&store), 0);
        let every: Vec<usize> = (0..whole.calls.load(Ordering::SeqCst)).collect();
        // To die at a call that reads is to die before the next one that writes.
        let writes = whole.writes.lock().unwrap().clone();
        let after = [Fault::FailsAfter, Fault::DiesBefore, Fault::DiesAfter].map(|fault| (fault, &writes));
        for (fault, calls) in after.into_iter().chain([(Fault::FailsBefore, &every)]) {
            for at in calls.iter().copied() {
                let (state, store) = self.copy();
                let faulty = Faulty::new(&store, at, fault);
                let ended = run(&mut self.service(state.path(), faulty.clone(), DEAD));
                faults += usize::from(faulty.was_hit());
                let what = format!("{fault:?} {at}: {ended:?}");
                is_sound(&store, &what);
                copies_are_whole(&store, &what);
                let again = Faulty::sound(&store);
                let mut service = self.service(state.path(), again.clone(), std::process::id());
                run(&mut service).unwrap_or_else(|error| panic!("{what}: {error}"));
                is_sound(&store, &what);
                copies_are_whole(&store, &what);
                everything_is_there(&service, &store, &what);
                assert_eq!(contents(&store), expected, "{what}");
                let (stored, most) = (faulty.packed() + again.packed(), whole.packed() * 105 / 100);
                assert!(
                    stored <= most,
                    "{what}: {} and {} are more than {most}",
                    faulty.packed(),
                    again.packed()
                );
            }
        }
        faults
    }
}

pub fn opened(store: &Arc<MemoryStore>) -> Repository {
    Repository::open(store.clone(), b"x").unwrap()
}

/// Chunks that the index knows, those that the newest snapshot has, and locks. Trees name directories of others, whose times
/// change.
pub fn contents(store: &Arc<MemoryStore>) -> (Vec<Id>, Vec<Id>, usize) {
    let repo = opened(store);
    repo.load_index().unwrap();
    let indexed = repo.indexed();
    let chunks = indexed.values().flatten().filter(|(_, at)| at.kind == BlobKind::Data);
    let mut chunks: Vec<Id> = chunks.map(|(id, _)| *id).collect();
    chunks.sort_unstable();
    let (mut newest, mut todo) = (Vec::new(), vec![repo.snapshots().unwrap().pop().unwrap().1.tree]);
    while let Some(tree) = todo.pop() {
        for node in repo.tree(tree).unwrap().nodes {
            todo.extend(node.subtree);
            newest.extend(node.content.into_iter().flatten());
        }
    }
    (chunks, newest, store.list(Kind::Lock).unwrap().len())
}

pub fn is_sound(store: &Arc<MemoryStore>, what: &str) {
    let found = check(&opened(store), &Reading::All, &Quiet::default()).unwrap();
    assert_eq!(found.problems.kept(), [""; 0], "{what}");
}

/// Proves that each copy of a catalogue that is named can be read whole.
fn copies_are_whole(store: &Arc<MemoryStore>, what: &str) {
    let (repo, scratch) = (opened(store), tempfile::tempdir().unwrap());
    for host in copies::hosts(&**store).unwrap() {
        for version in copies::versions(&**store, &host).unwrap() {
            let fetched = copies::fetch(&repo, &host, version, &scratch.path().join("copy.db"));
            fetched.unwrap_or_else(|error| panic!("{what}: copy {version}: {error}"));
        }
    }
}

/// Proves that each version can be read that the catalogue says is there, and that twelve files have one.
pub fn everything_is_there(service: &Service, store: &Arc<MemoryStore>, what: &str) {
    assert_eq!(all_that_is_noted_is_there(service, store, what), 12, "{what}: each current version is there");
}

/// Proves that each version can be read that the catalogue says is there, and returns how many are current ones of files.
pub fn all_that_is_noted_is_there(service: &Service, store: &Arc<MemoryStore>, what: &str) -> u64 {
    let repo = opened(store);
    let directory = service.catalogue.directories().unwrap().remove(0);
    let mut read = 0;
    for file in service.catalogue.current_files(&directory, Path::new(""), None, 1000).unwrap() {
        if !file.version.facts.is_file() {
            continue;
        }
        for version in service.history_of(&directory.path.join(&file.name)).unwrap().versions {
            let content = version.checksum.parse().unwrap();
            let Some(chunks) = service.catalogue.chunks("local", content).unwrap() else { continue };
            let bytes: Vec<u8> =
                chunks.iter().flat_map(|chunk| repo.blob(BlobKind::Data, chunk.blob_id).unwrap()).collect();
            assert_eq!(Id::of(&bytes), content, "{what}: {}", file.name.display());
            read += u64::from(version.current);
        }
    }
    read
}

#[test]
fn whichever_call_of_a_backup_goes_wrong_the_vault_is_sound_and_little_is_stored_again() {
    let mut world = World::new();
    world.put(0..12, 1);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    world.put(0..6, 2);
    world.now(stage);
    let faults = world.survives(back_up);
    assert!(faults > 40, "{faults}");
}

#[test]
fn whichever_call_of_forgetting_goes_wrong_nothing_is_lost_that_is_needed() {
    let mut world = with_three_backups();
    world.hour += 1;
    let faults = world.survives(prune);
    assert!(faults > 80, "{faults}");
}

#[test]
fn whichever_call_of_removing_goes_wrong_nothing_is_lost_that_is_needed() {
    let mut world = with_three_backups();
    world.hour += 1;
    world.now(prune);
    let before = world.store.list(Kind::Pack).unwrap().len();
    world.hour += 24;
    let (state, store) = world.copy();
    prune(&mut world.service(state.path(), store.clone(), DEAD)).unwrap();
    assert!(store.list(Kind::Pack).unwrap().len() < before, "there is something to remove");
    let faults = world.survives(prune);
    assert!(faults > 80, "{faults}");
}

/// Prunes by rules that keep all snapshots: what there is to do are small packs.
fn prune_nothing(service: &mut Service) -> Result<()> {
    let order = PruneOrder { keep: Some("all 100d".parse().unwrap()), ..PruneOrder::default() };
    service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).map(drop)
}

/// Returns a machine of whose backups each stored a little.
fn with_small_packs() -> World {
    let mut world = with_three_backups();
    for seed in 4..9 {
        world.put(0..1, seed);
        world.now(|service| stage(service).and_then(|()| back_up(service)));
    }
    world.hour += 1;
    world
}

#[test]
fn whichever_call_of_putting_small_packs_together_goes_wrong_nothing_is_lost() {
    let mut world = with_small_packs();
    let packs = |world: &World| world.store.list(Kind::Pack).unwrap().len();
    let before = packs(&world);
    assert!(before >= 16, "of trees and of data one each backup: {before}");
    let faults = world.survives(prune_nothing);
    assert!(faults > 60, "{faults}");
    world.now(prune_nothing);
    assert_eq!(packs(&world), before + 2, "of trees and of data one each, until the grace ends");
    world.hour += 24;
    let faults = world.survives(prune_nothing);
    assert!(faults > 60, "{faults}");
    world.now(prune_nothing);
    assert_eq!(packs(&world), 2);
    let again = Faulty::sound(&world.store);
    let mut service = world.service(world.state.path(), again.clone(), DEAD);
    prune_nothing(&mut service).unwrap();
    assert_eq!(again.packed(), 0, "nothing is moved a second time");
    is_sound(&world.store, "in the end");
    everything_is_there(&service, &world.store, "in the end");
}

#[test]
fn what_a_backup_takes_up_again_before_the_grace_ends_stays() {
    let mut world = with_three_backups();
    world.hour += 1;
    world.now(prune);
    world.put(0..12, 1);
    let packed = Faulty::sound(&world.store);
    let mut service = world.service(world.state.path(), packed.clone(), DEAD);
    stage(&mut service).and_then(|()| back_up(&mut service)).unwrap();
    assert!(packed.packed() < 12 * 8_000 / 4, "{}: what is marked is used", packed.packed());
    drop(service);
    world.hour += 24;
    world.now(prune);
    is_sound(&world.store, "after the second prune");
    everything_is_there(&world.service(world.state.path(), world.store.clone(), DEAD), &world.store, "then");
}

#[test]
fn a_dry_run_of_pruning_writes_nothing() {
    let mut world = with_three_backups();
    world.hour += 1;
    let store = Faulty::sound(&world.store);
    let mut service = world.service(world.state.path(), store.clone(), DEAD);
    let keep = Some("last 1 session".parse().unwrap());
    let order = PruneOrder { keep, dry_run: true, ..PruneOrder::default() };
    let report = service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
    assert_eq!(report.vaults[0].verdicts.iter().filter(|verdict| !verdict.stays).count(), 2);
    assert!(report.vaults[0].summary.marked.1 > 0, "{report:?}");
    assert!(store.writes.lock().unwrap().is_empty());
    assert_eq!(service.operations(1).unwrap()[0].operation, "backup");
}
