//! A repository as it is found: what of its documents can be read, and an index that is made anew.

use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::de::DeserializeOwned;

use super::{Repository, blob_from_pack};
use crate::error::{Result, UNSTEADY};
use crate::format::index::IndexFile;
use crate::format::{BlobKind, Id, Snapshot, Tree, unpacked};
use crate::store::Kind;

/// A document that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
    /// How sure that is.
    pub harm: Harm,
}

/// Whether what was read may be taken for what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// It is damaged: two reads say the same.
    Damaged,
    /// A second read gave something else.
    Unsteady,
    /// It is as its writer wrote it, and only nothing that is understood here.
    Foreign,
}

/// All documents of a kind by name, and those that are damaged.
type Found<T, N = String> = (Vec<(N, T)>, Vec<Broken>);

impl Repository {
    /// Returns the index files, and those that are damaged.
    ///
    /// # Errors
    /// If the place cannot be read: what cannot be fetched is not damaged.
    pub fn index_found(&self) -> Result<Found<IndexFile>> {
        self.found(Kind::Index)
    }

    /// Returns the snapshots, the oldest first, and those that are damaged.
    ///
    /// # Errors
    /// If the place cannot be read.
    pub fn snapshots_found(&self) -> Result<Found<Snapshot, Id>> {
        let (found, broken) = self.found::<Snapshot>(Kind::Snapshot)?;
        let named = |(name, snapshot): (String, Snapshot)| {
            name.parse().map(|id| (id, snapshot)).map_err(ModuleError::failed)
        };
        let mut all: Vec<(Id, Snapshot)> = found.into_iter().map(named).collect::<Result<_>>()?;
        Self::by_time(&mut all);
        Ok((all, broken))
    }

    /// Reads a tree; why it is lost, if it is.
    ///
    /// # Errors
    /// If the place cannot be read.
    pub fn tree_found(&self, id: Id) -> Result<std::result::Result<Tree, String>> {
        let known = self.find(BlobKind::Tree, &id).or_else(|| self.find(BlobKind::Data, &id));
        let Some(at) = known else { return Ok(Err(format!("no index knows the tree `{id}`"))) };
        let (pack, length) = (at.pack.hex(), at.length as usize);
        let sealed = match self.store.get_range(Kind::Pack, &pack, at.offset.into(), length) {
            Ok(sealed) => sealed,
            // Whether it is not there or cannot be fetched.
            Err(error) => match self.store.get(Kind::Pack, &pack)? {
                Some(bytes) if bytes.len() >= at.offset as usize + length => return Err(error),
                _ => return Ok(Err(error.to_string())),
            },
        };
        let blob = blob_from_pack(self.key(), &sealed, id, &at);
        let why = match blob.and_then(|blob| Tree::from_blob(&blob)) {
            Ok(tree) => return Ok(Ok(tree)),
            Err(why) if self.is_unsteady(&at, &sealed)? => format!("{why}; {UNSTEADY}"),
            Err(why) => why,
        };
        Ok(Err(format!("pack `{pack}`: {why}")))
    }

    /// Whether another read of an object, which no cache answers, is not what the first one was.
    ///
    /// # Errors
    /// If the place cannot be read.
    pub(crate) fn reads_differ(&self, kind: Kind, name: &str, first: &[u8]) -> Result<bool> {
        let second = match self.store.get_afresh(kind, name) {
            Err(error) if error.kind == ErrorKind::Failed => self.store.salvage(kind, name),
            read => read,
        };
        Ok(second?.as_deref() != Some(first))
    }

    /// Reads an object, with zeros for what a disk does not give any more, where it can be told from the rest.
    ///
    /// # Errors
    /// If the place cannot be read.
    pub(crate) fn get_or_salvage(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        match self.store.get(kind, name) {
            Err(error) if error.kind == ErrorKind::Failed => self.store.salvage(kind, name),
            read => read,
        }
    }

    fn found<T: DeserializeOwned>(&self, kind: Kind) -> Result<Found<T>> {
        let (mut found, mut broken) = (Vec::new(), Vec::new());
        // Of what has another name nobody says that it is one.
        let names = self.store.list(kind)?.into_iter().map(|(name, _)| name);
        for name in names.filter(|name| name.parse::<Id>().is_ok()) {
            // It may have gone since it was listed.
            let Some(sealed) = self.get_or_salvage(kind, &name)? else { continue };
            let plain = self.key().open(&sealed).map_err(|_| "it is not as it was written".to_owned());
            let is_open = plain.is_ok();
            match plain.and_then(|plain| unpacked::decode(&plain)) {
                Ok(value) => found.push((name, value)),
                Err(why) if is_open && Id::of(&sealed).hex() == name => {
                    let why = format!("a newer program may have written it: {why}");
                    broken.push(Broken { name, why, harm: Harm::Foreign });
                }
                Err(why) if self.reads_differ(kind, &name, &sealed)? => {
                    broken.push(Broken { name, why: format!("{why}; {UNSTEADY}"), harm: Harm::Unsteady });
                }
                Err(why) => broken.push(Broken { name, why, harm: Harm::Damaged }),
            }
        }
        Ok((found, broken))
    }
}
