//! A machine with a vault in memory.

use std::fs;
use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use pc_switcher_contract::Clock;

use super::*;
use crate::engine::Quiet;
use crate::format::lock::Origin;
use crate::store::{Kind, MemoryStore, Store};

/// No process has this number: a lock of it is that of somebody who died.
pub const DEAD: u32 = u32::MAX >> 1;

/// A machine with one vault, of which copies are made.
pub struct World {
    pub home: tempfile::TempDir,
    pub state: tempfile::TempDir,
    pub store: Arc<MemoryStore>,
    pub hour: i64,
}

impl World {
    pub fn new() -> Self {
        let (home, state) = (scratch(), scratch());
        let store = Arc::new(MemoryStore::default());
        crate::repo::Repository::init(
            store.clone(),
            b"x",
            Cost::TINY,
            &Who::default(),
            Timestamp::UNIX_EPOCH,
        )
        .unwrap();
        let marker = format!(r#"{{"vault_id":"{}","layout":1}}"#, uuid::Uuid::nil());
        store.put(Kind::Marker, "", marker.as_bytes()).unwrap();
        let world = Self { home, state, store, hour: 0 };
        fs::create_dir(world.home.path().join("docs")).unwrap();
        let around = world.around(world.state.path(), world.store.clone(), DEAD);
        Service::init(&around, Some(Path::new("/vault")), "local").unwrap();
        Service::open(around).unwrap().track(&world.home.path().join("docs")).unwrap();
        world
    }

    pub fn around(&self, state: &Path, store: Arc<dyn Store>, pid: u32) -> Surroundings {
        let now = Timestamp::UNIX_EPOCH + self.hour.hours();
        let clock: Clock = Arc::new(move || now);
        let places = Places::new(self.home.path().join("bt.toml"), state.to_owned());
        let [machine_id, boot_id, pid_namespace] = ["machine", "boot", "processes"].map(str::to_owned);
        let origin = Origin { machine_id, boot_id, pid_namespace };
        let who = Who { hostname: "laptop".into(), pid, origin, ..Who::default() };
        let stores: OpenStore = Arc::new(move |_| Ok(store.clone()));
        Surroundings {
            places,
            above: Above::default(),
            clock,
            who,
            cost: Cost::TINY,
            stores,
            stop: Stop::default(),
        }
    }

    pub fn service(&self, state: &Path, store: Arc<dyn Store>, pid: u32) -> Service {
        Service::open(self.around(state, store, pid)).unwrap()
    }

    /// Writes these files, an hour later.
    pub fn put(&mut self, names: std::ops::Range<u64>, seed: u64) {
        self.hour += 1;
        for name in names {
            let content = noise(8_000, seed * 100 + name + 1);
            fs::write(self.home.path().join(format!("docs/{name}")), content).unwrap();
        }
    }

    pub fn now(&self, run: impl Fn(&mut Service) -> Result<()>) {
        run(&mut self.service(self.state.path(), self.store.clone(), std::process::id())).unwrap();
    }

    /// Returns a copy of the state and of the vault.
    pub fn copy(&self) -> (tempfile::TempDir, Arc<MemoryStore>) {
        let copy = scratch();
        for directory in ["", "vault", "vault/stage"] {
            let (from, to) = (self.state.path().join(directory), copy.path().join(directory));
            fs::create_dir_all(&to).unwrap();
            for entry in from.read_dir().unwrap().map(|entry| entry.unwrap()) {
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
            }
        }
        (copy, Arc::new((*self.store).clone()))
    }
}

/// Returns a directory in memory where there is one: the catalogue's syncing takes most of the time otherwise.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

pub fn back_up(service: &mut Service) -> Result<()> {
    service.backup(None, &mut |_| Ok(b"x".into()), &Quiet::default()).map(drop)
}

pub fn prune(service: &mut Service) -> Result<()> {
    let order = PruneOrder { keep: Some("last 1 session".parse().unwrap()), ..PruneOrder::default() };
    service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).map(drop)
}

pub fn stage(service: &mut Service) -> Result<()> {
    let docs = service.tracked_directories()?.remove(0).path;
    service.add(Path::new(&docs), true, &Quiet::default()).map(drop)
}

/// Returns a machine with three backups, half of the files changed between them.
pub fn with_three_backups() -> World {
    let mut world = World::new();
    for (names, seed) in [(0..12, 1), (0..6, 2), (3..9, 3)] {
        world.put(names, seed);
        world.now(|service| stage(service).and_then(|()| back_up(service)));
    }
    world
}
