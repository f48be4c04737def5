//! Locks of the repository, as restic writes and honours them: renewed while held, gone with the guard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use pc_switcher_contract::{Clock, ErrorKind, ModuleError};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::{Repository, Who};
use crate::error::{Result, damaged, no_random};
use crate::format::lock::{Holder, Lock, RENEW, RENEWED};
use crate::format::{Id, Key, unpacked};
use crate::store::{Kind, Stop, Store};

/// A proof holds for so long: nobody takes a lock away that was renewed within half an hour, unless this machine sleeps.
const PROVED: SignedDuration = SignedDuration::from_secs(5);

/// How a lock is watched of which nobody knows whether its holder is gone.
pub(super) struct Watch {
    /// For so long: by no clock that somebody sets, and no time in which this machine sleeps.
    pub(super) lasts: Duration,
    /// How often it is looked for.
    pub(super) pause: Duration,
    /// What ends it.
    pub(super) stop: Stop,
}

impl Default for Watch {
    fn default() -> Self {
        Self { lasts: RENEWED, pause: Duration::from_secs(5), stop: Stop::default() }
    }
}

/// A lock, held. Dropping it releases it.
pub struct Held {
    store: Arc<dyn Store>,
    current: Arc<Current>,
    who: Who,
    clock: Clock,
    proved: Mutex<Timestamp>,
    end: Option<Sender<()>>,
    renewer: Option<JoinHandle<()>>,
}

/// What who only reads gets.
pub enum ReadLock {
    /// A lock.
    Held(Held),
    /// None, and why: somebody may prune meanwhile.
    Without(ModuleError),
}

impl ReadLock {
    /// Says of a vault that it is not locked, and why.
    pub fn warning(&self, vault: &str) -> Option<String> {
        match self {
            Self::Held(_) => None,
            Self::Without(error) => Some(format!(
                "no lock could be written in the vault `{vault}`, so nothing keeps others from pruning it meanwhile: {error}"
            )),
        }
    }

    /// Returns the lock, if there is one.
    pub fn held(self) -> Option<Held> {
        match self {
            Self::Held(held) => Some(held),
            Self::Without(_) => None,
        }
    }
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
    /// Takes a lock that others may share; removes those whose holders are gone. One of another machine that was not renewed for half
    /// an hour, by this machine's clock, is watched for some minutes if it is in the way.
    ///
    /// # Errors
    /// If somebody works alone in the repository.
    pub fn lock(&self, who: &Who, clock: &Clock) -> Result<Held> {
        self.take_lock(who, clock, false)
    }

    /// As [`Repository::lock`], for who only reads: where no lock can be written it is done without.
    ///
    /// # Errors
    /// If somebody works alone in the repository, it cannot be reached, or the run shall end.
    pub fn lock_to_read(&self, who: &Who, clock: &Clock) -> Result<ReadLock> {
        let ends = [ErrorKind::Busy, ErrorKind::Cancelled, ErrorKind::Unreachable];
        let error = match self.lock(who, clock) {
            Ok(held) => return Ok(ReadLock::Held(held)),
            Err(error) if ends.contains(&error.kind) => return Err(error),
            Err(error) => error,
        };
        // Who cannot write cannot remove what is left over either, and may have seen no other lock before that failed.
        for (name, _) in self.store.list(Kind::Lock)? {
            let Some(sealed) = self.store.get(Kind::Lock, &name)? else { continue };
            let Ok(lock) = self.read_lock(&name, &sealed) else { continue };
            if lock.exclusive && lock.holder(clock(), who.looker(), is_alive) == Holder::Lives {
                return Err(self.busy(&lock));
            }
        }
        Ok(ReadLock::Without(error))
    }

    /// Takes a lock that nobody shares, as [`Repository::lock`] does.
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
        let held = Held::renewed(self.store.clone(), own, (who.clone(), clock.clone()), make);
        // Somebody who looked at the same moment saw no lock either.
        self.heed_others(who, clock, Some(own), alone)?;
        Ok(held)
    }

    fn heed_others(&self, who: &Who, clock: &Clock, own: Option<Id>, alone: bool) -> Result<()> {
        let silent = self.silent_in_the_way(who, clock, own, alone)?;
        if silent.is_empty() {
            return Ok(());
        }
        if let (None, Some((_, lock))) = (own, silent.first()) {
            self.watch.stop.waits(&format!(
                "the vault in `{}` is locked {lock}, and that was not renewed for long: it is watched for {} minutes whether its \
                 holder still works",
                self.store.place(),
                self.watch.lasts.as_secs().div_ceil(60)
            ));
        }
        // Who renews a lock puts another one in its place.
        if own.is_none() && self.is_silent(&silent)? {
            return silent.iter().try_for_each(|(name, _)| self.store.delete(Kind::Lock, name));
        }
        match self.silent_in_the_way(who, clock, own, alone)?.first() {
            Some((_, lock)) => Err(self.busy(lock)),
            None => Ok(()),
        }
    }

    /// Returns the locks that forbid what is to be done and may be left over; removes those whose holders are gone, and ends at one
    /// whose holder lives.
    fn silent_in_the_way(
        &self,
        who: &Who,
        clock: &Clock,
        own: Option<Id>,
        alone: bool,
    ) -> Result<Vec<(String, Lock)>> {
        let mut found = Vec::new();
        for (name, _) in self.store.list(Kind::Lock)? {
            if own.is_some_and(|own| own.hex() == name) || name.len() != 64 {
                continue;
            }
            // Its holder may have ended since it was listed.
            let Some(sealed) = self.store.get(Kind::Lock, &name)? else { continue };
            let lock = self.read_lock(&name, &sealed)?;
            match lock.holder(clock(), who.looker(), is_alive) {
                Holder::Gone => self.store.delete(Kind::Lock, &name)?,
                _ if !lock.exclusive && !alone => {}
                Holder::Lives => return Err(self.busy(&lock)),
                Holder::Silent => found.push((name, lock)),
            }
        }
        Ok(found)
    }

    /// Whether none of these locks is renewed or released while they are watched.
    fn is_silent(&self, locks: &[(String, Lock)]) -> Result<bool> {
        let begun = Instant::now();
        loop {
            for (name, _) in locks {
                if self.store.get(Kind::Lock, name)?.is_none() {
                    return Ok(false);
                }
            }
            let left = self.watch.lasts.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(true);
            }
            self.watch.stop.wait(left.min(self.watch.pause));
            if self.watch.stop.is_asked() {
                return Err(ModuleError::cancelled());
            }
        }
    }

    /// Whether somebody else works in the repository beside the holder of this lock, as far as anybody knows. Who was not heard of for
    /// so long that the lock means nothing any more does not.
    ///
    /// # Errors
    /// If the place cannot be read.
    pub(super) fn others_work(&self, held: &Held) -> Result<bool> {
        let own = held.current.name().hex();
        for (name, _) in self.store.list(Kind::Lock)? {
            let Some(sealed) = self.store.get(Kind::Lock, &name)?.filter(|_| name != own) else { continue };
            let lock = self.read_lock(&name, &sealed);
            let holder = lock.map(|lock| lock.holder((held.clock)(), held.who.looker(), is_alive));
            if !matches!(holder, Ok(Holder::Gone | Holder::Silent)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn busy(&self, lock: &Lock) -> ModuleError {
        let message = format!("the vault in `{}` is locked {lock}", self.store.place());
        ModuleError::new(ErrorKind::Busy, message)
            .hint("wait for it to end; `restic unlock` removes a lock whose holder is gone, `restic unlock --remove-all` also one of a clock that ran ahead")
    }

    /// Says how a wait for others finds out that the run shall end.
    pub fn stop_when(&mut self, stop: Stop) {
        self.watch.stop = stop;
    }

    /// Returns what ends a run that waits, and hears for what it does.
    pub(super) fn stop(&self) -> &Stop {
        &self.watch.stop
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

/// Whether a process is there. Who may not ask is told that it is: `/proc` may hide those of others.
fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    test_kill_process(pid) != Err(Errno::SRCH)
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
        origin: who.origin.clone(),
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
        (who, clock): (Who, Clock),
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
        Self { store, current, who, clock, proved, end: Some(end), renewer: renewer.ok() }
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
    use crate::format::lock::Origin;
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

    /// Somebody on the machine of this name and id, as its clock goes.
    fn on(name: &str, machine: &str, pid: u32) -> Who {
        let [machine_id, boot_id, pid_namespace] = [machine, machine, "p"].map(str::to_owned);
        let origin = Origin { machine_id, boot_id, pid_namespace };
        Who { hostname: name.into(), pid, origin, ..Who::default() }
    }

    fn at(minute: i64) -> Clock {
        Arc::new(move || Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute))
    }

    /// A store of which somebody else renews the lock as soon as it is looked for a second time.
    struct Renewing(Arc<MemoryStore>, Mutex<u32>, Mutex<Option<Vec<u8>>>);

    impl Store for Renewing {
        fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
            self.0.put(kind, name, bytes)
        }

        fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
            let mut asked = self.1.lock().unwrap();
            *asked += u32::from(kind == Kind::Lock);
            if *asked == 3
                && let Some(fresh) = self.2.lock().unwrap().take()
            {
                self.0.put(Kind::Lock, &Id::of(&fresh).hex(), &fresh)?;
                self.0.delete(Kind::Lock, name)?;
            }
            self.0.get(kind, name)
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
    fn the_lock_of_another_machine_of_the_same_name_is_not_taken_for_that_of_a_dead_process() {
        let (store, here) = (Arc::new(MemoryStore::default()), on("laptop", "here", 1));
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &here, Timestamp::UNIX_EPOCH).unwrap();
        let dead = u32::MAX >> 1;
        let theirs = repo.lock_alone(&on("laptop", "there", dead), &at(0)).unwrap();
        assert_eq!(repo.lock(&here, &at(1)).err().unwrap().kind, ErrorKind::Busy);
        drop(theirs);
        std::mem::forget(repo.lock_alone(&on("laptop", "here", dead), &at(0)).unwrap());
        drop(repo.lock(&here, &at(1)).unwrap());
        assert!(locks(&store).is_empty(), "that process is gone");
    }

    #[test]
    fn a_lock_that_is_old_only_by_our_clock_is_taken_away_if_nobody_renews_it_while_it_is_watched() {
        let (store, here) = (Arc::new(MemoryStore::default()), on("laptop", "here", std::process::id()));
        let init = Repository::init(store.clone(), b"x", Cost::TINY, &here, Timestamp::UNIX_EPOCH).unwrap();
        let there = on("desk", "there", 1);
        let write = |minute: i64| write(&*store, &init.key, 2, &there, &at(minute), true).unwrap();
        let old = write(0).hex();
        let fresh = {
            let id = write(5).hex();
            let bytes = store.get(Kind::Lock, &id).unwrap();
            store.delete(Kind::Lock, &id).unwrap();
            bytes
        };
        let (asked, renewed) = (Mutex::new(0), Mutex::new(fresh));
        let mut repo = Repository::open(Arc::new(Renewing(store.clone(), asked, renewed)), b"x").unwrap();
        let hour = Duration::from_secs(3600);
        repo.watch = Watch { lasts: hour, pause: Duration::from_millis(1), ..Watch::default() };
        // By our clock both are older than half an hour.
        assert_eq!(repo.lock(&here, &at(60)).err().unwrap().kind, ErrorKind::Busy, "it was renewed");
        assert!(locks(&store).len() == 1 && locks(&store)[0] != old, "the fresh one stays");
        let (stop, told) = (Stop::default(), Arc::new(Mutex::new(Vec::new())));
        stop.when(|| true);
        let hears = told.clone();
        stop.tell_waits(move |text| hears.lock().unwrap().push(text.to_owned()));
        repo.stop_when(stop);
        assert_eq!(repo.lock(&here, &at(60)).err().unwrap().kind, ErrorKind::Cancelled);
        let told = told.lock().unwrap().join(" ");
        assert!(
            told.contains("by process 1 of  on `desk`") && told.contains("is watched for 60 minutes"),
            "{told}"
        );
        repo.watch = Watch { lasts: Duration::from_millis(5), ..Watch::default() };
        drop(repo.lock_alone(&here, &at(60)).unwrap());
        assert!(locks(&store).is_empty(), "nobody renewed it");
    }

    #[test]
    fn who_shares_the_vault_waits_for_no_old_lock_and_takes_none_away() {
        let (store, here) = (Arc::new(MemoryStore::default()), on("laptop", "here", std::process::id()));
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &here, Timestamp::UNIX_EPOCH).unwrap();
        write(&*store, &repo.key, 2, &on("desk", "there", 1), &at(0), false).unwrap();
        drop(repo.lock(&here, &at(60)).unwrap());
        assert_eq!(locks(&store).len(), 1);
    }

    #[test]
    fn what_a_killed_run_left_is_taken_up_beside_a_lock_that_is_stale_and_not_beside_one_that_is_not() {
        let (store, here) = (Arc::new(MemoryStore::default()), on("laptop", "here", std::process::id()));
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &here, Timestamp::UNIX_EPOCH).unwrap();
        let writer = crate::repo::Writer::new(&repo).unwrap();
        let mut packer = writer.packer(crate::format::BlobKind::Data).unwrap();
        packer.add(b"left by a run that was killed").unwrap();
        packer.flush().unwrap();
        write(&*store, &repo.key, 2, &on("desk", "there", 1), &at(0), false).unwrap();
        for (minute, taken_up) in [(29, 0), (31, 1), (32, 0)] {
            let repo = Repository::open(store.clone(), b"x").unwrap();
            let held = repo.lock(&here, &at(minute)).unwrap();
            assert_eq!(repo.adopt_packs(&held).unwrap(), taken_up, "after {minute} minutes");
        }
        assert_eq!(locks(&store).len(), 1, "the lock stays: who shares the vault takes none away");
    }

    #[test]
    fn a_process_of_somebody_else_is_alive_and_one_that_nobody_has_is_not() {
        assert!(is_alive(std::process::id()) && is_alive(1));
        assert!(!is_alive(u32::MAX >> 1) && !is_alive(0) && !is_alive(u32::MAX));
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
