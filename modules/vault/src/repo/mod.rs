//! A repository: keys, index, blobs and documents over a store.

mod blobs;
mod keys;
mod locks;
pub(crate) mod marks;
mod mend;
mod open;
mod packs;
mod saver;
mod writer;

use std::sync::Arc;

pub use blobs::{Location, blob_from_pack};
pub use locks::{Held, ReadLock};
pub use marks::Marks;
pub use mend::{Broken, Harm};
pub use writer::{FileContent, FileTrouble, Packer, Stored, Writer};
pub(crate) use writer::{PACK, is_zeros};

use jiff::Timestamp;
use pc_switcher_contract::ModuleError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Result, damaged, no_random};
use crate::format::lock::{Looker, Origin};
use crate::format::{BlobKind, Chunker, Id, Key, RepoConfig, Snapshot, Tree, unpacked};
use crate::store::{Kind, Store};

/// Who works: written into keys, locks and snapshots.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// The machine.
    pub hostname: String,
    /// The user.
    pub username: String,
    /// The user, as a number.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The process.
    pub pid: u32,
    /// Where the process runs.
    pub origin: Origin,
    /// Since when the system runs, if anybody knows.
    pub booted_at: Option<Timestamp>,
}

impl Who {
    /// Returns who looks at locks.
    pub(crate) fn looker(&self) -> Looker<'_> {
        Looker { hostname: &self.hostname, origin: &self.origin }
    }
}

/// An open repository.
pub struct Repository {
    store: Arc<dyn Store>,
    key: Key,
    config: RepoConfig,
    chunker: Chunker,
    blobs: blobs::Blobs,
    watch: locks::Watch,
}

impl Repository {
    /// Returns what it says of itself.
    pub fn config(&self) -> &RepoConfig {
        &self.config
    }

    /// Returns where it lies.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Stores a document and returns its id.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save<T: Serialize>(&self, kind: Kind, value: &T) -> Result<Id> {
        let plain = unpacked::encode(value, self.config.version).map_err(ModuleError::failed)?;
        let sealed = self.seal(&plain)?;
        let id = Id::of(&sealed);
        self.store.put(kind, &id.hex(), &sealed)?;
        if kind == Kind::Index {
            self.note_index(id);
        }
        Ok(id)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// If it is not there, was changed, or is no such document.
    pub fn load<T: DeserializeOwned>(&self, kind: Kind, name: &str) -> Result<T> {
        let what = || format!("{} `{name}` in `{}`", kind.noun(), self.store.place());
        let sealed = self
            .store
            .get(kind, name)?
            .ok_or_else(|| ModuleError::failed(format!("{} is missing", what())))?;
        let plain = self.unseal(&sealed, what)?;
        unpacked::decode(&plain).map_err(|why| damaged(what(), why))
    }

    /// Encrypts bytes of any meaning with the master key.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        self.key.seal(plain).map_err(no_random)
    }

    /// Decrypts what [`Repository::seal`] made.
    ///
    /// # Errors
    /// If it was changed.
    pub fn unseal(&self, sealed: &[u8], what: impl Fn() -> String) -> Result<Vec<u8>> {
        self.key.open(sealed).map_err(|_| damaged(what(), "it is not as it was written"))
    }

    /// Returns all snapshots, the oldest first.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn snapshots(&self) -> Result<Vec<(Id, Snapshot)>> {
        let mut all = Vec::new();
        for (name, _) in self.store.list(Kind::Snapshot)? {
            let id = name.parse().map_err(ModuleError::failed)?;
            all.push((id, self.load::<Snapshot>(Kind::Snapshot, &name)?));
        }
        Self::by_time(&mut all);
        Ok(all)
    }

    fn by_time(snapshots: &mut [(Id, Snapshot)]) {
        let at = |snapshot: &Snapshot| snapshot.time.parse::<jiff::Timestamp>().unwrap_or_default();
        snapshots.sort_by_cached_key(|(id, snapshot)| (at(snapshot), *id));
    }

    /// Reads a tree.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn tree(&self, id: Id) -> Result<Tree> {
        let blob = self.blob(BlobKind::Tree, id)?;
        Tree::from_blob(&blob).map_err(|why| damaged(format!("tree `{id}` in `{}`", self.store.place()), why))
    }
}
