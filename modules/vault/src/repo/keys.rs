//! Copies of the keys, beside the copies of the catalogue: without a key nobody opens anything.
//!
//! A copy counts only in the place of a key that is damaged, or where all are gone: what `restic key remove` took away opens
//! nothing any more.

use super::Repository;
use crate::error::{Result, unsteady};
use crate::format::Id;
use crate::store::{Kind, Store};

/// What the name of a copy has between its machine and the name of the key.
const COPY: &str = "/key.";

/// Returns the keys with their names; of one that is damaged its copy, and all copies where no key is.
pub(super) fn found(store: &dyn Store) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for (name, _) in store.list(Kind::Key)? {
        let Some(bytes) = store.get(Kind::Key, &name)? else { continue };
        if is_of(&bytes, &name) {
            all.push((name, bytes));
            continue;
        }
        // The key itself before its copy, should it only have been read wrong.
        let again = store.get_afresh(Kind::Key, &name)?.filter(|again| is_of(again, &name));
        let sound = match again {
            Some(again) => Some(again),
            None => copy_of(store, &name)?,
        };
        all.push((name, sound.unwrap_or(bytes)));
    }
    if all.is_empty() {
        for (name, _) in copies(store)? {
            let Some((_, key)) = name.split_once(COPY) else { continue };
            if let Some(bytes) = store.get(Kind::Meta, &name)?.filter(|bytes| is_of(bytes, key)) {
                all.push((key.to_owned(), bytes));
            }
        }
    }
    Ok(all)
}

/// Whether a key is as it was written: its name is the SHA-256 of it.
fn is_of(bytes: &[u8], name: &str) -> bool {
    Id::of(bytes).hex() == name
}

fn copies(store: &dyn Store) -> Result<Vec<(String, u64)>> {
    let mut all = store.list(Kind::Meta)?;
    all.retain(|(name, _)| name.contains(COPY));
    Ok(all)
}

fn copy_of(store: &dyn Store, key: &str) -> Result<Option<Vec<u8>>> {
    for (name, _) in copies(store)? {
        if name.split_once(COPY).is_some_and(|(_, of)| of == key)
            && let Some(bytes) = store.get(Kind::Meta, &name)?.filter(|bytes| is_of(bytes, key))
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

impl Repository {
    /// Has a machine keep a copy of each key, and of none that is gone.
    ///
    /// # Errors
    /// If the place cannot be read or written.
    pub fn keep_keys(&self, host_id: &str) -> Result<()> {
        let own = format!("{host_id}{COPY}");
        let keys = self.store.list(Kind::Key)?;
        let there: Vec<String> = copies(&*self.store)?
            .into_iter()
            .filter_map(|(name, _)| Some(name.strip_prefix(&own)?.to_owned()))
            .collect();
        for (name, _) in keys.iter().filter(|(name, _)| !there.contains(name)) {
            if let Some(bytes) = self.store.get(Kind::Key, name)?.filter(|bytes| is_of(bytes, name)) {
                self.store.put(Kind::Meta, &format!("{own}{name}"), &bytes)?;
            }
        }
        let is_gone = |copy: &&String| keys.iter().all(|(name, _)| name != *copy);
        if !keys.is_empty() && self.store.removes_freely() {
            for copy in there.iter().filter(is_gone) {
                self.store.delete(Kind::Meta, &format!("{own}{copy}"))?;
            }
        }
        Ok(())
    }

    /// Puts copies in the place of keys that are damaged or gone, and returns their names; without `writes` it only says which.
    ///
    /// # Errors
    /// If the place cannot be read or written.
    pub fn mend_keys(&self, writes: bool) -> Result<Vec<String>> {
        let mut mended = Vec::new();
        for (name, bytes) in found(&*self.store)? {
            let there = self.store.get(Kind::Key, &name)?;
            if !is_of(&bytes, &name) || there.as_ref() == Some(&bytes) {
                continue;
            }
            if self.store.get_afresh(Kind::Key, &name)? != there {
                return Err(unsteady(format!("key `{name}`"), &self.store.place()));
            }
            if writes {
                if there.is_some() {
                    self.store.delete(Kind::Key, &name)?;
                }
                self.store.put(Kind::Key, &name, &bytes)?;
            }
            mended.push(name);
        }
        Ok(mended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::format::keyfile::Cost;
    use crate::repo::Who;
    use crate::store::MemoryStore;

    fn opens(store: &Arc<MemoryStore>) -> bool {
        Repository::open(store.clone(), b"x").is_ok()
    }

    #[test]
    fn a_copy_takes_the_place_of_a_key_that_is_damaged_or_gone_and_of_no_other() {
        let store = Arc::new(MemoryStore::default());
        let now = Timestamp::UNIX_EPOCH;
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &Who::default(), now).unwrap();
        let name = store.list(Kind::Key).unwrap().remove(0).0;
        let key = store.get(Kind::Key, &name).unwrap().unwrap();
        repo.keep_keys("laptop").unwrap();
        assert_eq!(repo.mend_keys(true).unwrap(), [""; 0]);
        store.delete(Kind::Key, &name).unwrap();
        assert!(opens(&store), "all are gone");
        store.put(Kind::Key, &name, &key[1..]).unwrap();
        assert!(opens(&store), "it is damaged");
        assert_eq!(repo.mend_keys(false).unwrap(), std::slice::from_ref(&name));
        assert_eq!(repo.mend_keys(true).unwrap(), std::slice::from_ref(&name));
        assert_eq!(store.get(Kind::Key, &name).unwrap(), Some(key.clone()));
        // Another passphrase takes its place: the old one opens nothing any more.
        store.delete(Kind::Key, &name).unwrap();
        let other = Arc::new(MemoryStore::default());
        drop(Repository::init(other.clone(), b"y", Cost::TINY, &Who::default(), now).unwrap());
        let new = other.list(Kind::Key).unwrap().remove(0).0;
        store.put(Kind::Key, &new, &other.get(Kind::Key, &new).unwrap().unwrap()).unwrap();
        assert!(!opens(&store));
        repo.keep_keys("laptop").unwrap();
        let copies: Vec<String> = copies(&*store).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(copies, [format!("laptop/key.{new}")]);
    }
}
