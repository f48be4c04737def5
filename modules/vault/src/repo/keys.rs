//! Copies of the keys, beside the copies of the catalogue: without a key nobody opens anything.
//!
//! A copy counts only in the place of a key that is damaged, or where all are gone: what `restic key remove` took away opens
//! nothing any more. A key that is missing beside others may be lost as well as taken away, so its copies go only after a time in
//! which somebody can put one back.

use jiff::{SignedDuration, Timestamp};
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::Repository;
use crate::error::{Result, unsteady};
use crate::format::Id;
use crate::store::{Kind, Store};

/// What the name of a copy has between its machine and the name of the key.
const COPY: &str = "/key.";
/// What the name of a note has there that a key was found missing; the time in seconds stands after the name of the key.
const MISSING: &str = "/key-missing.";
/// For so long the copies of a key stay that is missing.
const GRACE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Keys, and what kept some from being read.
#[derive(Default)]
pub(super) struct Found {
    /// With their names, as they are or as a copy has them.
    pub(super) keys: Vec<(String, Vec<u8>)>,
    /// The first of what could not be read.
    pub(super) failed: Option<ModuleError>,
}

impl Found {
    fn take<T>(&mut self, read: Result<Option<T>>) -> Option<T> {
        read.unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            None
        })
    }
}

/// Returns the keys; of one that is damaged or cannot be read its copy, and all copies where there is no key.
///
/// # Errors
/// If nobody can say which keys there are.
pub(super) fn found(store: &dyn Store) -> Result<Found> {
    let (mut found, keys) = (Found::default(), store.list(Kind::Key)?);
    for (name, _) in &keys {
        let read = store.get(Kind::Key, name);
        if let Ok(None) = read {
            continue;
        }
        let there = found.take(read);
        if let Some(bytes) = there.as_ref().filter(|bytes| is_of(bytes, name)) {
            found.keys.push((name.clone(), bytes.clone()));
            continue;
        }
        // The key itself before its copy, should it only have been read wrong.
        let again = found.take(store.get_afresh(Kind::Key, name)).filter(|again| is_of(again, name));
        let sound = match again {
            Some(again) => Some(again),
            None => found.take(copy_of(store, name)),
        };
        found.keys.extend(sound.or(there).map(|bytes| (name.clone(), bytes)));
    }
    if keys.is_empty() {
        for (name, key) in copies(store)? {
            let copy = found.take(store.get(Kind::Meta, &name));
            found.keys.extend(copy.filter(|bytes| is_of(bytes, &key)).map(|bytes| (key, bytes)));
        }
    }
    Ok(found)
}

/// Whether a key is as it was written: its name is the SHA-256 of it.
fn is_of(bytes: &[u8], name: &str) -> bool {
    Id::of(bytes).hex() == name
}

/// Returns the copies, each with the name of its key.
fn copies(store: &dyn Store) -> Result<Vec<(String, String)>> {
    let key = |(name, _): (String, u64)| {
        let (_, key) = name.split_once(COPY)?;
        Some((name.clone(), key.to_owned()))
    };
    Ok(store.list(Kind::Meta)?.into_iter().filter_map(key).collect())
}

fn copy_of(store: &dyn Store, key: &str) -> Result<Option<Vec<u8>>> {
    let mut failed = None;
    for (name, _) in copies(store)?.into_iter().filter(|(_, of)| of == key) {
        match store.get(Kind::Meta, &name) {
            Ok(Some(bytes)) if is_of(&bytes, key) => return Ok(Some(bytes)),
            Ok(_) => {}
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// A note that a key was found missing.
struct Note {
    name: String,
    /// The beginning of the name of the copy that it is about, before that of the key.
    host: String,
    key: String,
    since: Timestamp,
}

fn notes(store: &dyn Store) -> Result<Vec<Note>> {
    let note = |(name, _): (String, u64)| {
        let (host, rest) = name.split_once(MISSING)?;
        let (key, seconds) = rest.split_once('.')?;
        let since = Timestamp::from_second(seconds.parse().ok()?).ok()?;
        Some(Note { host: host.into(), key: key.into(), since, name: name.clone() })
    };
    Ok(store.list(Kind::Meta)?.into_iter().filter_map(note).collect())
}

/// What a place gave; `Err` for what a disk does not give any more.
type Given = std::result::Result<Option<Vec<u8>>, Unreadable>;

/// Is there, and cannot be read.
#[derive(PartialEq)]
struct Unreadable;

fn given(read: Result<Option<Vec<u8>>>) -> Result<Given> {
    match read {
        Err(error) if error.kind == ErrorKind::Failed => Ok(Err(Unreadable)),
        read => read.map(Ok),
    }
}

impl Repository {
    /// Has a machine keep a copy of each key, and returns the names of those of which it has none and gets none: they are damaged, or a
    /// disk does not give them. A copy of one that is missing goes once it was found so over a long time; who prunes
    /// sees to the copies of all machines.
    ///
    /// # Errors
    /// If the place cannot be read or written.
    pub fn keep_keys(&self, host_id: &str, now: Timestamp, prunes: bool) -> Result<Vec<String>> {
        let keys: Vec<String> = self.store.list(Kind::Key)?.into_iter().map(|(name, _)| name).collect();
        let copies = copies(&*self.store)?;
        let mut unreadable = Vec::new();
        for name in &keys {
            let own = format!("{host_id}{COPY}{name}");
            if copies.iter().any(|(copy, _)| *copy == own) {
                continue;
            }
            match given(self.store.get(Kind::Key, name))? {
                Ok(Some(bytes)) if is_of(&bytes, name) => drop(self.store.put(Kind::Meta, &own, &bytes)?),
                // Somebody took it away just now.
                Ok(None) => {}
                Ok(Some(_)) | Err(Unreadable) => unreadable.push(name.clone()),
            }
        }
        // Who finds no key at all may look in the wrong place.
        if !keys.is_empty() && (prunes || self.store.removes_freely()) {
            self.drop_copies(host_id, now, prunes, &keys, &copies)?;
        }
        Ok(unreadable)
    }

    fn drop_copies(
        &self,
        host_id: &str,
        now: Timestamp,
        prunes: bool,
        keys: &[String],
        copies: &[(String, String)],
    ) -> Result<()> {
        let notes = notes(&*self.store)?;
        for (copy, key) in copies {
            let host = copy.split_once(COPY).map_or("", |(host, _)| host);
            if host != host_id && !prunes {
                continue;
            }
            let own: Vec<&Note> = notes.iter().filter(|note| note.host == host && note.key == *key).collect();
            let is_missing = !keys.contains(key);
            // A note of the future was made by a clock that ran ahead.
            let since = own.iter().map(|note| note.since).filter(|since| *since <= now).min();
            let is_over = since.is_some_and(|since| now.duration_since(since) >= GRACE);
            if is_missing && is_over {
                self.store.delete(Kind::Meta, copy)?;
            } else if is_missing && since.is_none() {
                self.store.put(Kind::Meta, &format!("{host}{MISSING}{key}.{}", now.as_second()), b"")?;
            }
            for note in own.iter().filter(|note| !is_missing || is_over || note.since > now) {
                self.store.delete(Kind::Meta, &note.name)?;
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
        for (name, mut bytes) in found(&*self.store)?.keys {
            let there = given(self.store.get(Kind::Key, &name))?;
            if !is_of(&bytes, &name) || there.as_ref() == Ok(&Some(bytes.clone())) {
                continue;
            }
            match given(self.store.get_afresh(Kind::Key, &name))? {
                again if again == there => {}
                // It only could not be read a moment ago.
                Ok(Some(again)) if there.is_err() && again == bytes => continue,
                _ => return Err(unsteady(format!("key `{name}`"), &self.store.place())),
            }
            if writes && matches!(there, Ok(None)) {
                self.store.put(Kind::Key, &name, &bytes)?;
            } else if writes {
                // Nothing is written over: with one more blank it has a name of its own, and is there before the damaged one goes.
                bytes.push(b'\n');
                self.store.put(Kind::Key, &Id::of(&bytes).hex(), &bytes)?;
                self.store.delete(Kind::Key, &name)?;
            }
            mended.push(name);
        }
        Ok(mended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::keyfile::{Cost, KeyFile, Maker};
    use crate::repo::Who;
    use crate::store::MemoryStore;
    use crate::store::faults::Faults;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn days(days: i64) -> Timestamp {
        NOW + SignedDuration::from_hours(24 * days)
    }

    fn opens(store: &Arc<MemoryStore>, word: &[u8]) -> bool {
        Repository::open(store.clone(), word).is_ok()
    }

    fn names(store: &MemoryStore, kind: Kind) -> Vec<String> {
        store.list(kind).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    /// Returns a vault of two passphrases, `x` and `paper`, with the name of the second one's key.
    fn two_keys() -> (Arc<MemoryStore>, Repository, String) {
        let store = Arc::new(MemoryStore::default());
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &Who::default(), NOW).unwrap();
        let maker = Maker { hostname: "laptop", username: "alice", created: NOW.to_string() };
        let slot = KeyFile::lock(repo.key(), b"paper", Cost::TINY, &maker).unwrap();
        let slot = serde_json::to_vec(&slot).unwrap();
        let name = Id::of(&slot).hex();
        store.put(Kind::Key, &name, &slot).unwrap();
        (store, repo, name)
    }

    fn damage(store: &MemoryStore, name: &str) {
        let bytes = store.get(Kind::Key, name).unwrap().unwrap();
        store.delete(Kind::Key, name).unwrap();
        store.put(Kind::Key, name, &bytes[1..]).unwrap();
    }

    #[test]
    fn a_copy_takes_the_place_of_a_key_that_is_damaged_or_gone_and_of_no_other() {
        let store = Arc::new(MemoryStore::default());
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &Who::default(), NOW).unwrap();
        let name = names(&store, Kind::Key).remove(0);
        let key = store.get(Kind::Key, &name).unwrap().unwrap();
        repo.keep_keys("laptop", NOW, false).unwrap();
        assert_eq!(repo.mend_keys(true).unwrap(), [""; 0]);
        store.delete(Kind::Key, &name).unwrap();
        assert!(opens(&store, b"x"), "all are gone");
        assert_eq!(repo.mend_keys(true).unwrap(), std::slice::from_ref(&name));
        assert_eq!(store.get(Kind::Key, &name).unwrap(), Some(key));
        damage(&store, &name);
        assert!(opens(&store, b"x"), "it is damaged");
        assert_eq!(repo.mend_keys(false).unwrap(), std::slice::from_ref(&name));
        assert_eq!(repo.mend_keys(true).unwrap(), std::slice::from_ref(&name));
        assert!(names(&store, Kind::Key).len() == 1 && opens(&store, b"x"));
        repo.keep_keys("laptop", NOW, false).unwrap();
        assert_eq!(repo.mend_keys(true).unwrap(), [""; 0]);
        // Another passphrase takes its place: the old one opens nothing any more.
        store.delete(Kind::Key, &names(&store, Kind::Key)[0]).unwrap();
        let other = Arc::new(MemoryStore::default());
        drop(Repository::init(other.clone(), b"y", Cost::TINY, &Who::default(), NOW).unwrap());
        let new = names(&other, Kind::Key).remove(0);
        store.put(Kind::Key, &new, &other.get(Kind::Key, &new).unwrap().unwrap()).unwrap();
        assert!(!opens(&store, b"x"));
    }

    #[test]
    fn the_copy_of_one_of_several_keys_that_is_lost_stays_for_a_month_and_can_be_put_back() {
        let (store, repo, lost) = two_keys();
        repo.keep_keys("laptop", NOW, false).unwrap();
        let key = store.get(Kind::Key, &lost).unwrap().unwrap();
        store.delete(Kind::Key, &lost).unwrap();
        let copy = format!("laptop/key.{lost}");
        for day in [1, 2, 30] {
            repo.keep_keys("laptop", days(day), true).unwrap();
            assert_eq!(store.get(Kind::Meta, &copy).unwrap().as_ref(), Some(&key), "after {day} days");
        }
        store.put(Kind::Key, &lost, &key).unwrap();
        repo.keep_keys("laptop", days(40), false).unwrap();
        assert_eq!(names(&store, Kind::Meta).len(), 2, "nothing says any more that it was missing");
        store.delete(Kind::Key, &lost).unwrap();
        repo.keep_keys("laptop", days(41), false).unwrap();
        repo.keep_keys("laptop", days(70), false).unwrap();
        assert!(store.get(Kind::Meta, &copy).unwrap().is_some());
        repo.keep_keys("laptop", days(71), false).unwrap();
        assert_eq!(names(&store, Kind::Meta).len(), 1, "only the copy of the other key is left");
    }

    #[test]
    fn who_prunes_drops_what_was_taken_away_for_all_machines_and_a_backup_only_what_it_may() {
        let (store, repo, taken) = two_keys();
        for host in ["laptop", "desk"] {
            repo.keep_keys(host, NOW, false).unwrap();
        }
        store.delete(Kind::Key, &taken).unwrap();
        let of = |host: &str| store.get(Kind::Meta, &format!("{host}/key.{taken}")).unwrap();
        // A store from which a backup removes nothing.
        let kept = Arc::new(Faults::on(&store).that_keeps());
        let keeping = Repository::open(kept, b"x").unwrap();
        for day in [1, 40] {
            keeping.keep_keys("laptop", days(day), false).unwrap();
        }
        assert!(of("laptop").is_some() && of("desk").is_some());
        keeping.keep_keys("laptop", days(41), true).unwrap();
        keeping.keep_keys("laptop", days(71), true).unwrap();
        assert!(of("laptop").is_none() && of("desk").is_none(), "{:?}", names(&store, Kind::Meta));
        assert_eq!(names(&store, Kind::Meta).len(), 2, "each machine has a copy of the other key");
    }

    #[test]
    fn whichever_call_of_mending_a_key_goes_wrong_no_key_is_lost() {
        for fails_after in [false, true] {
            for at in 0.. {
                let (store, repo, name) = two_keys();
                repo.keep_keys("laptop", NOW, false).unwrap();
                damage(&store, &name);
                let faults = Arc::new(Faults::on(&store).that_fail_at(at, fails_after));
                let ended = Repository::open(faults.clone(), b"x").and_then(|repo| repo.mend_keys(true));
                assert!(opens(&store, b"x") && opens(&store, b"paper"), "{at}: {ended:?}");
                repo.keep_keys("laptop", days(1), true).unwrap();
                repo.mend_keys(true).unwrap();
                assert!(opens(&store, b"x") && opens(&store, b"paper"), "{at}: {ended:?}");
                let keys = names(&store, Kind::Key);
                assert!(keys.len() == 2 && !keys.contains(&name), "{at}: {keys:?}");
                if !faults.was_hit() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_key_that_cannot_be_read_keeps_nobody_from_the_others_and_from_its_copy() {
        let (store, repo, name) = two_keys();
        let broken = |name: &str| Arc::new(Faults::on(&store).that_cannot_read(Kind::Key, name));
        let opened = |word: &[u8]| Repository::open(broken(&name), word).map(drop);
        opened(b"x").unwrap();
        assert!(opened(b"paper").unwrap_err().to_string().contains("the disk is gone"));
        // Nor does it keep copies from being tidied up.
        store.put(Kind::Meta, &format!("laptop/key.{}", "ab".repeat(32)), b"of a key that went").unwrap();
        let kept = |day| Repository::open(broken(&name), b"x").unwrap().keep_keys("laptop", days(day), false);
        assert_eq!((kept(1).unwrap(), kept(40).unwrap()), (vec![name.clone()], vec![name.clone()]));
        assert_eq!(names(&store, Kind::Meta).len(), 1, "{:?}", names(&store, Kind::Meta));
        assert_eq!(opened(b"wrong").unwrap_err().to_string(), opened(b"paper").unwrap_err().to_string());
        repo.keep_keys("laptop", NOW, false).unwrap();
        opened(b"paper").unwrap();
        let mended = Repository::open(broken(&name), b"x").unwrap().mend_keys(true).unwrap();
        assert_eq!(mended, std::slice::from_ref(&name));
        assert!(opens(&store, b"paper") && !names(&store, Kind::Key).contains(&name));
    }
}
