//! Making and opening a repository.

use std::sync::Arc;

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::{Repository, Who, blobs::Blobs};
use crate::error::{Result, damaged, no_random};
use crate::format::keyfile::{Cost, KeyFile, Maker};
use crate::format::{Chunker, Id, Key, RepoConfig};
use crate::store::{Kind, Store};

impl Repository {
    /// Makes a repository of version 2 with one passphrase. The file `config` is written last: without it there is none.
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
        let maker = Maker { hostname: &who.hostname, username: &who.username, created: now.to_string() };
        let slot = KeyFile::lock(&key, passphrase, cost, &maker).map_err(ModuleError::failed)?;
        let slot = serde_json::to_vec(&slot).map_err(|error| ModuleError::failed(error.to_string()))?;
        store.put(Kind::Key, &Id::of(&slot).hex(), &slot)?;
        let plain = serde_json::to_vec(&config).map_err(|error| ModuleError::failed(error.to_string()))?;
        if !store.put(Kind::Config, "", &key.seal(&plain).map_err(no_random)?)? {
            return Err(taken());
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
        let key = unlock(&*store, passphrase)?;
        let what = format!("the config of the repository in `{place}`");
        let plain = key.open(&sealed).map_err(|_| damaged(&what, "it is not as it was written"))?;
        let config: RepoConfig = serde_json::from_slice(&plain).map_err(|error| damaged(&what, error))?;
        match config.version {
            1 | 2 => Ok(Self::of(store, key, config)),
            other => Err(ModuleError::failed(format!("the repository in `{place}` has the format {other}"))
                .hint("a newer pc-switcher or restic wrote it")),
        }
    }

    fn of(store: Arc<dyn Store>, key: Key, config: RepoConfig) -> Self {
        let chunker = Chunker::new(config.chunker_polynomial);
        Self { store, key, config, chunker, blobs: Blobs::default() }
    }
}

fn unlock(store: &dyn Store, passphrase: &[u8]) -> Result<Key> {
    let place = store.place();
    let mut why = None;
    for (name, _) in store.list(Kind::Key)? {
        let Some(bytes) = store.get(Kind::Key, &name)? else { continue };
        let slot: std::result::Result<KeyFile, _> = serde_json::from_slice(&bytes);
        let opened = slot.map_err(|error| error.to_string()).and_then(|slot| slot.unlock(passphrase));
        match opened {
            Ok(Some(key)) => return Ok(key),
            Ok(None) => {}
            Err(error) => why = Some(format!("key `{name}` cannot be used: {error}")),
        }
    }
    let message = format!("the passphrase does not open the vault in `{place}`");
    let error = ModuleError::new(ErrorKind::Invalid, message);
    Err(match why {
        Some(why) => error.hint(why),
        None => error.hint("passphrases are those of `pc-switcher vault init` and of `restic key add`"),
    })
}
