//! Packs that are saved by threads of their own: those that fill them read and compress meanwhile, instead of waiting for a disk or a network.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Sender, bounded};
use pc_switcher_contract::ModuleError;

use super::Writer;
use crate::engine::workers;
use crate::error::{Result, again};
use crate::format::blob::PackEntry;
use crate::format::index::IndexedPack;
use crate::format::{BlobKind, Id};
use crate::store::Kind;

/// A pack that is complete, with what is in it.
pub(super) struct Filled {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<PackEntry>,
}

/// Where packs go that are to be saved beside.
#[derive(Default)]
pub(super) struct Savers {
    to: Mutex<Option<Sender<Filled>>>,
    /// Why one could not be saved: no other one is then.
    failed: Mutex<Option<ModuleError>>,
    /// What packs were in, for the next ones.
    spare: Mutex<Vec<Vec<u8>>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the threads end, also when the work panics.
struct Open<'s>(&'s Savers);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        lock(&self.0.to).take();
    }
}

impl Writer<'_> {
    /// Does work whose packs are saved beside it; returns once they are. As many as there are threads that fill them are saved at once,
    /// and whoever has another one waits.
    ///
    /// # Errors
    /// If a pack cannot be saved, or what the work returns.
    pub fn saving_beside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let (send, filled) = bounded::<Filled>(0);
        *lock(&self.savers.to) = Some(send);
        let done = std::thread::scope(|scope| {
            // It is here as long as somebody takes what is sent: whoever sends to nobody must not wait.
            let filled = filled;
            let _open = Open(&self.savers);
            for _ in 0..workers() {
                let filled = filled.clone();
                scope.spawn(move || {
                    for pack in filled {
                        if lock(&self.savers.failed).is_some() {
                            continue;
                        }
                        if let Err(error) = self.save(pack) {
                            lock(&self.savers.failed).get_or_insert(error);
                        }
                    }
                });
            }
            drop(filled);
            work()
        });
        match lock(&self.savers.failed).take() {
            Some(error) => Err(error),
            None => done,
        }
    }

    /// Saves a pack, now or beside.
    pub(super) fn take(&self, pack: Filled) -> Result<()> {
        let beside = lock(&self.savers.to).clone();
        let Some(beside) = beside else { return self.save(pack) };
        self.prove_saved()?;
        beside.send(pack).map_err(|_| ModuleError::failed("nobody saves packs any more"))
    }

    /// Proves that no pack was lost: whoever only meets what is there already would not learn of it for long.
    pub(super) fn prove_saved(&self) -> Result<()> {
        lock(&self.savers.failed).as_ref().map_or(Ok(()), |error| Err(again(error)))
    }

    fn save(&self, Filled { mut bytes, entries }: Filled) -> Result<()> {
        let id = Id::of(&bytes);
        // Packs hold blobs of one kind.
        match entries.first().map(|entry| entry.kind) {
            Some(BlobKind::Tree) => self.repo.store.put_trees(&id.hex(), &bytes)?,
            _ => self.repo.store.put(Kind::Pack, &id.hex(), &bytes)?,
        };
        bytes.clear();
        lock(&self.savers.spare).push(bytes);
        self.add_pack(IndexedPack::of(id, &entries))
    }

    /// Returns room for a pack.
    pub(super) fn room(&self) -> Vec<u8> {
        lock(&self.savers.spare).pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use pc_switcher_contract::ErrorKind;

    use super::*;
    use crate::format::keyfile::Cost;
    use crate::repo::{Repository, Who};
    use crate::store::faults::Faults;
    use crate::store::{MemoryStore, Store};

    fn repository(store: Arc<dyn Store>) -> Repository {
        Repository::init(store, b"x", Cost::TINY, &Who::default(), Timestamp::UNIX_EPOCH).unwrap()
    }

    /// Blobs that nothing makes smaller, two to a pack and one more.
    fn blobs() -> Vec<Vec<u8>> {
        let noise = |first: u64| -> Vec<u8> {
            let next = |word: &mut u64| {
                *word ^= *word << 13;
                *word ^= *word >> 7;
                *word ^= *word << 17;
                Some(*word)
            };
            let mut word = first;
            std::iter::from_fn(|| next(&mut word)).take(1 << 20).flat_map(u64::to_le_bytes).collect()
        };
        (1..=9).map(noise).collect()
    }

    #[test]
    fn what_was_saved_beside_is_in_the_index_and_reads_back() {
        let store = Arc::new(MemoryStore::default());
        let repo = repository(store.clone());
        let writer = Writer::new(&repo).unwrap();
        let blobs = blobs();
        writer
            .saving_beside(|| {
                std::thread::scope(|scope| {
                    for blobs in blobs.chunks(5) {
                        let writer = &writer;
                        scope.spawn(move || {
                            let mut packer = writer.packer(BlobKind::Data).unwrap();
                            blobs.iter().for_each(|blob| {
                                packer.add(blob).unwrap();
                            });
                            packer.flush().unwrap();
                        });
                    }
                });
                Ok(())
            })
            .unwrap();
        assert_eq!(store.list(Kind::Pack).unwrap().len(), 5);
        assert_eq!(writer.index().unwrap().blobs, 9);
        let repo = Repository::open(store, b"x").unwrap();
        repo.load_index().unwrap();
        for blob in blobs {
            assert!(repo.blob(BlobKind::Data, Id::of(&blob)).unwrap() == blob);
        }
    }

    #[test]
    fn one_that_cannot_be_saved_ends_all_of_it_and_those_after_it_are_not_tried() {
        let store = Arc::new(MemoryStore::default());
        let full = |call: &crate::store::faults::Call<'_>| {
            (call.what == "put" && call.kind == Kind::Pack)
                .then(|| ModuleError::new(ErrorKind::DiskSpace, "no room"))
        };
        let repo = repository(Arc::new(Faults::on(&store).that_fails(full)));
        let writer = Writer::new(&repo).unwrap();
        let mut told = 0;
        let ended = writer.saving_beside(|| {
            let mut packer = writer.packer(BlobKind::Data)?;
            // More than there are threads to take them.
            for number in 0..2 * workers() + 3 {
                for blob in blobs() {
                    let blob: Vec<u8> = blob.iter().map(|byte| byte.wrapping_add(number as u8)).collect();
                    packer.add(&blob).inspect_err(|_| told += 1)?;
                }
            }
            Ok(())
        });
        assert_eq!(ended.unwrap_err().kind, ErrorKind::DiskSpace);
        assert_eq!(told, 1, "whoever fills them learns of it");
        writer.index().unwrap();
        assert_eq!(store.list(Kind::Pack).unwrap().len() + store.list(Kind::Index).unwrap().len(), 0);
    }

    #[test]
    fn whoever_meets_only_what_is_there_learns_that_a_pack_was_lost() {
        let store = Arc::new(MemoryStore::default());
        let full = |call: &crate::store::faults::Call<'_>| {
            (call.what == "put" && call.kind == Kind::Pack).then(|| ModuleError::failed("no room"))
        };
        let repo = repository(Arc::new(Faults::on(&store).that_fails(full)));
        let writer = Writer::new(&repo).unwrap();
        let ended = writer.saving_beside(|| {
            let mut packer = writer.packer(BlobKind::Data)?;
            for blob in blobs().iter().take(2) {
                packer.add(blob)?;
            }
            let known = &blobs()[0];
            // As long as it takes until it was tried.
            loop {
                packer.add(known)?;
                std::thread::yield_now();
            }
        });
        let ended: Result<()> = ended;
        assert_eq!(ended.unwrap_err().message, "no room");
    }

    #[test]
    fn a_thread_that_panics_while_it_saves_keeps_nobody_waiting() {
        let store = Arc::new(MemoryStore::default());
        let panics = |call: &crate::store::faults::Call<'_>| -> Option<ModuleError> {
            assert!(call.what != "put" || call.kind != Kind::Pack, "by itself");
            None
        };
        let repo = repository(Arc::new(Faults::on(&store).that_fails(panics)));
        let writer = Writer::new(&repo).unwrap();
        let work = || {
            writer.saving_beside(|| {
                let mut packer = writer.packer(BlobKind::Data)?;
                (0..=255).try_for_each(|number: u8| {
                    blobs().iter().try_for_each(|blob| {
                        let blob: Vec<u8> = blob.iter().map(|byte| byte ^ number).collect();
                        packer.add(&blob).map(drop)
                    })
                })
            })
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
    }

    #[test]
    fn work_that_panics_leaves_no_thread_waiting() {
        let repo = repository(Arc::new(MemoryStore::default()));
        let writer = Writer::new(&repo).unwrap();
        let work = || writer.saving_beside(|| -> Result<()> { panic!("by itself") });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
        // From then on it saves by itself.
        let mut packer = writer.packer(BlobKind::Data).unwrap();
        packer.add(b"after").unwrap();
        packer.flush().unwrap();
        assert_eq!(writer.index().unwrap().blobs, 1);
    }
}
