//! Where sets lie: members flat in the snapshot directory, all else below `.pc-switcher` beside them, root's alone.
//!
//! Whoever makes or removes sets holds the creation lock, and first removes what dead processes left half made or half
//! removed. A set without a `toc` is such a thing unless somebody holds a reference to it, who then makes it still; its `intent`
//! says what belongs to it, and nothing else is ever touched.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{SessionId, SetId};

use super::reference::{Held, Sole};
use super::sidecar::Sidecar;
use crate::linux::btrfs::Btrfs;
use crate::linux::finder::Finder;
use crate::linux::mounts::Mounts;
use crate::linux::state::sync_dir;
use crate::proto::AgentError;

/// The name of our own directory beside the members.
pub(super) const OWN: &str = ".pc-switcher";

/// The sets of one snapshot directory.
pub(super) struct Store<'a> {
    pub(super) btrfs: &'a dyn Btrfs,
    pub(super) dir: PathBuf,
    /// The root of the system that sets are of.
    pub(super) root: PathBuf,
    /// Told after every step that a crash may follow.
    pub(super) after: &'a dyn Fn(&'static str),
}

/// The right to make and to remove sets, until it is dropped.
pub(super) struct CreationLock(#[expect(dead_code, reason = "it is held, not read")] Held);

impl<'a> Store<'a> {
    /// Names the store of a directory, which need not exist.
    pub(super) fn new(btrfs: &'a dyn Btrfs, snapshot_dir: &Path) -> Self {
        Self { btrfs, dir: snapshot_dir.to_owned(), root: "/".into(), after: &|_| {} }
    }

    /// Returns the snapshot directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks at all mounts. A name that several file systems have is that of the snapshot directory's, as when a set is taken.
    ///
    /// # Errors
    /// Without root.
    pub(super) fn finder<'m>(&'m self, mounts: &'m Mounts) -> Result<Finder<'m>, AgentError> {
        Finder::new(self.btrfs, mounts, &[&self.dir().into()])
    }

    /// Returns the directory of a session's birth places.
    pub(super) fn cradles(&self, session: &SessionId) -> PathBuf {
        self.tmp().join(session.as_str())
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.dir.join(OWN).join("tmp")
    }

    pub(super) fn sidecars(&self) -> PathBuf {
        self.dir.join(OWN).join("sets")
    }

    /// Returns what lies beside a set.
    pub(super) fn sidecar(&self, id: &SetId) -> Sidecar {
        Sidecar::new(self.sidecars().join(id.to_string()))
    }

    /// Returns the names of all sidecars, oldest first, of whole sets or not.
    pub(super) fn ids(&self) -> io::Result<Vec<SetId>> {
        let entries = match fs::read_dir(self.sidecars()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<SetId>().ok()));
        }
        ids.sort();
        Ok(ids)
    }

    /// Makes the directories, takes the creation lock and removes what dead processes left. What cannot be removed, for
    /// example because it is being sent, stays for the next time and hinders nobody.
    ///
    /// # Errors
    /// If a directory cannot be made, or another process has the lock.
    pub(super) fn lock(&self) -> Result<CreationLock, AgentError> {
        self.try_lock()?.ok_or_else(|| self.busy())
    }

    /// The error of whoever finds the creation lock taken.
    pub(super) fn busy(&self) -> AgentError {
        AgentError::failed(format!("another run takes or removes snapshots in `{}`", self.dir().display()))
    }

    /// As [`Store::lock`]; `None` if another process has the lock.
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub(super) fn try_lock(&self) -> Result<Option<CreationLock>, AgentError> {
        let failed = |what: &Path, error: &io::Error| {
            AgentError::io(format!("cannot prepare `{}`", what.display()), error)
        };
        let tmp = self.tmp();
        for dir in [&self.dir, &self.dir.join(OWN), &tmp, &self.sidecars()] {
            make_lasting_dir(dir).map_err(|error| failed(dir, &error))?;
        }
        let lock = File::open(&tmp).map_err(|error| failed(&tmp, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(&tmp, &error)),
        }
        let lock = CreationLock(Held::new(lock));
        self.sweep();
        Ok(Some(lock))
    }

    /// Whether a living process makes a set of this name: it holds a reference to what is no set yet.
    pub(super) fn is_being_made(&self, id: &SetId) -> bool {
        let sidecar = self.sidecar(id);
        sidecar.dir().is_dir() && !sidecar.has_toc() && matches!(Sole::take(&sidecar), Ok(None))
    }

    fn sweep(&self) {
        let mut being_made = BTreeSet::new();
        for id in self.ids().unwrap_or_default() {
            let sidecar = self.sidecar(&id);
            if !sidecar.has_toc() {
                match Sole::take(&sidecar) {
                    // Nobody has it any more.
                    Ok(Some(_sole)) => {
                        let _ = match sidecar.meta(&id) {
                            // We take the `toc` of no such set: somebody else did.
                            Ok(meta) if !meta.pin.is_empty() => sidecar.publish(&meta.set),
                            _ => self.erase(&id),
                        };
                    }
                    _ => {
                        being_made.insert(id.session);
                    }
                }
                continue;
            }
            sidecar.sweep();
            if sidecar.is_foreign() && sidecar.meta(&id).is_ok_and(|meta| !self.is_left(&meta)) {
                // What another tool took it has removed: only our record of it is left.
                let _ = sidecar.unpublish().and_then(|()| sidecar.remove());
            }
        }
        self.sweep_reading();
        self.sweep_pins();
        for entry in fs::read_dir(self.tmp()).into_iter().flatten().flatten() {
            let session = entry.file_name().to_str().and_then(|name| name.parse::<SessionId>().ok());
            if session.is_some_and(|session| !being_made.contains(&session)) {
                let _ = remove_cradles(&entry.path());
            }
        }
    }
}

/// Makes a directory of root's alone, if it is not there; whether it was made.
pub(super) fn make_dir(path: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match fs::symlink_metadata(path)?.is_dir() {
                true => Ok(false),
                false => Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        Err(error) => Err(error),
    }
}

/// As [`make_dir`], and its name is durable.
pub(super) fn make_lasting_dir(path: &Path) -> io::Result<()> {
    match (make_dir(path)?, path.parent()) {
        (true, Some(parent)) => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Removes a session's empty birth places; never anything else.
pub(super) fn remove_cradles(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        fs::remove_dir(entry?.path())?;
    }
    fs::remove_dir(dir)
}
