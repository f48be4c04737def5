//! Writing blobs: each thread fills packs of its own, all share what is known; the index follows the packs.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pc_switcher_contract::ModuleError;
use sha2::{Digest, Sha256};

use super::Repository;
use super::blobs::{IdHasher, Location};
use super::saver::{Filled, Savers};
use crate::error::{Result, no_random};
use crate::format::blob::{BlobKind, PackEntry, encode_header};
use crate::format::chunker::MAX;
use crate::format::index::{IndexFile, IndexedPack};
use crate::format::{Id, RepoConfig};
use crate::store::Kind;

/// A pack is written when it has grown to this size.
pub(crate) const PACK: usize = 16 << 20;
/// An index is written after so many packs, so that a run that was killed is not stored again.
const PACKS_PER_INDEX: usize = 8;
const LEVEL: i32 = 3;
/// Of so many bytes the checksum of the whole is reckoned by another thread.
const BESIDE: usize = 4 << 20;

/// Writes into a repository, from several threads.
pub struct Writer<'r> {
    pub(super) repo: &'r Repository,
    pub(super) savers: Savers,
    /// Of each kind for itself: sixteen parts of data, then sixteen of trees.
    claimed: [Mutex<HashSet<Id, BuildHasherDefault<IdHasher>>>; 32],
    unindexed: Mutex<Vec<IndexedPack>>,
    blobs: AtomicU64,
    bytes: AtomicU64,
}

/// What a run added to a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Blobs that were not there before.
    pub blobs: u64,
    /// Their size as stored.
    pub bytes: u64,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Its chunks, in order, with their lengths.
    pub chunks: Vec<(Id, u32)>,
    /// The SHA-256 of the whole.
    pub sha256: Id,
    /// Its length.
    pub size: u64,
}

impl<'r> Writer<'r> {
    /// Begins to write; reads the index.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn new(repo: &'r Repository) -> Result<Self> {
        repo.load_index()?;
        Ok(Self {
            repo,
            savers: Savers::default(),
            claimed: Default::default(),
            unindexed: Mutex::default(),
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Makes a packer for one thread and one kind of blobs.
    ///
    /// # Errors
    /// If the compressor cannot be set up.
    pub fn packer(&self, kind: BlobKind) -> Result<Packer<'_, 'r>> {
        let compressor =
            zstd::bulk::Compressor::new(LEVEL).map_err(|error| ModuleError::failed(error.to_string()))?;
        Ok(Packer {
            writer: self,
            kind,
            compressor,
            pack: Vec::new(),
            entries: Vec::new(),
            buffer: Vec::new(),
            zeros: None,
        })
    }

    /// Whether whoever asks is the one to store this blob.
    fn claim(&self, kind: BlobKind, id: Id) -> bool {
        if self.repo.find(kind, &id).is_some() {
            return false;
        }
        let first = if kind == BlobKind::Tree { 16 } else { 0 };
        let shard = &self.claimed[first + usize::from(id.0[31] & 15)];
        shard.lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }

    pub(super) fn add_pack(&self, pack: IndexedPack) -> Result<()> {
        self.repo.learn(&pack);
        let mut waiting = self.unindexed.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(pack);
        if waiting.len() < PACKS_PER_INDEX {
            return Ok(());
        }
        let packs = std::mem::take(&mut *waiting);
        drop(waiting);
        self.repo.save(Kind::Index, &IndexFile { packs }).map(drop)
    }

    /// Writes the index of what was packed so far; every packer must be flushed. Returns what was added in all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn index(&self) -> Result<Stored> {
        let packs = std::mem::take(&mut *self.unindexed.lock().unwrap_or_else(PoisonError::into_inner));
        if !packs.is_empty() {
            self.repo.save(Kind::Index, &IndexFile { packs })?;
        }
        Ok(Stored { blobs: self.blobs.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) })
    }
}

/// Fills packs on one thread.
pub struct Packer<'w, 'r> {
    writer: &'w Writer<'r>,
    kind: BlobKind,
    compressor: zstd::bulk::Compressor<'static>,
    pack: Vec<u8>,
    entries: Vec<PackEntry>,
    buffer: Vec<u8>,
    /// The last blob of zeros, by its length.
    zeros: Option<(usize, Id)>,
}

/// Why a file was not stored.
#[derive(Debug)]
pub enum FileTrouble {
    /// The file cannot be read: the next one may.
    Read(io::Error),
    /// The vault cannot be written: no other file will go better.
    Store(ModuleError),
}

impl Packer<'_, '_> {
    /// Stores a blob unless it is there already, and returns its id.
    ///
    /// # Errors
    /// If a pack cannot be written.
    pub fn add(&mut self, bytes: &[u8]) -> Result<Id> {
        self.writer.prove_saved()?;
        let id = Id::of(bytes);
        if self.writer.claim(self.kind, id) {
            self.append(id, bytes)?;
        }
        Ok(id)
    }

    /// Stores a blob; one of nothing but zeros is known from the one before, as a hole has many of them.
    fn add_again(&mut self, bytes: &[u8]) -> Result<Id> {
        if !is_zeros(bytes) {
            return self.add(bytes);
        }
        match self.zeros {
            Some((length, id)) if length == bytes.len() => Ok(id),
            _ => {
                let id = self.add(bytes)?;
                self.zeros = Some((bytes.len(), id));
                Ok(id)
            }
        }
    }

    fn append(&mut self, id: Id, bytes: &[u8]) -> Result<()> {
        let RepoConfig { version, .. } = self.writer.repo.config;
        let packed = match version {
            1 => None,
            _ => Some(
                self.compressor.compress(bytes).map_err(|error| ModuleError::failed(error.to_string()))?,
            ),
        };
        let packed = packed.as_deref().filter(|packed| packed.len() < bytes.len());
        let start = self.pack.len();
        self.writer.repo.key().seal_into(packed.unwrap_or(bytes), &mut self.pack).map_err(no_random)?;
        let length = (self.pack.len() - start) as u32;
        let uncompressed_length = packed.map(|_| bytes.len() as u32);
        self.entries.push(PackEntry { id, kind: self.kind, length, uncompressed_length });
        self.writer.blobs.fetch_add(1, Ordering::Relaxed);
        self.writer.bytes.fetch_add(length.into(), Ordering::Relaxed);
        if self.pack.len() >= PACK { self.flush() } else { Ok(()) }
    }

    /// Takes a blob as it lies in another pack, whether the index knows it or not.
    ///
    /// # Errors
    /// If a pack cannot be written.
    pub(crate) fn carry(&mut self, id: Id, at: &Location, sealed: &[u8]) -> Result<()> {
        self.pack.extend_from_slice(sealed);
        let (kind, length, uncompressed_length) = (self.kind, at.length, at.uncompressed_length);
        self.entries.push(PackEntry { id, kind, length, uncompressed_length });
        self.writer.blobs.fetch_add(1, Ordering::Relaxed);
        self.writer.bytes.fetch_add(length.into(), Ordering::Relaxed);
        if self.pack.len() >= PACK { self.flush() } else { Ok(()) }
    }

    /// Writes the pack that is being filled, or hands it to whoever does so beside.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let start = self.pack.len();
        let repo = self.writer.repo;
        repo.key().seal_into(&encode_header(&self.entries), &mut self.pack).map_err(no_random)?;
        let header = (self.pack.len() - start) as u32;
        self.pack.extend_from_slice(&header.to_le_bytes());
        let (bytes, entries) = (std::mem::take(&mut self.pack), std::mem::take(&mut self.entries));
        self.writer.take(Filled { bytes, entries })?;
        self.pack = self.writer.room();
        Ok(())
    }

    /// Cuts what a reader yields into chunks and stores them.
    ///
    /// # Errors
    /// If it cannot be read, or the vault not be written.
    pub fn add_file(&mut self, mut reader: impl Read) -> std::result::Result<FileContent, FileTrouble> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let content = self.cut_and_add(&mut reader, &mut buffer);
        self.buffer = buffer;
        content
    }

    fn add_stretch(
        &mut self,
        mut stretch: &[u8],
        cuts: &[usize],
        content: &mut FileContent,
    ) -> std::result::Result<(), FileTrouble> {
        for length in cuts {
            let (chunk, rest) = stretch.split_at(*length);
            let id = self.add_again(chunk).map_err(FileTrouble::Store)?;
            content.chunks.push((id, *length as u32));
            content.size += *length as u64;
            stretch = rest;
        }
        Ok(())
    }

    fn cut_and_add(
        &mut self,
        reader: &mut impl Read,
        buffer: &mut Vec<u8>,
    ) -> std::result::Result<FileContent, FileTrouble> {
        let mut content = FileContent { chunks: Vec::new(), sha256: Id::default(), size: 0 };
        let (mut whole, mut cuts) = (Sha256::new(), Vec::new());
        let (mut start, mut ended) = (0, false);
        buffer.clear();
        loop {
            if !ended && buffer.len() - start < MAX {
                buffer.drain(..start);
                start = 0;
                ended = fill(reader, buffer, 2 * MAX).map_err(FileTrouble::Read)?;
            }
            let mut at = start;
            cuts.clear();
            // What comes after it decides where the last one ends.
            while at < buffer.len() && (ended || buffer.len() - at >= MAX) {
                cuts.push(self.writer.repo.chunker.cut(&buffer[at..]));
                at += cuts[cuts.len() - 1];
            }
            if cuts.is_empty() {
                break;
            }
            let stretch = &buffer[start..at];
            if ended && content.chunks.is_empty() && cuts.len() == 1 {
                self.add_stretch(stretch, &cuts, &mut content)?;
            } else if stretch.len() < BESIDE {
                whole.update(stretch);
                self.add_stretch(stretch, &cuts, &mut content)?;
            } else {
                // A file of a disk has one thread for itself often enough, and another processor nothing to do.
                std::thread::scope(|scope| {
                    scope.spawn(|| whole.update(stretch));
                    self.add_stretch(stretch, &cuts, &mut content)
                })?;
            }
            start = at;
        }
        content.sha256 = match content.chunks.as_slice() {
            // The id of a blob is the SHA-256 of what it holds.
            [(only, _)] => *only,
            _ => Id(whole.finalize().into()),
        };
        Ok(content)
    }
}

/// Whether there is nothing but zeros.
pub(crate) fn is_zeros(bytes: &[u8]) -> bool {
    // The beginning tells nearly all others apart; then all is compared with itself, a byte further.
    let (head, _) = bytes.split_at(bytes.len().min(16));
    head.iter().all(|byte| *byte == 0) && (bytes.len() <= 16 || bytes[16..] == bytes[..bytes.len() - 16])
}

/// Reads until `buffer` holds `wanted` bytes; `true` at the end of the file.
fn fill(reader: &mut impl Read, buffer: &mut Vec<u8>, wanted: usize) -> io::Result<bool> {
    let missing = wanted.saturating_sub(buffer.len());
    let read = reader.by_ref().take(missing as u64).read_to_end(buffer)?;
    Ok(read < missing)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::format::keyfile::Cost;
    use crate::repo::Who;
    use crate::store::MemoryStore;

    /// Yields what it has in small parts.
    struct Dripping<'d>(&'d [u8]);

    impl Read for Dripping<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let some = self.0.len().min(99_991);
            let read = (&self.0[..some]).read(into)?;
            self.0 = &self.0[read..];
            Ok(read)
        }
    }

    #[test]
    fn however_long_a_file_is_it_is_cut_as_one_piece_and_its_checksum_is_that_of_all_of_it() {
        let store = Arc::new(MemoryStore::default());
        let repo = Repository::init(store, b"x", Cost::TINY, &Who::default(), Timestamp::UNIX_EPOCH).unwrap();
        let mut word = 42_u64;
        let mut next = || {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word
        };
        // The last parts hold a long stretch of zeros, which is nowhere cut but where it must be.
        let mut data: Vec<u8> = (0..5 << 20).flat_map(|_| next().to_le_bytes()).collect();
        data[25 << 20..36 << 20].fill(0);
        let writer = Writer::new(&repo).unwrap();
        let mut packer = writer.packer(BlobKind::Data).unwrap();
        for length in [0, 1, BESIDE - 1, BESIDE, MAX, MAX + 1, 2 * MAX, 2 * MAX + 1, 3 * MAX + 5, data.len()]
        {
            let whole = &data[..length];
            let content = packer.add_file(Dripping(whole)).unwrap();
            assert_eq!((content.size, content.sha256), (length as u64, Id::of(whole)));
            let mut rest = whole;
            for (id, cut) in content.chunks {
                assert_eq!(cut as usize, repo.chunker.cut(rest), "{} of {length} are left", rest.len());
                let (chunk, after) = rest.split_at(cut as usize);
                assert_eq!(id, Id::of(chunk));
                rest = after;
            }
            assert!(rest.is_empty());
        }
    }
}
