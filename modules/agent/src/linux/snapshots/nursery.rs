//! Where the members of a set are born: `{snapshot_dir}/.pc-switcher/tmp/{session}/{n}`, root's alone.
//!
//! Before the first is born the set's intent says durably what belongs to it: what a later run finds half done is removed by
//! that, and nothing else ever is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pc_switcher_contract::{SetId, SnapshotName, SnapshotSet};

use super::apart::Home;
use super::reference::Reference;
use super::sidecar::{Intent, Meta, Planned, Ready, Said};
use super::store::{CreationLock, Store, make_dir, make_lasting_dir, remove_cradles};
use super::system::Looked;
use crate::proto::AgentError;

/// How soon it is looked again whether the creation lock is free.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One member's ways.
#[derive(Debug)]
pub(super) struct Cradle {
    /// The flat name.
    pub name: SnapshotName,
    /// The directory that it is born in.
    pub dir: PathBuf,
    /// Its path there.
    pub born: PathBuf,
    /// Its final path.
    pub flat: PathBuf,
    /// Where that is, if not in the snapshot directory.
    pub home: Option<Home>,
}

/// From when on what is to be born is said for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// At once.
    AtOnce,
    /// From when the first is born: a snapshot commits all that the file system was told before (facts/btrfs.md B1).
    FromBirth,
}

/// The birth places of one set. Dropping it removes all of the set unless [`Nursery::finish`] was called; a panic leaves what
/// a crash would leave.
pub(super) struct Nursery<'a> {
    store: &'a Store<'a>,
    lock: Option<CreationLock>,
    id: SetId,
    reference: Option<Reference>,
    pub cradles: Vec<Cradle>,
}

impl<'a> Nursery<'a> {
    /// Says what is to be born, and makes the places. It is durable when that returns, or with `birth` when the first is born, for
    /// whoever makes members that are durable then.
    pub(super) fn open(
        store: &'a Store<'a>,
        lock: CreationLock,
        id: SetId,
        members: Vec<Planned>,
        lasts: Lasts,
    ) -> Result<Self, AgentError> {
        if store.sidecar(&id).has_toc() {
            return Err(AgentError::failed(format!("set `{id}` exists in `{}`", store.dir().display())));
        }
        if store.is_being_made(&id) {
            return Err(AgentError::failed(format!("another run makes set `{id}` right now")));
        }
        for planned in &members {
            let place = planned.home.as_ref().map_or(store.dir(), |home| home.dir.as_path());
            if fs::symlink_metadata(place.join(planned.name.to_string())).is_ok() {
                let text = format!("snapshot `{}` exists in `{}`", planned.name, place.display());
                return Err(AgentError::failed(text));
            }
        }
        let mut nursery = Self { store, lock: Some(lock), id, reference: None, cradles: Vec::new() };
        nursery
            .make(members, lasts)
            .map_err(|error| AgentError::io(format!("cannot prepare `{}`", store.dir().display()), &error))?;
        (store.after)("intent");
        Ok(nursery)
    }

    fn make(&mut self, members: Vec<Planned>, lasts: Lasts) -> io::Result<()> {
        let sidecar = self.store.sidecar(&self.id);
        match lasts {
            Lasts::AtOnce => make_lasting_dir(sidecar.dir())?,
            Lasts::FromBirth => drop(make_dir(sidecar.dir())?),
        }
        self.reference = Reference::take(&sidecar)?;
        let places: Vec<(SnapshotName, Option<Home>)> =
            members.iter().map(|planned| (planned.name.clone(), planned.home.clone())).collect();
        let intent = Intent::new(members);
        match lasts {
            Lasts::AtOnce => sidecar.put_intent(&intent)?,
            Lasts::FromBirth => sidecar.put_intent_for_birth(&intent)?,
        }
        let cradles = self.store.cradles(&self.id.session);
        make_dir(&cradles)?;
        let homes: BTreeSet<&Home> = places.iter().filter_map(|(_, home)| home.as_ref()).collect();
        homes.into_iter().try_for_each(Home::prepare)?;
        for (n, (name, home)) in places.into_iter().enumerate() {
            let (above, place) = match &home {
                Some(home) => (home.cradles(&self.id.session), home.dir.as_path()),
                None => (cradles.clone(), self.store.dir()),
            };
            make_dir(&above)?;
            let (dir, text) = (above.join(n.to_string()), name.to_string());
            make_dir(&dir)?;
            self.cradles.push(Cradle { name, born: dir.join(&text), flat: place.join(&text), dir, home });
        }
        Ok(())
    }

    /// Lets others take and remove sets meanwhile. The reference tells them that this one is being made.
    pub(super) fn let_go(&mut self) {
        if self.reference.is_some() {
            self.lock = None;
        }
    }

    /// Takes the creation lock again, to publish the set; waits for whoever has it.
    ///
    /// # Errors
    /// If that takes too long, or the caller gave up.
    pub(super) fn lock_again(
        &mut self,
        patience: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), AgentError> {
        let since = Instant::now();
        while self.lock.is_none() {
            self.lock = self.store.try_lock()?;
            if self.lock.is_none() {
                if stop() {
                    return Err(AgentError::cancelled());
                }
                if since.elapsed() >= patience {
                    return Err(self.store.busy());
                }
                thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// Removes the members that exist so far, wherever they stand, and what was prepared for them.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut result = self.store.sidecar(&self.id).unprepare();
        for cradle in &self.cradles {
            for path in [&cradle.born, &cradle.flat] {
                result = result.and(self.destroy(path));
            }
        }
        result
    }

    fn destroy(&self, path: &Path) -> io::Result<()> {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
        match fs::symlink_metadata(path) {
            Ok(_) => self.store.btrfs.destroy(parent, name),
            Err(_) => Ok(()),
        }
    }

    /// Writes what is to be said of the set while its members are still to be closed.
    pub(super) fn prepare(
        &self,
        set: &SnapshotSet,
        said: &Said,
        looked: Option<&Looked>,
    ) -> io::Result<Ready> {
        let sidecar = self.store.sidecar(&self.id);
        let ready = sidecar.prepare(&Meta::of(set.clone(), said, looked))?;
        looked.into_iter().for_each(|looked| looked.put_list(sidecar.dir()));
        Ok(ready)
    }

    /// Publishes a set that was prepared: from now on it stands for itself, and for as long as the reference is held nobody removes
    /// it. What was prepared is on the disk, and the members were closed since, which made its name durable (facts/btrfs.md B2).
    ///
    /// # Errors
    /// If that fails; the set is then removed.
    pub(super) fn finish_prepared(self) -> io::Result<Option<Reference>> {
        (self.store.after)("meta");
        self.store.sidecar(&self.id).publish_prepared()?;
        Ok(self.published())
    }

    /// Publishes the set: from now on it stands for itself, and for as long as the reference is held nobody removes it.
    ///
    /// # Errors
    /// If that fails; the set is then removed.
    pub(super) fn finish(
        self,
        set: &SnapshotSet,
        said: &Said,
        looked: Option<&Looked>,
    ) -> io::Result<Option<Reference>> {
        let sidecar = self.store.sidecar(&self.id);
        sidecar.unprepare()?;
        looked.into_iter().for_each(|looked| looked.put_list(sidecar.dir()));
        sidecar.put_meta(&Meta::of(set.clone(), said, looked))?;
        (self.store.after)("meta");
        sidecar.publish(set)?;
        Ok(self.published())
    }

    fn published(mut self) -> Option<Reference> {
        (self.store.after)("toc");
        // What is left of the places is empty: the next who takes a set removes it.
        for home in self.cradles.drain(..).filter_map(|cradle| cradle.home) {
            let _ = remove_cradles(&home.cradles(&self.id.session));
        }
        let _ = remove_cradles(&self.store.cradles(&self.id.session));
        self.reference.take()
    }
}

impl Drop for Nursery<'_> {
    fn drop(&mut self) {
        if self.reference.is_some() && !std::thread::panicking() {
            let sidecar = self.store.sidecar(&self.id);
            let _ = match sidecar.intent(&self.id) {
                Some(_) => sidecar.unpublish().and_then(|()| self.store.erase(&self.id)),
                None => sidecar.remove(),
            };
        }
    }
}
