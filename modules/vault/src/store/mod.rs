//! Where a vault lies: whole objects, written once under a name, never half.

mod cold;
#[cfg(test)]
pub(crate) mod faults;
mod fs;
mod memory;
pub mod s3;
pub mod ssh;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Result;

pub use cold::{Depth, Fetching, Thaw, Tier};
pub use fs::FsStore;
pub use memory::MemoryStore;
pub use s3::S3Store;
pub use ssh::SshStore;

/// How often a wait looks whether somebody wants the run to end.
const TICK: Duration = Duration::from_millis(50);
/// How long silence may last once somebody wants to stop: what tidies up goes on until then.
const SILENCE_AT_THE_END: Duration = Duration::from_secs(10);

/// Says whether somebody wants a run to end, and hears for what it waits. Who may wait for long looks at it; all copies are one.
#[derive(Clone, Default)]
pub struct Stop(Arc<Hooks>);

/// Tells somebody something.
type Tell = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct Hooks {
    is_asked: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    waits: OnceLock<Tell>,
}

impl Stop {
    /// Says how to find out; the first that is said holds.
    pub fn when(&self, is_asked: impl Fn() -> bool + Send + Sync + 'static) {
        self.0.is_asked.set(Box::new(is_asked)).ok();
    }

    /// Says who is told for what a run waits; the first that is said holds.
    pub fn tell_waits(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        self.0.waits.set(Box::new(tell)).ok();
    }

    /// Whether somebody wants the run to end.
    pub fn is_asked(&self) -> bool {
        self.0.is_asked.get().is_some_and(|is_asked| is_asked())
    }

    /// Tells for what the run waits now.
    pub(crate) fn waits(&self, text: &str) {
        if let Some(tell) = self.0.waits.get() {
            tell(text);
        }
    }

    /// Waits between two tries; a stop ends it.
    pub(crate) fn wait(&self, pause: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < pause && !self.is_asked() {
            std::thread::sleep(pause.saturating_sub(begun.elapsed()).min(TICK));
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_asked()).finish()
    }
}

/// What an object is; each kind has its own place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Config,
    Key,
    Lock,
    Index,
    Snapshot,
    Pack,
    /// What a machine keeps of its own beside the repository: `HOST/NAME`.
    Meta,
    /// Says that a vault lies here and which one: what an unmounted disk does not say.
    Marker,
}

impl Kind {
    /// Those of which there may be several.
    pub const LISTED: [Kind; 6] =
        [Kind::Key, Kind::Lock, Kind::Index, Kind::Snapshot, Kind::Pack, Kind::Meta];

    /// Returns what people call it.
    pub fn noun(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Key => "key",
            Kind::Lock => "lock",
            Kind::Index => "index",
            Kind::Snapshot => "snapshot",
            Kind::Pack => "pack",
            Kind::Meta => "metadata",
            Kind::Marker => "marker",
        }
    }
}

/// A place for objects. All methods may be called from several threads at once.
pub trait Store: Send + Sync {
    /// Stores an object, durably and whole or not at all; `false` if one of this name is there already, which stays.
    ///
    /// # Errors
    /// If the place cannot be written.
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool>;

    /// Stores a pack of trees, as [`Store::put`]: it is read more often than others.
    ///
    /// # Errors
    /// If the place cannot be written.
    fn put_trees(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.put(Kind::Pack, name, bytes)
    }

    /// Returns an object; `None` if there is none.
    ///
    /// # Errors
    /// If the place cannot be read.
    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>>;

    /// As [`Store::get`], but from where it lies: what a cache holds of it may be what is wrong.
    ///
    /// # Errors
    /// If the place cannot be read.
    fn get_afresh(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.get(kind, name)
    }

    /// As [`Store::get_afresh`], for who puts up with less: with zeros for what a disk does not give any more, where that can be told
    /// from the rest.
    ///
    /// # Errors
    /// If the place cannot be read.
    fn salvage(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.get_afresh(kind, name)
    }

    /// Returns a part of an object.
    ///
    /// # Errors
    /// If it is not there, or shorter.
    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>>;

    /// Returns the names and sizes of all objects of a kind, ordered by name.
    ///
    /// # Errors
    /// If the place cannot be read.
    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>>;

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// If the place cannot be written.
    fn delete(&self, kind: Kind, name: &str) -> Result<()>;

    /// Returns the place for people.
    fn place(&self) -> String;

    /// Whether nothing lies there, so that a repository may be made: nothing but keys without one, as an `init` leaves them that was
    /// cut off.
    ///
    /// # Errors
    /// If the place cannot be read.
    fn is_vacant(&self) -> Result<bool> {
        for kind in Kind::LISTED.into_iter().filter(|kind| *kind != Kind::Key) {
            if !self.list(kind)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(self.get(Kind::Config, "")?.is_none() && self.get(Kind::Marker, "")?.is_none())
    }

    /// Makes what must be there before the first object is written, or proves that it is.
    ///
    /// # Errors
    /// If it cannot be made.
    fn make_ready(&self) -> Result<()> {
        Ok(())
    }

    /// Whether a backup may remove what is outdated; if not, only pruning does, which may have other rights.
    fn removes_freely(&self) -> bool {
        true
    }

    /// Whether anything turned out to lie where it must be fetched from before it can be read. Asks nobody.
    fn has_cold(&self) -> bool {
        false
    }

    /// Whether an object turned out to lie so when it was read. Asks nobody.
    fn is_cold(&self, _kind: Kind, _name: &str) -> bool {
        false
    }

    /// Has an object fetched that may lie so, unless that was done before.
    ///
    /// # Errors
    /// If it is not there, or nobody fetches it for us.
    fn thaw(&self, _kind: Kind, _name: &str, _order: Thaw) -> Result<Fetching> {
        Ok(Fetching::Readable)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What every store is held to.
    pub(crate) fn keeps_the_contract(store: &dyn Store) {
        let name = "ab".repeat(32);
        assert!(store.is_vacant().unwrap());
        store.make_ready().unwrap();
        assert_eq!(store.get(Kind::Pack, &name).unwrap(), None);
        assert!(store.put(Kind::Pack, &name, b"0123456789").unwrap());
        assert!(!store.put(Kind::Pack, &name, b"another").unwrap(), "a name is written once");
        assert_eq!(store.get(Kind::Pack, &name).unwrap().unwrap(), b"0123456789");
        assert_eq!(store.get_afresh(Kind::Pack, &name).unwrap().unwrap(), b"0123456789");
        assert_eq!(store.get_afresh(Kind::Pack, &"cd".repeat(32)).unwrap(), None);
        assert_eq!(store.get_range(Kind::Pack, &name, 3, 4).unwrap(), b"3456");
        assert!(store.get_range(Kind::Pack, &name, 8, 4).is_err(), "it is shorter");
        assert!(store.get_range(Kind::Pack, &"cd".repeat(32), 0, 1).is_err());
        assert_eq!(store.list(Kind::Pack).unwrap(), [(name.clone(), 10)]);
        assert!(store.list(Kind::Index).unwrap().is_empty(), "kinds are apart");
        store.put(Kind::Meta, "host/db.1", b"x").unwrap();
        store.put(Kind::Config, "", b"c").unwrap();
        store.put(Kind::Marker, "", b"m").unwrap();
        assert!(!store.put(Kind::Meta, "host/db.1", b"other").unwrap());
        assert!(!store.put(Kind::Config, "", b"other").unwrap());
        assert!(!store.is_vacant().unwrap());
        assert_eq!(store.list(Kind::Meta).unwrap(), [("host/db.1".into(), 1)]);
        assert_eq!(store.get(Kind::Config, "").unwrap().unwrap(), b"c");
        assert_eq!(store.get(Kind::Marker, "").unwrap().unwrap(), b"m");
        store.delete(Kind::Pack, &name).unwrap();
        store.delete(Kind::Pack, &name).unwrap();
        assert_eq!(store.get(Kind::Pack, &name).unwrap(), None);
    }

    /// What every store is held to whose place decides who was the first: two write one name in the same moment, one of them is told that
    /// it was it, and its bytes are there then, whole.
    pub(crate) fn tells_two_at_once_apart(store: &dyn Store) {
        for round in 0..8 {
            let name = format!("{round:02x}").repeat(32);
            let start = std::sync::Barrier::new(2);
            let put = |byte: u8| {
                let bytes = vec![byte; 100_000];
                start.wait();
                store.put(Kind::Pack, &name, &bytes).unwrap()
            };
            let first = std::thread::scope(|scope| {
                let other = scope.spawn(|| put(b'b'));
                (put(b'a'), other.join().unwrap())
            });
            let there = store.get(Kind::Pack, &name).unwrap().unwrap();
            let winner = match first {
                (true, false) => b'a',
                (false, true) => b'b',
                both => panic!("round {round}: {both:?}"),
            };
            assert!(there == vec![winner; 100_000], "round {round}: {}", there.len());
            store.delete(Kind::Pack, &name).unwrap();
        }
    }

    #[test]
    fn a_wait_lasts_as_long_as_it_should_and_a_stop_ends_it() {
        let (begun, pause) = (Instant::now(), Duration::from_millis(20));
        Stop::default().wait(pause);
        assert!(begun.elapsed() >= pause);
        let stop = Stop::default();
        stop.when(|| true);
        let begun = Instant::now();
        stop.wait(Duration::from_secs(3_600));
        assert!(begun.elapsed() < Duration::from_secs(600), "nobody waited for an hour");
    }

    #[test]
    fn the_store_in_memory_keeps_the_contract() {
        let store = MemoryStore::default();
        keeps_the_contract(&store);
        tells_two_at_once_apart(&store);
    }

    #[test]
    fn the_store_on_disk_keeps_the_contract_and_leaves_nothing_half() {
        let dir = tempfile::tempdir().unwrap();
        let store = FsStore::at(dir.path());
        keeps_the_contract(&store);
        tells_two_at_once_apart(&store);
        let left = dir.path().join("pc-switcher/tmp").read_dir().unwrap().count();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_directory_is_vacant_with_what_an_init_left_and_not_with_what_somebody_else_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = FsStore::create(dir.path()).unwrap();
        let key = "ab".repeat(32);
        store.put(Kind::Key, &key, b"{}").unwrap();
        assert!(store.is_vacant().unwrap());
        for name in ["notes", "data/notes", "data/ab/notes", "keys/notes", "index/notes", "pc-switcher/notes"]
        {
            let path = dir.path().join(name);
            std::fs::write(&path, "x").unwrap();
            assert!(!store.is_vacant().unwrap(), "{name}");
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::create_dir(dir.path().join("data/photos")).unwrap();
        assert!(!store.is_vacant().unwrap());
    }

    #[test]
    fn a_part_of_a_vault_that_is_not_mounted_holds_not_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = FsStore::create(dir.path()).unwrap();
        let name = "ab".repeat(32);
        let parts = [
            (Kind::Pack, "data"),
            (Kind::Index, "index"),
            (Kind::Snapshot, "snapshots"),
            (Kind::Key, "keys"),
            (Kind::Lock, "locks"),
        ];
        for (kind, part) in parts {
            assert!(store.list(kind).unwrap().is_empty() && store.get(kind, &name).unwrap().is_none());
            let (there, away) = (dir.path().join(part), dir.path().join("away"));
            std::fs::rename(&there, &away).unwrap();
            let is_unreachable = || {
                let errors = [store.list(kind).map(drop), store.get(kind, &name).map(drop)];
                errors.into_iter().all(|error| {
                    error.is_err_and(|error| {
                        error.kind == pc_switcher_contract::ErrorKind::Unreachable
                            && error.message.contains(part)
                    })
                })
            };
            assert!(is_unreachable(), "{part}");
            std::os::unix::fs::symlink("nowhere", &there).unwrap();
            assert!(is_unreachable(), "{part}: a link to a disk that is away");
            std::fs::remove_file(&there).unwrap();
            if kind == Kind::Pack {
                std::fs::create_dir(&there).unwrap();
                assert!(is_unreachable(), "what it is mounted on");
                std::fs::remove_dir(&there).unwrap();
            }
            std::fs::rename(&away, &there).unwrap();
        }
        assert!(store.list(Kind::Meta).unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_is_gone_is_unreachable_and_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("disk");
        let store = FsStore::at(&root);
        let error = store.put(Kind::Lock, "x", b"").unwrap_err();
        assert!(!root.exists());
        assert!(error.to_string().contains("disk"), "{error}");
    }
}
