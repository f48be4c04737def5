//! Members, open to be read: an archive is unpacked for that, all of it or what is wanted, a volume is mounted where no path
//! leads, and the rest is as it lies.
//!
//! What is unpacked lies in `.pc-switcher/read`, a directory for each reader, who has it locked; what a dead one leaves goes
//! when the next set is taken or removed. While a volume is read, its name lies there: the device of it stays of a dead reader.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{BytePath, SnapshotMember};
use rustix::io::Errno;

use super::compare::open_dir;
use super::reference::Held;
use super::store::{OWN, Store, make_dir};
use crate::data::trees::{self, Form, Other};
use crate::linux::lvm::Reading;
use crate::linux::trees::{form_of, list_of, open_root, open_volume, rest_volume};
use crate::proto::AgentError;

/// The name of what is unpacked, in its directory.
const TREE: &str = "tree";
/// What says instead which member is read that lies in a volume.
const VOLUME: &str = "volume";
/// How many names are tried for a directory.
const TRIES: u32 = 1000;

/// The root of a member.
pub(super) struct Opened {
    // In the order in which they end.
    root: OwnedFd,
    _noted: Option<Noted>,
    _unpacked: Option<Unpacked>,
}

impl Opened {
    /// A member that need not be unpacked.
    pub(super) fn as_it_lies(root: OwnedFd) -> Self {
        Self { root, _noted: None, _unpacked: None }
    }
}

impl Deref for Opened {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.root
    }
}

/// A volume that is read, and the note of that, which stays for as long as the volume has a device.
struct Noted {
    reading: Option<Reading>,
    note: Option<Unpacked>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        let ended = self.reading.take().map_or(Ok(()), Reading::end);
        if let Some(note) = self.note.as_mut().filter(|_| ended.is_err()) {
            note.stays = true;
        }
    }
}

/// A directory that goes when nobody reads in it any more.
struct Unpacked {
    dir: PathBuf,
    /// Whether it is left to whoever takes or removes the next set.
    stays: bool,
    _lock: Held,
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if !self.stays {
            // What stays is swept away later.
            let _ = sweep_one(&self.dir);
        }
    }
}

fn sweep_one(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(VOLUME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let name = CString::new(TREE)?;
    trees::remove(&open_root(dir)?, &name)?;
    fs::remove_dir(dir)
}

impl Store<'_> {
    /// Opens a member, of which what lies at `only` is wanted, and all below.
    ///
    /// # Errors
    /// If it is not there, or is an archive that is damaged or has no room to be unpacked.
    pub(super) fn opened(
        &self,
        member: &SnapshotMember,
        only: &BytePath,
        stop: &dyn Fn() -> bool,
    ) -> Result<Opened, AgentError> {
        self.opened_beside(member, only, None, stop)
    }

    /// As [`Store::opened`], to be compared with another member: what is one inode in both is one inode in what is unpacked
    /// of them, without content. `stood` is what was made so of the other one.
    pub(super) fn opened_beside(
        &self,
        member: &SnapshotMember,
        only: &BytePath,
        beside: Option<(&SnapshotMember, Option<&Opened>)>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Opened, AgentError> {
        let root = self.rooted(member, stop)?;
        if !is_archive(member) {
            return Ok(root);
        }
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::ECANCELED) => AgentError::cancelled(),
            _ => AgentError::io(format!("cannot unpack `{}`", member.path), &error),
        };
        let beside = beside.filter(|(other, _)| is_archive(other));
        let raw = beside.map(|(other, _)| open_dir(&other.path)).transpose()?;
        let stood = beside.and_then(|(_, stood)| stood).map(|stood| &**stood);
        let other = raw.as_ref().map(|raw| Other { raw, stood });
        let unpacked = self.reading().map_err(failed)?;
        let tree = unpacked.dir.join(TREE);
        make_dir(&tree).map_err(failed)?;
        let into = open_root(&tree).map_err(failed)?;
        let list = list_of(self.dir(), &member.name);
        trees::unpack((&root, &list), only, other.as_ref(), &into, stop).map_err(failed)?;
        Ok(Opened { root: into, _noted: None, _unpacked: Some(unpacked) })
    }

    /// Opens the root of a member as it lies: what an archive holds is packed there.
    ///
    /// # Errors
    /// If it is not there, or its volume cannot be read.
    pub(super) fn rooted(
        &self,
        member: &SnapshotMember,
        stop: &dyn Fn() -> bool,
    ) -> Result<Opened, AgentError> {
        if !is_volume(member) {
            return open_dir(&member.path).map(Opened::as_it_lies);
        }
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::ECANCELED) => AgentError::cancelled(),
            _ => AgentError::io(format!("cannot read `{}`", member.path), &error),
        };
        // A full disk may not take it. Then nobody knows of the device if we die; it does no harm.
        let noted = self.reading().and_then(|noted| {
            fs::write(noted.dir.join(VOLUME), member.path.as_bytes())?;
            Ok(noted)
        });
        // Before the device comes: what becomes of the note is told by what becomes of that.
        let mut noted = Noted { reading: None, note: noted.ok() };
        let reading = open_volume(self.btrfs, member.path.as_path(), stop).inspect_err(|error| {
            // It may have a device already.
            let is_none = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotConnected);
            noted.note.iter_mut().for_each(|note| note.stays = !is_none);
        });
        let reading = reading.map_err(failed)?;
        let reading = reading.ok_or_else(|| failed(io::Error::other("its label has changed")))?;
        let root = noted.reading.insert(reading).root().map_err(failed)?;
        Ok(Opened { root, _noted: Some(noted), _unpacked: None })
    }

    /// Makes a directory of our own to unpack into.
    fn reading(&self) -> io::Result<Unpacked> {
        let all = self.dir().join(OWN).join("read");
        make_dir(&all)?;
        for n in 0..TRIES {
            let dir = all.join(format!("{}-{n}", std::process::id()));
            if make_dir(&dir)? {
                let file = File::open(&dir)?;
                file.try_lock().map_err(io::Error::other)?;
                return Ok(Unpacked { dir, stays: false, _lock: Held::new(file) });
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Removes what dead readers left.
    pub(super) fn sweep_reading(&self) {
        for entry in fs::read_dir(self.dir().join(OWN).join("read")).into_iter().flatten().flatten() {
            let is_free = File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok());
            if is_free {
                let rested = match fs::read(entry.path().join(VOLUME)) {
                    Ok(member) => rest_volume(self.btrfs, BytePath::new(member).as_path()),
                    Err(_) => Ok(()),
                };
                // A member that is gone took its device along. Otherwise the next one tries again.
                if rested.as_ref().err().is_none_or(|error| error.kind() == io::ErrorKind::NotFound) {
                    let _ = sweep_one(&entry.path());
                }
            }
        }
    }
}

/// Whether what a member holds lies in a volume.
pub(super) fn is_volume(member: &SnapshotMember) -> bool {
    member.name.subvolume.directory().is_some() && form_of(member.path.as_path()) == Some(Form::Volume)
}

/// Whether a member is to be unpacked before it can be read.
pub(super) fn is_archive(member: &SnapshotMember) -> bool {
    member.name.subvolume.directory().is_some() && form_of(member.path.as_path()) == Some(Form::Archive)
}

/// Whether what a member has at a path is a file, whose content an archive has packed.
pub(super) fn holds_file(root: &OwnedFd, inside: &BytePath) -> Result<bool, Errno> {
    trees::is_file(root, inside)
}
