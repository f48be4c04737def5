//! Packs as a whole: what index files say of them, and what they say of themselves.

use pc_switcher_contract::{ErrorKind, ModuleError};

use super::{Held, Repository, marks};
use crate::error::Result;
use crate::format::Id;
use crate::format::blob::{PackEntry, decode_header};
use crate::format::index::{IndexFile, IndexedPack};
use crate::store::Kind;

/// An index file gets no more packs once it has so many blobs.
const BLOBS: usize = 50_000;

/// From so many bytes on somebody is told that packs are read.
const MUCH: u64 = 100_000_000;

impl Repository {
    /// Writes index files that name these packs, and returns them.
    ///
    /// # Errors
    /// If one of them cannot be written.
    pub(crate) fn save_index(
        &self,
        packs: impl IntoIterator<Item = IndexedPack>,
    ) -> Result<Vec<(String, IndexFile)>> {
        let (mut file, mut blobs, mut saved) = (IndexFile::default(), 0, Vec::new());
        let mut save = |file: IndexFile| -> Result<()> {
            saved.push((self.save(Kind::Index, &file)?.hex(), file));
            Ok(())
        };
        for pack in packs {
            blobs += pack.blobs.len();
            file.packs.push(pack);
            if blobs >= BLOBS {
                save(std::mem::take(&mut file))?;
                blobs = 0;
            }
        }
        if !file.packs.is_empty() {
            save(file)?;
        }
        Ok(saved)
    }

    /// Returns the index files, each with its name.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn index_files(&self) -> Result<Vec<(String, IndexFile)>> {
        let names = self.store.list(Kind::Index)?;
        names.into_iter().map(|(name, _)| Ok((name.clone(), self.load(Kind::Index, &name)?))).collect()
    }

    /// Takes packs into the index that no index knows, as a run leaves them that was killed, and returns how many.
    /// While others work in the repository beside the holder of this lock it takes none: they may be theirs, and these write their index themselves.
    /// What a prune has marked as unused it leaves alone. Each is read first: what a repair took out of the index for being damaged stays out of it, though its end is as it was written.
    ///
    /// # Errors
    /// If the place cannot be read or written; a pack that is not as it was written is left as it is.
    pub fn adopt_packs(&self, held: &Held) -> Result<u64> {
        self.load_index()?;
        if self.others_work(held)? {
            return Ok(0);
        }
        let mut unknown: Vec<(Id, String, u64)> = Vec::new();
        for (name, size) in self.store.list(Kind::Pack)? {
            let id = name.parse::<Id>().ok().filter(|id| !self.knows_pack(id));
            unknown.extend(id.map(|id| (id, name, size)));
        }
        if !unknown.is_empty() {
            // What a prune took out of the index that was ended before it removed it.
            let (marked, _) = marks::read(self)?;
            unknown.retain(|(id, ..)| !marked.contains_key(id));
        }
        let bytes: u64 = unknown.iter().map(|(_, _, size)| size).sum();
        if bytes >= MUCH {
            self.stop().waits(&format!(
                "{} packs in `{}` are in no index: {} MB are read to take up again what is in them",
                unknown.len(),
                self.store.place(),
                bytes / 1_000_000
            ));
        }
        let mut packs = Vec::new();
        for (id, name, _) in unknown {
            if self.stop().is_asked() {
                return Err(ModuleError::cancelled());
            }
            let pack = match self.store.get(Kind::Pack, &name) {
                Ok(pack) => pack.unwrap_or_default(),
                Err(error) if error.kind != ErrorKind::Failed => return Err(error),
                Err(_) => continue,
            };
            if Id::of(&pack) == id
                && let Ok(entries) = self.header_in(&pack)
            {
                packs.push(IndexedPack::of(id, &entries));
            }
        }
        let count = packs.len() as u64;
        if count > 0 {
            packs.iter().for_each(|pack| self.learn(pack));
            self.save_index(packs)?;
        }
        Ok(count)
    }

    /// Reads what a pack says of itself at its end.
    ///
    /// # Errors
    /// If that is not as it was written.
    pub(crate) fn header_in(&self, pack: &[u8]) -> std::result::Result<Vec<PackEntry>, String> {
        let (rest, length) = pack.split_last_chunk::<4>().ok_or("it is cut short")?;
        let start = rest.len().checked_sub(u32::from_le_bytes(*length) as usize);
        let start = start.ok_or("its header is cut short")?;
        let plain = self.key().open(&rest[start..]).map_err(|_| "its header is not as it was written")?;
        decode_header(&plain)
    }
}
