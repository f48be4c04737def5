//! Files that appear whole or not at all: temporary file, fsync, rename, fsync of the directory (facts/btrfs.md B4).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The name that a file is written under before it is complete. The `~` keeps it out of every listing of ours, and
/// out of what sudo reads.
pub(super) fn temp_name(name: &OsStr) -> OsString {
    let mut temp = OsString::from(".");
    temp.push(name);
    temp.push(format!(".{}-{}~", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    temp
}

/// A file that is being written. Dropping it before [`Pending::publish`] removes it.
pub(super) struct Pending {
    dir: OwnedFd,
    name: OsString,
    temp: OsString,
    pub file: File,
    done: bool,
}

impl Pending {
    /// Begins to write the file at an absolute path. No directory on the way may be a symbolic link, so nobody who
    /// can write to one of them can lead root elsewhere.
    pub(super) fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let dir = rustix::fs::openat2(
            CWD,
            parent,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )?;
        let temp = temp_name(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&dir, temp.as_os_str(), flags, Mode::from_raw_mode(0o600))?);
        let pending = Self { dir, name: name.to_owned(), temp, file, done: false };
        // Past the umask; set-id bits only after the owner, which would clear them.
        rustix::fs::fchmod(&pending.file, Mode::from_raw_mode(mode & 0o777))?;
        Ok(pending)
    }

    /// Gives the file to a user and a group, with its mode as a whole.
    pub(super) fn give(&self, owner: Option<(u32, u32)>, mode: u32) -> io::Result<()> {
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&self.file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode & 0o7777))?)
    }

    /// Returns the name under which the file stands for now.
    pub(super) fn temp(&self) -> &OsStr {
        &self.temp
    }

    /// Puts the file in its place, durably.
    pub(super) fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        rustix::fs::renameat(&self.dir, self.temp.as_os_str(), &self.dir, self.name.as_os_str())?;
        self.done = true;
        Ok(rustix::fs::fsync(&self.dir)?)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            let _ = rustix::fs::unlinkat(&self.dir, self.temp.as_os_str(), AtFlags::empty());
        }
    }
}

/// Writes a whole file of root's.
pub(super) fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut pending = Pending::create(path, mode)?;
    pending.file.write_all(bytes)?;
    pending.publish()
}

/// Makes what was done to a directory's names durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
