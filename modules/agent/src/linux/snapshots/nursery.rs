//! Where the members of a set are born: `{snapshot_dir}/.pc-switcher/tmp/{session}/{n}`, root's alone.
//!
//! Beside each birth place a symbolic link `{n}.name` says under which flat name the member will stand. The links are
//! metadata, so the commit of the snapshots makes them durable; they go last. A link that a later run finds names what
//! a crash left half done, and nothing else is ever removed.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use pc_switcher_contract::{SessionId, SnapshotName};

use crate::linux::btrfs::Btrfs;
use crate::proto::AgentError;

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
}

/// The birth places of one set. Dropping it removes all of the set unless [`Nursery::finish`] was called.
pub(super) struct Nursery<'a> {
    btrfs: &'a dyn Btrfs,
    /// Holds the creation lock: one creator for a snapshot directory.
    lock: File,
    tmp: PathBuf,
    dir: PathBuf,
    pub cradles: Vec<Cradle>,
    finished: bool,
}

impl<'a> Nursery<'a> {
    /// Makes the directories, after sweeping what dead runs have left.
    pub(super) fn open(
        btrfs: &'a dyn Btrfs,
        snapshot_dir: &Path,
        session: &SessionId,
        names: Vec<SnapshotName>,
    ) -> Result<Self, AgentError> {
        let failed = |what: &Path, error: &io::Error| {
            AgentError::io(format!("cannot prepare `{}`", what.display()), error)
        };
        make_lasting_dir(snapshot_dir).map_err(|error| failed(snapshot_dir, &error))?;
        let own = snapshot_dir.join(".pc-switcher");
        let tmp = own.join("tmp");
        for dir in [&own, &tmp] {
            make_lasting_dir(dir).map_err(|error| failed(dir, &error))?;
        }
        let lock = File::open(&tmp).map_err(|error| failed(&tmp, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("another run takes snapshots in `{}`", snapshot_dir.display());
                return Err(AgentError::failed(text));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&tmp, &error)),
        }
        sweep(btrfs, snapshot_dir, &tmp);
        for name in &names {
            if fs::symlink_metadata(snapshot_dir.join(name.to_string())).is_ok() {
                let text = format!("snapshot `{name}` exists in `{}`", snapshot_dir.display());
                return Err(AgentError::failed(text));
            }
        }
        let dir = tmp.join(session.as_str());
        let mut nursery = Self { btrfs, lock, tmp, dir, cradles: Vec::new(), finished: false };
        nursery.make(snapshot_dir, names).map_err(|error| failed(&nursery.dir, &error))?;
        Ok(nursery)
    }

    fn make(&mut self, snapshot_dir: &Path, names: Vec<SnapshotName>) -> io::Result<()> {
        make_dir(&self.dir)?;
        for (n, name) in names.into_iter().enumerate() {
            let (dir, text) = (self.dir.join(n.to_string()), name.to_string());
            self.cradles.push(Cradle {
                name,
                born: dir.join(&text),
                flat: snapshot_dir.join(&text),
                dir: dir.clone(),
            });
            symlink(&text, self.dir.join(format!("{n}.name")))?;
            make_dir(&dir)?;
        }
        Ok(())
    }

    /// Removes the members that exist so far, wherever they stand.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut result = Ok(());
        for cradle in &self.cradles {
            for path in [&cradle.born, &cradle.flat] {
                result = result.and(destroy(self.btrfs, path));
            }
        }
        result
    }

    /// Takes the links and directories away: from now on the set stands for itself.
    ///
    /// # Errors
    /// If that fails; the set is then removed.
    pub(super) fn finish(mut self) -> io::Result<()> {
        remove_tree(&self.dir)?;
        self.lock.sync_all()?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Nursery<'_> {
    fn drop(&mut self) {
        if !self.finished && self.clear().is_ok() {
            let _ = remove_tree(&self.dir);
            let _ = self.btrfs.sync(&self.tmp);
        }
    }
}

/// Makes a directory of root's alone, if it is not there; whether it was made.
fn make_dir(path: &Path) -> io::Result<bool> {
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
fn make_lasting_dir(path: &Path) -> io::Result<()> {
    match (make_dir(path)?, path.parent()) {
        (true, Some(parent)) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn destroy(btrfs: &dyn Btrfs, path: &Path) -> io::Result<()> {
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    match fs::symlink_metadata(path) {
        Ok(_) => btrfs.destroy(parent, name),
        Err(_) => Ok(()),
    }
}

/// Removes a session's directory with its links and empty birth places; never anything else.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir(dir)
}

/// Removes what dead runs have left. We hold the creation lock, so every session here is dead. What cannot be removed,
/// for example because it is being sent, stays for the next time and hinders nobody.
fn sweep(btrfs: &dyn Btrfs, snapshot_dir: &Path, tmp: &Path) {
    let mut swept = false;
    for dir in entries(tmp) {
        let Some(session) = dir.file_name().and_then(parse::<SessionId>) else { continue };
        for path in entries(&dir) {
            let of_the_session = |name: &SnapshotName| name.session == session;
            if let Some(name) = named(&path).filter(of_the_session) {
                let _ = destroy(btrfs, &snapshot_dir.join(name.to_string()));
            }
            for born in entries(&path) {
                if born.file_name().and_then(parse).as_ref().is_some_and(of_the_session) {
                    let _ = destroy(btrfs, &born);
                }
            }
        }
        swept |= remove_tree(&dir).is_ok();
    }
    if swept {
        let _ = btrfs.sync(tmp);
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    // A link that names a member is no directory.
    let is_dir = fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir());
    let entries = is_dir.then(|| fs::read_dir(dir).ok()).flatten();
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The snapshot's name that a link `{n}.name` holds.
fn named(path: &Path) -> Option<SnapshotName> {
    path.extension().filter(|extension| *extension == "name")?;
    parse(fs::read_link(path).ok()?.as_os_str())
}

fn parse<T: std::str::FromStr>(name: &OsStr) -> Option<T> {
    name.to_str()?.parse().ok()
}
