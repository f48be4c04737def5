//! Where each blob lies, and how it is read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pc_switcher_contract::ModuleError;

use super::Repository;
use crate::error::{Result, UNSTEADY, damaged};
use crate::format::index::{IndexFile, IndexedBlob, IndexedPack};
use crate::format::{BlobKind, Id, Key, unpacked};
use crate::store::Kind;

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: Id,
    /// What the blob holds.
    pub kind: BlobKind,
    /// Where it begins.
    pub offset: u32,
    /// How long it is, encrypted.
    pub length: u32,
    /// How long it is when unpacked, if it was compressed.
    pub uncompressed_length: Option<u32>,
}

/// Ids are random already.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

pub(super) type ById<T> = HashMap<Id, T, BuildHasherDefault<IdHasher>>;

/// Packs by number: an id per blob would double the memory.
#[derive(Default)]
struct Known {
    packs: Vec<Id>,
    pack_numbers: ById<u32>,
    /// Of each kind for itself: the text of a tree may be the content of a file, too.
    data: ById<Place>,
    trees: ById<Place>,
}

/// The number of the pack, and what else a [`Location`] says.
type Place = (u32, u32, u32, u32);

impl Known {
    fn of(&self, kind: BlobKind) -> &ById<Place> {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }

    fn add(&mut self, pack: &IndexedPack) {
        let next = self.packs.len() as u32;
        let number = *self.pack_numbers.entry(pack.id).or_insert(next);
        if number == next {
            self.packs.push(pack.id);
        }
        for blob in &pack.blobs {
            let IndexedBlob { kind, offset, length, uncompressed_length, .. } = *blob;
            let blobs = match kind {
                BlobKind::Data => &mut self.data,
                BlobKind::Tree => &mut self.trees,
            };
            blobs.insert(blob.id, (number, offset, length, uncompressed_length.unwrap_or(0)));
        }
    }
}

/// What the index files say, and what was written since.
#[derive(Default)]
pub(super) struct Blobs {
    known: RwLock<Known>,
    loaded: std::sync::Mutex<bool>,
    /// The index files that say it.
    files: std::sync::Mutex<BTreeSet<Id>>,
}

impl Blobs {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Repository {
    /// Reads the index files, once.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn load_index(&self) -> Result<()> {
        let mut loaded = self.blobs.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !*loaded {
            for (name, _) in self.store.list(Kind::Index)? {
                let file: IndexFile = self.load(Kind::Index, &name)?;
                let mut known = self.blobs.write();
                file.packs.iter().for_each(|pack| known.add(pack));
                drop(known);
                name.parse().map(|id| self.note_index(id)).ok();
            }
            *loaded = true;
        }
        Ok(())
    }

    /// Notes an index file that says what is known.
    pub(super) fn note_index(&self, id: Id) {
        self.blobs.files.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Returns the index files that were read or written.
    pub(crate) fn indexes_read(&self) -> BTreeSet<Id> {
        self.blobs.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes this for all that is known of packs, whatever the index files say.
    pub(crate) fn know<'p>(&self, packs: impl IntoIterator<Item = &'p IndexedPack>) {
        let mut known = Known::default();
        packs.into_iter().for_each(|pack| known.add(pack));
        *self.blobs.write() = known;
        *self.blobs.loaded.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Forgets what the index said and reads it again.
    ///
    /// # Errors
    /// If one of the index files cannot be read.
    pub fn reload_index(&self) -> Result<()> {
        *self.blobs.loaded.lock().unwrap_or_else(PoisonError::into_inner) = false;
        *self.blobs.write() = Known::default();
        self.blobs.files.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.load_index()
    }

    /// Whether an index knows a pack.
    pub(crate) fn knows_pack(&self, pack: &Id) -> bool {
        self.blobs.read().pack_numbers.contains_key(pack)
    }

    /// Returns a pack that this index knows and that is not among these.
    pub(crate) fn known_besides(&self, named: &HashSet<Id>) -> Option<Id> {
        self.blobs.read().pack_numbers.keys().find(|pack| !named.contains(pack)).copied()
    }

    /// Adds a pack that was just written.
    pub(super) fn learn(&self, pack: &IndexedPack) {
        self.blobs.write().add(pack);
    }

    /// Returns where a blob of this kind lies, if the index knows it.
    pub fn find(&self, kind: BlobKind, id: &Id) -> Option<Location> {
        let known = self.blobs.read();
        let (pack, offset, length, unpacked) = *known.of(kind).get(id)?;
        let pack = *known.packs.get(pack as usize)?;
        Some(Location {
            pack,
            kind,
            offset,
            length,
            uncompressed_length: (unpacked != 0).then_some(unpacked),
        })
    }

    /// Returns the packs in which these contents of files lie, as far as the index knows them.
    pub(crate) fn packs_of<'i>(&self, blobs: impl IntoIterator<Item = &'i Id>) -> BTreeSet<Id> {
        let known = self.blobs.read();
        let place = |id: &Id| known.data.get(id).or_else(|| known.trees.get(id));
        let packs = blobs.into_iter().filter_map(|id| known.packs.get(place(id)?.0 as usize));
        packs.copied().collect()
    }

    /// Returns the packs in which trees lie.
    pub(crate) fn packs_of_trees(&self) -> BTreeSet<Id> {
        let known = self.blobs.read();
        known.trees.values().filter_map(|place| known.packs.get(place.0 as usize)).copied().collect()
    }

    /// Whether one of these packs turned out to lie in cold storage.
    pub(crate) fn is_cold<'i>(&self, packs: impl IntoIterator<Item = &'i Id>) -> bool {
        self.store.has_cold() && packs.into_iter().any(|pack| self.store.is_cold(Kind::Pack, &pack.hex()))
    }

    /// Returns how much all trees are, as they lie there.
    pub fn tree_bytes(&self) -> u64 {
        self.blobs.read().trees.values().map(|(_, _, length, _)| u64::from(*length)).sum()
    }

    /// Whether something lies here as the other kind alone: older versions stored the text of a tree that was the content of a file
    /// once, as whichever came first.
    pub fn lies_as_other(&self, kind: BlobKind, id: &Id) -> bool {
        self.find(kind, id).is_none() && self.find(kind.other(), id).is_some()
    }

    /// Returns all packs that the index knows, with their blobs.
    pub fn indexed(&self) -> HashMap<Id, Vec<(Id, Location)>> {
        let known = self.blobs.read();
        let ids = |kind| known.of(kind).keys().map(move |id| (kind, *id));
        let all: Vec<(BlobKind, Id)> = ids(BlobKind::Data).chain(ids(BlobKind::Tree)).collect();
        let mut packs: HashMap<Id, Vec<(Id, Location)>> = HashMap::new();
        drop(known);
        for (kind, id) in all {
            if let Some(location) = self.find(kind, &id) {
                packs.entry(location.pack).or_default().push((id, location));
            }
        }
        packs
    }

    /// Reads a blob and proves that it is the one; what lies here as the other kind alone is the same bytes.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn blob(&self, kind: BlobKind, id: Id) -> Result<Vec<u8>> {
        self.load_index()?;
        let place = self.store.place();
        let location = self.find(kind, &id).or_else(|| self.find(kind.other(), &id)).ok_or_else(|| {
            let what = match kind {
                BlobKind::Data => "blob",
                BlobKind::Tree => "tree",
            };
            ModuleError::failed(format!("no index of `{place}` knows the {what} `{id}`"))
                .hint("`bt repair` makes the index anew")
        })?;
        self.read_at(id, &location)
    }

    /// Reads a blob from where it is said to lie, and proves that it is the one.
    ///
    /// # Errors
    /// If it cannot be read, or is not as it was written.
    pub(crate) fn read_at(&self, id: Id, at: &Location) -> Result<Vec<u8>> {
        let (pack, length) = (at.pack.hex(), at.length as usize);
        let sealed = self.store.get_range(Kind::Pack, &pack, at.offset.into(), length)?;
        blob_from_pack(&self.key, &sealed, id, at).map_err(|why| {
            let what = format!("pack `{pack}` in `{}`", self.store.place());
            match self.is_unsteady(at, &sealed) {
                Ok(false) => damaged(what, why),
                Ok(true) => damaged(what, format!("{why}; {UNSTEADY}")),
                Err(error) => damaged(what, format!("{why}; it cannot be read a second time: {error}")),
            }
        })
    }

    /// Whether another read of a part of a pack is not what the first one was.
    pub(super) fn is_unsteady(&self, at: &Location, first: &[u8]) -> Result<bool> {
        let pack = self.store.get_afresh(Kind::Pack, &at.pack.hex())?.unwrap_or_default();
        let second = pack.get(at.offset as usize..).and_then(|rest| rest.get(..at.length as usize));
        Ok(second != Some(first))
    }

    /// Returns the key, for who reads packs whole.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

/// Decrypts and unpacks a blob and proves that it is the one.
///
/// # Errors
/// If it is not as it was written.
pub fn blob_from_pack(
    key: &Key,
    sealed: &[u8],
    id: Id,
    location: &Location,
) -> std::result::Result<Vec<u8>, String> {
    let plain = key.open(sealed).map_err(|_| format!("blob `{id}` is not as it was written"))?;
    let plain = match location.uncompressed_length {
        Some(length) => unpacked::inflate(&plain, length as usize)?,
        None => plain,
    };
    if Id::of(&plain) == id { Ok(plain) } else { Err(format!("blob `{id}` holds something else")) }
}
