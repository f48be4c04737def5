//! Making and opening a repository.

use std::sync::Arc;

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::{Repository, Who, blobs::Blobs, keys, locks::Watch};
use crate::error::{Result, damaged, no_random};
use crate::format::keyfile::{Cost, KeyFile, Maker};
use crate::format::{Chunker, Id, Key, RepoConfig, code};
use crate::store::{Kind, Store};

impl Repository {
    /// Makes a repository of version 2 with one passphrase. Without the file `config` there is none, so it is written after the key:
    /// who dies in between leaves a key that opens nothing, and goes with the next try.
    ///
    /// # Errors
    /// If there is one already, or the place cannot be written.
    pub fn init(
        store: Arc<dyn Store>,
        passphrase: &[u8],
        cost: Cost,
        who: &Who,
        now: Timestamp,
    ) -> Result<Self> {
        let place = store.place();
        let taken = || ModuleError::failed(format!("a repository lies in `{place}` already"));
        if store.get(Kind::Config, "")?.is_some() {
            return Err(taken());
        }
        let key = Key::random().map_err(no_random)?;
        let config = RepoConfig::random().map_err(no_random)?;
        let own = put_slot(&*store, &key, passphrase, cost, who, now)?;
        let plain = serde_json::to_vec(&config).map_err(|error| ModuleError::failed(error.to_string()))?;
        let sealed = key.seal(&plain).map_err(no_random)?;
        // Of an answer that was lost nobody knows what it was.
        if !store.put(Kind::Config, "", &sealed)? && store.get(Kind::Config, "")?.as_ref() != Some(&sealed) {
            store.delete(Kind::Key, &own)?;
            return Err(taken());
        }
        // Only one of those who try gets here, and keys of the others open nothing.
        for (name, _) in store.list(Kind::Key)?.iter().filter(|(name, _)| *name != own) {
            store.delete(Kind::Key, name).ok();
        }
        Ok(Self::of(store, key, config))
    }

    /// Opens a repository with one of its passphrases; its index is read on demand.
    ///
    /// # Errors
    /// If there is none, no key fits, or its format is not known.
    pub fn open(store: Arc<dyn Store>, passphrase: &[u8]) -> Result<Self> {
        let place = store.place();
        let sealed = store.get(Kind::Config, "")?.ok_or_else(|| {
            ModuleError::new(ErrorKind::Unreachable, format!("there is no repository in `{place}`"))
                .hint("is its disk mounted? `pc-switcher vault init` makes a new one")
        })?;
        let key = unlock(&*store, passphrase, &sealed).or_else(|error| {
            // What was printed on paper may be typed otherwise.
            let code = code::as_printed(passphrase).filter(|code| code.as_bytes() != passphrase);
            match code.filter(|_| error.kind == ErrorKind::Invalid) {
                Some(code) => unlock(&*store, code.as_bytes(), &sealed),
                None => Err(error),
            }
        })?;
        let what = format!("the config of the repository in `{place}`");
        let plain = key.open(&sealed).map_err(|_| damaged(&what, "it is not as it was written"))?;
        let config: RepoConfig = serde_json::from_slice(&plain).map_err(|error| damaged(&what, error))?;
        match config.version {
            1 | 2 => Ok(Self::of(store, key, config)),
            other => Err(ModuleError::failed(format!("the repository in `{place}` has the format {other}"))
                .hint("a newer pc-switcher or restic wrote it")),
        }
    }

    /// Has another word open the repository as well, and returns the name of its key.
    ///
    /// # Errors
    /// If it cannot be written, or does not open the repository then; it is gone in that case.
    pub fn add_key(&self, word: &[u8], cost: Cost, who: &Who, now: Timestamp) -> Result<String> {
        let name = put_slot(&*self.store, &self.key, word, cost, who, now)?;
        let there = self.store.get_afresh(Kind::Key, &name)?.unwrap_or_default();
        let slot = serde_json::from_slice::<KeyFile>(&there).map_err(|error| error.to_string());
        match slot.and_then(|slot| slot.unlock(word)) {
            Ok(Some(key)) if key == self.key => Ok(name),
            _ => {
                self.store.delete(Kind::Key, &name).ok();
                Err(damaged(format!("the key `{name}`"), "it is not as it was written a moment ago"))
            }
        }
    }

    fn of(store: Arc<dyn Store>, key: Key, config: RepoConfig) -> Self {
        let chunker = Chunker::new(config.chunker_polynomial);
        Self { store, key, config, chunker, blobs: Blobs::default(), watch: Watch::default() }
    }
}

/// Writes a slot in which a word opens the key, and returns its name.
fn put_slot(
    store: &dyn Store,
    key: &Key,
    word: &[u8],
    cost: Cost,
    who: &Who,
    now: Timestamp,
) -> Result<String> {
    let maker = Maker { hostname: &who.hostname, username: &who.username, created: now.to_string() };
    let slot = KeyFile::lock(key, word, cost, &maker).map_err(ModuleError::failed)?;
    let slot = serde_json::to_vec(&slot).map_err(|error| ModuleError::failed(error.to_string()))?;
    let name = Id::of(&slot).hex();
    store.put(Kind::Key, &name, &slot)?;
    Ok(name)
}

/// Returns the key that a passphrase opens. Of several the one that opens the config as well: others are of an `init` that was cut off.
fn unlock(store: &dyn Store, passphrase: &[u8], config: &[u8]) -> Result<Key> {
    let place = store.place();
    let (mut why, mut of_nothing) = (None, None);
    let keys::Found { keys, failed } = keys::found(store)?;
    for (name, bytes) in keys {
        let slot: std::result::Result<KeyFile, _> = serde_json::from_slice(&bytes);
        let opened = slot.map_err(|error| error.to_string()).and_then(|slot| slot.unlock(passphrase));
        match opened {
            Ok(Some(key)) if key.open(config).is_ok() => return Ok(key),
            Ok(Some(key)) => of_nothing = Some(key),
            Ok(None) => {}
            Err(error) => why = Some(format!("key `{name}` cannot be used: {error}")),
        }
    }
    if let Some(key) = of_nothing {
        return Ok(key);
    }
    // What could not be read may be the one.
    if let Some(failed) = failed {
        return Err(failed);
    }
    let message = format!("the passphrase does not open the vault in `{place}`");
    let error = ModuleError::new(ErrorKind::Invalid, message);
    Err(match why {
        Some(why) => error.hint(why),
        None => error.hint("passphrases are those of `pc-switcher vault init` and of `restic key add`; a recovery code does as well"),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::MemoryStore;

    fn init(store: Arc<MemoryStore>) -> Result<Repository> {
        Repository::init(store, b"x", Cost::TINY, &Who::default(), Timestamp::UNIX_EPOCH)
    }

    fn keys(store: &MemoryStore) -> Vec<String> {
        store.list(Kind::Key).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    /// A store that hides the config until it is written.
    struct Late(Arc<MemoryStore>, AtomicUsize);

    impl Store for Late {
        fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
            self.0.put(kind, name, bytes)
        }

        fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
            let asked = self.1.fetch_add(1, Ordering::SeqCst);
            if asked == 0 { Ok(None) } else { self.0.get(kind, name) }
        }

        fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
            self.0.get_range(kind, name, offset, length)
        }

        fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
            self.0.list(kind)
        }

        fn delete(&self, kind: Kind, name: &str) -> Result<()> {
            self.0.delete(kind, name)
        }

        fn place(&self) -> String {
            self.0.place()
        }
    }

    #[test]
    fn who_comes_second_leaves_no_key() {
        let store = Arc::new(MemoryStore::default());
        drop(init(store.clone()).unwrap());
        let before = keys(&store);
        let late = Arc::new(Late(store.clone(), Default::default()));
        let error = Repository::init(late, b"y", Cost::TINY, &Who::default(), Timestamp::UNIX_EPOCH);
        assert!(error.err().unwrap().to_string().contains("already"));
        assert_eq!(keys(&store), before);
        Repository::open(store, b"x").unwrap();
    }

    #[test]
    fn a_key_that_an_init_left_is_in_nobodys_way_and_goes_with_the_next_one() {
        let (cut_off, store) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
        drop(init(cut_off.clone()).unwrap());
        let leave = |store: &MemoryStore| {
            let name = keys(&cut_off).remove(0);
            store.put(Kind::Key, &name, &cut_off.get(Kind::Key, &name).unwrap().unwrap()).unwrap();
        };
        leave(&store);
        assert!(store.is_vacant().unwrap());
        drop(init(store.clone()).unwrap());
        assert_eq!(keys(&store).len(), 1);
        assert!(!store.is_vacant().unwrap());
        leave(&store);
        Repository::open(store, b"x").unwrap();
    }
}
