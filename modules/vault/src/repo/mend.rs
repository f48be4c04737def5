//! A repository as it is found: what of its documents can be read, and an index that is made anew.

use pc_switcher_contract::ModuleError;
use serde::de::DeserializeOwned;

use super::{Repository, blob_from_pack};
use crate::error::Result;
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
        Ok(blob.and_then(|blob| Tree::from_blob(&blob)).map_err(|why| format!("pack `{pack}`: {why}")))
    }

    fn found<T: DeserializeOwned>(&self, kind: Kind) -> Result<Found<T>> {
        let (mut found, mut broken) = (Vec::new(), Vec::new());
        for (name, _) in self.store.list(kind)? {
            // It may have gone since it was listed.
            let Some(sealed) = self.store.get(kind, &name)? else { continue };
            let plain = self.key().open(&sealed).map_err(|_| "it is not as it was written".to_owned());
            match plain.and_then(|plain| unpacked::decode(&plain)) {
                Ok(value) => found.push((name, value)),
                Err(why) => broken.push(Broken { name, why }),
            }
        }
        Ok((found, broken))
    }
}
