//! Makes copies immutable, and removes them.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, IFlags, OFlags, ioctl_getflags, ioctl_setflags, linkat, unlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use crate::data::apply::remove;
use crate::data::open;
use crate::data::seen::Seen;

/// Makes a file or directory that is open immutable, or an ordinary one again; whether the file system knows that.
///
/// # Errors
/// If it cannot be written to.
pub(super) fn freeze(fd: impl AsFd, is_frozen: bool) -> Result<bool, Errno> {
    let set = |flags: IFlags| {
        let mut wanted = flags;
        wanted.set(IFlags::IMMUTABLE, is_frozen);
        if wanted == flags { Ok(()) } else { ioctl_setflags(&fd, wanted) }
    };
    match ioctl_getflags(&fd).and_then(set) {
        Ok(()) => Ok(true),
        // The last where the right to do so is taken from root, as in some containers.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a file of a copy a further name, in the same copy or another.
///
/// # Errors
/// What `linkat` says.
pub(super) fn link(from: (impl AsFd, &[u8]), to: (impl AsFd, &[u8])) -> Result<(), Errno> {
    let linked = || linkat(&from.0, from.1, &to.0, to.1, AtFlags::empty());
    match linked() {
        Err(Errno::PERM) => {}
        done => return done,
    }
    // It is immutable.
    let file = open::beneath_for_reading(&from.0, from.1, OFlags::NOFOLLOW)?;
    freeze(&file, false)?;
    let done = linked();
    freeze(&file, true).and(done)
}

/// Makes all directories of a copy immutable; whether the file system knows that. Its files are so already.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn seal(root: &OwnedFd) -> Result<bool, Errno> {
    let mut is_immutable = true;
    let mut todo = vec![BytePath::default()];
    while let Some(at) = todo.pop() {
        let dir = directory(root, &at)?;
        for (name, kind) in remove::list(&dir)? {
            if kind == FileType::Directory {
                todo.push(at.join(name.to_bytes()));
            }
        }
        // The root bears the label, which is written last.
        if !at.is_empty() {
            is_immutable &= freeze(&dir, true)?;
        }
    }
    Ok(is_immutable)
}

/// Makes the root of a copy immutable, or an ordinary directory again; whether the file system knows that.
///
/// # Errors
/// If it cannot be written to.
pub(crate) fn freeze_root(root: &OwnedFd, is_frozen: bool) -> Result<bool, Errno> {
    freeze(root, is_frozen)
}

/// Whether the root of a copy is immutable.
///
/// # Errors
/// If it cannot be asked.
pub(crate) fn is_frozen(root: &OwnedFd) -> Result<bool, Errno> {
    Ok(ioctl_getflags(root)?.contains(IFlags::IMMUTABLE))
}

/// Removes a copy. A file that other copies have is immutable again at once.
///
/// # Errors
/// If something cannot be removed; it may be tried again.
pub(crate) fn remove(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let root = match open::beneath(parent, name.to_bytes(), flags) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut todo = vec![BytePath::default()];
    while let Some(at) = todo.pop() {
        let dir = directory(&root, &at)?;
        freeze(&dir, false)?;
        for (name, kind) in remove::list(&dir)? {
            match kind {
                FileType::Directory => todo.push(at.join(name.to_bytes())),
                FileType::RegularFile => unlink(&dir, &name)?,
                _ => unlinkat(&dir, &name, AtFlags::empty())?,
            }
        }
    }
    drop(root);
    // Only empty directories are left.
    remove::tree_of(parent, name)
}

fn unlink(dir: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    let file = open::beneath_for_reading(dir, name.to_bytes(), OFlags::NOFOLLOW)?;
    freeze(&file, false)?;
    let done = unlinkat(dir, name, AtFlags::empty());
    if Seen::of(&file)?.nlink() > 0 {
        freeze(&file, true)?;
    }
    done
}

pub(super) fn directory(root: &OwnedFd, at: &BytePath) -> Result<OwnedFd, Errno> {
    open::beneath_for_reading(root, at.as_bytes(), OFlags::DIRECTORY | OFlags::NOFOLLOW)
}
