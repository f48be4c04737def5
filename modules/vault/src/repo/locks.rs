//! Locks of the repository, as restic writes and honours them: renewed while held, gone with the guard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use jiff::{SignedDuration, Timestamp};
use pc_switcher_contract::{Clock, ErrorKind, ModuleError};

use super::{Repository, Who};
use crate::error::{Result, damaged, no_random};
use crate::format::lock::{Lock, RENEW};
use crate::format::{Id, Key, unpacked};
use crate::store::{Kind, Store};

/// A proof holds for so long: nobody takes a lock away that was renewed half an hour ago, unless this machine sleeps.
const PROVED: SignedDuration = SignedDuration::from_secs(5);

/// A lock, held. Dropping it releases it.
pub struct Held {
    store: Arc<dyn Store>,
    current: Arc<Current>,
    clock: Clock,
    proved: Mutex<Timestamp>,
    end: Option<Sender<()>>,
    renewer: Option<JoinHandle<()>>,
}

/// The lock file that stands for us, and whether somebody removed it.
struct Current {
    name: Mutex<Id>,
    is_lost: AtomicBool,
}

impl Current {
    fn name(&self) -> MutexGuard<'_, Id> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    /// Puts a fresh lock in the place of the one that is there. Where none is there any more, somebody took the vault over: a fresh
    /// one would hide that, so none stays.
    fn renew(&self, store: &dyn Store, make: impl Fn(&dyn Store) -> Result<Id>) {
        let old = *self.name();
        let is_there = || store.get(Kind::Lock, &old.hex()).map(|lock| lock.is_some());
        // What cannot be renewed now is tried again; the old one holds for half an hour.
        let fresh = match is_there() {
            Ok(true) => make(store),
            Ok(false) => return self.is_lost.store(true, Ordering::SeqCst),
            Err(_) => return,
        };
        let Ok(fresh) = fresh else { return };
        // Who removed the old one saw no fresh one then; who removes it from now on sees this one.
        match is_there() {
            Ok(true) => {
                *self.name() = fresh;
                store.delete(Kind::Lock, &old.hex()).ok();
            }
            gone => {
                self.is_lost.fetch_or(gone.is_ok(), Ordering::SeqCst);
                store.delete(Kind::Lock, &fresh.hex()).ok();
            }
        }
    }
}

impl Repository {
    /// Takes a lock that others may share; removes stale ones of this machine.
    ///
    /// # Errors
    /// If somebody works alone in the repository.
    pub fn lock(&self, who: &Who, clock: &Clock) -> Result<Held> {
        self.take_lock(who, clock, false)
    }

    /// As [`Repository::lock`], for who only reads: where no lock can be written it is done without.
    ///
    /// # Errors
    /// If somebody works alone in the repository, or the run shall end.
    pub fn lock_to_read(&self, who: &Who, clock: &Clock) -> Result<Option<Held>> {
        match self.lock(who, clock) {
            Ok(held) => Ok(Some(held)),
            Err(error) if matches!(error.kind, ErrorKind::Busy | ErrorKind::Cancelled) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Takes a lock that nobody shares; removes stale ones of this machine.
    ///
    /// # Errors
    /// If somebody else works in the repository.
    pub fn lock_alone(&self, who: &Who, clock: &Clock) -> Result<Held> {
        self.take_lock(who, clock, true)
    }

    fn take_lock(&self, who: &Who, clock: &Clock, alone: bool) -> Result<Held> {
        self.heed_others(who, clock, None, alone)?;
        let make = {
            let (key, who, clock) = (self.key.clone(), who.clone(), clock.clone());
            let version = self.config.version;
            move |store: &dyn Store| write(store, &key, version, &who, &clock, alone)
        };
        let own = make(&*self.store)?;
        let held = Held::renewed(self.store.clone(), own, clock.clone(), make);
        // Somebody who looked at the same moment saw no lock either.
        self.heed_others(who, clock, Some(own), alone)?;
        Ok(held)
    }

    fn heed_others(&self, who: &Who, clock: &Clock, own: Option<Id>, alone: bool) -> Result<()> {
        for (name, _) in self.store.list(Kind::Lock)? {
            if own.is_some_and(|own| own.hex() == name) || name.len() != 64 {
                continue;
            }
            // Its holder may have ended since it was listed.
            let Some(sealed) = self.store.get(Kind::Lock, &name)? else { continue };
            let lock = self.read_lock(&name, &sealed)?;
            if lock.is_stale(clock(), &who.hostname, is_alive) {
                self.store.delete(Kind::Lock, &name)?;
            } else if lock.exclusive || alone {
                let message = format!("the vault in `{}` is locked {lock}", self.store.place());
                return Err(ModuleError::new(ErrorKind::Busy, message)
                    .hint("wait for it to end; `restic unlock` removes a lock whose holder is gone, `restic unlock --remove-all` also one of a clock that ran ahead"));
            }
        }
        Ok(())
    }

    /// Reads a lock: one that cannot be read may be that of somebody who works alone.
    fn read_lock(&self, name: &str, sealed: &[u8]) -> Result<Lock> {
        let what = || format!("the lock `{name}` in `{}`", self.store.place());
        let plain = self.unseal(sealed, what);
        let lock = plain.and_then(|plain| unpacked::decode(&plain).map_err(|why| damaged(what(), why)));
        lock.map_err(|error| {
            error.hint("if nobody works in the vault, `restic unlock --remove-all` removes its locks")
        })
    }
}

fn is_alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn write(
    store: &dyn Store,
    key: &Key,
    version: u32,
    who: &Who,
    clock: &Clock,
    exclusive: bool,
) -> Result<Id> {
    let lock = Lock {
        time: clock().to_string(),
        exclusive,
        hostname: who.hostname.clone(),
        username: who.username.clone(),
        pid: who.pid,
        uid: who.uid,
        gid: who.gid,
    };
    let plain = unpacked::encode(&lock, version).map_err(ModuleError::failed)?;
    let sealed = key.seal(&plain).map_err(no_random)?;
    let id = Id::of(&sealed);
    store.put(Kind::Lock, &id.hex(), &sealed)?;
    Ok(id)
}

impl Held {
    fn renewed(
        store: Arc<dyn Store>,
        own: Id,
        clock: Clock,
        make: impl Fn(&dyn Store) -> Result<Id> + Send + 'static,
    ) -> Self {
        let current = Arc::new(Current { name: Mutex::new(own), is_lost: AtomicBool::new(false) });
        let (end, ended) = channel();
        let (place, renewed) = (store.clone(), current.clone());
        let renewer = std::thread::Builder::new().name("vault-lock".into()).spawn(move || {
            while !renewed.is_lost() && ended.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
                renewed.renew(&*place, &make);
            }
        });
        let proved = Mutex::new(clock());
        Self { store, current, clock, proved, end: Some(end), renewer: renewer.ok() }
    }

    /// Proves that nobody took the lock away, as others may once a machine has slept for half an hour.
    ///
    /// # Errors
    /// If it is gone, or the place cannot be read.
    pub fn prove(&self) -> Result<()> {
        let now = (self.clock)();
        // While its name is held it is not replaced.
        let name = self.current.name();
        if !self.current.is_lost() && self.store.get(Kind::Lock, &name.hex())?.is_some() {
            *self.proved.lock().unwrap_or_else(PoisonError::into_inner) = now;
            return Ok(());
        }
        self.current.is_lost.store(true, Ordering::SeqCst);
        let message = format!("somebody removed our lock from the vault in `{}`", self.store.place());
        Err(ModuleError::new(ErrorKind::Busy, message)
            .hint("did this machine sleep meanwhile? start again: what was stored is not stored again"))
    }

    /// As [`Held::prove`], before each of many steps: does not ask the place again within seconds. The clock goes on while a machine
    /// sleeps.
    ///
    /// # Errors
    /// As [`Held::prove`].
    pub fn still_held(&self) -> Result<()> {
        let proved = *self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        let since = (self.clock)().duration_since(proved);
        let is_fresh = since >= SignedDuration::ZERO && since < PROVED;
        if is_fresh && !self.current.is_lost() { Ok(()) } else { self.prove() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(renewer) = self.renewer.take() {
            renewer.join().ok();
        }
        let name = self.current.name().hex();
        // A lock that stays behind is stale as soon as this process is gone.
        self.store.delete(Kind::Lock, &name).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::keyfile::Cost;
    use crate::store::MemoryStore;

    /// Returns a lock that is held, and what writes another one.
    fn held() -> (Arc<MemoryStore>, Held, impl Fn(&dyn Store) -> Result<Id>) {
        let (store, now) = (Arc::new(MemoryStore::default()), Timestamp::UNIX_EPOCH);
        let who = Who { pid: std::process::id(), ..Who::default() };
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &who, now).unwrap();
        let clock: Clock = Arc::new(move || now);
        let held = repo.lock(&who, &clock).unwrap();
        let (key, version) = (repo.key.clone(), repo.config.version);
        (store, held, move |store: &dyn Store| write(store, &key, version, &who, &clock, false))
    }

    fn locks(store: &MemoryStore) -> Vec<String> {
        store.list(Kind::Lock).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_lock_is_renewed_as_long_as_it_is_there() {
        let (store, held, make) = held();
        let before = locks(&store);
        held.current.renew(&*store, make);
        let after = locks(&store);
        assert!(after.len() == 1 && after != before, "{after:?}");
        held.prove().unwrap();
        drop(held);
        assert!(locks(&store).is_empty());
    }

    #[test]
    fn a_lock_that_somebody_removed_is_not_made_anew_and_is_lost_for_good() {
        let (store, held, make) = held();
        store.delete(Kind::Lock, &locks(&store)[0]).unwrap();
        held.current.renew(&*store, make);
        assert!(locks(&store).is_empty());
        for proved in [held.prove(), held.still_held()] {
            assert_eq!(proved.unwrap_err().kind, ErrorKind::Busy);
        }
    }

    #[test]
    fn a_lock_that_is_removed_while_it_is_renewed_is_lost() {
        let (store, held, make) = held();
        held.current.renew(&*store, |place| {
            store.delete(Kind::Lock, &locks(&store)[0]).unwrap();
            make(place)
        });
        assert!(locks(&store).is_empty(), "the fresh one does not stay");
        assert_eq!(held.prove().unwrap_err().kind, ErrorKind::Busy);
    }

    #[test]
    fn a_lock_that_cannot_be_read_is_named_and_keeps_everybody_out() {
        let (store, who) = (Arc::new(MemoryStore::default()), Who::default());
        let now = Timestamp::UNIX_EPOCH;
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &who, now).unwrap();
        let clock: Clock = Arc::new(move || now);
        let name = "ab".repeat(32);
        store.put(Kind::Lock, &name, b"torn").unwrap();
        let error = repo.lock(&who, &clock).err().unwrap();
        assert!(error.to_string().contains(&name), "{error}");
        assert_eq!(store.list(Kind::Lock).unwrap().len(), 1, "it stays, and none of ours is left");
        store.delete(Kind::Lock, &name).unwrap();
        drop(repo.lock(&who, &clock).unwrap());
    }

    #[test]
    fn who_works_alone_waits_for_nobody_and_keeps_everybody_out() {
        let (store, now) = (Arc::new(MemoryStore::default()), Timestamp::UNIX_EPOCH);
        let who = Who { pid: std::process::id(), ..Who::default() };
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &who, now).unwrap();
        let clock: Clock = Arc::new(move || now);
        let shared = repo.lock(&who, &clock).unwrap();
        assert_eq!(repo.lock_alone(&who, &clock).err().unwrap().kind, ErrorKind::Busy);
        drop(shared);
        let alone = repo.lock_alone(&who, &clock).unwrap();
        for other in [repo.lock(&who, &clock), repo.lock_alone(&who, &clock)] {
            assert!(other.err().unwrap().to_string().contains("exclusively"));
        }
        alone.prove().unwrap();
        store.delete(Kind::Lock, &store.list(Kind::Lock).unwrap()[0].0).unwrap();
        assert_eq!(alone.prove().unwrap_err().kind, ErrorKind::Busy);
    }
}
