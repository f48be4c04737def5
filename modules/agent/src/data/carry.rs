//! Carries single files and trees from one tree to another on the same machine, with all their metadata.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, mkdirat, openat, readlinkat, symlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::apply::{clone_file, list_names, remove_tree};
use super::seen::Seen;
use super::{meta, open, xattr};
use crate::proto::Meta;

/// Makes `path` below `to` what it is below `from`, gone included. `to` must be a tree that nobody else uses. Directories
/// above it are made as they are below `from`.
///
/// # Errors
/// If something cannot be read or written.
pub(crate) fn carry(from: &OwnedFd, to: &OwnedFd, path: &BytePath) -> Result<(), Errno> {
    let name = std::str::from_utf8(path.name()).map_err(|_| Errno::INVAL)?;
    let parent = path.parent().unwrap_or_default();
    let dirs = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let there = match open::beneath(from, parent.as_bytes(), dirs) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
        opened => Some(opened?),
    };
    let exists = there.as_ref().map(|dir| Seen::at(dir, name)).is_some_and(|seen| seen.is_ok());
    let Some(there) = there.filter(|_| exists) else {
        return match open::beneath(to, parent.as_bytes(), dirs) {
            Ok(dir) => remove_tree(&dir, name),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error),
        };
    };
    let here = make_way(from, to, &parent)?;
    let times = Seen::of(&here)?.mtime();
    remove_tree(&here, name)?;
    copy(&there, &here, name.as_bytes())?;
    meta::set_mtime(&here, times)
}

/// Opens the directory below `to`, and makes what is missing of it.
fn make_way(from: &OwnedFd, to: &OwnedFd, dir: &BytePath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match open::beneath(to, dir.as_bytes(), flags) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let above = make_way(from, to, &dir.parent().ok_or(Errno::NOENT)?)?;
    mkdirat(&above, dir.name(), Mode::from_raw_mode(0o700))?;
    let made = open::beneath(&above, dir.name(), flags)?;
    meta::fresh(&made, &meta_of(&open::beneath(from, dir.as_bytes(), flags)?)?)?;
    Ok(made)
}

fn meta_of(fd: &OwnedFd) -> Result<Meta, Errno> {
    let seen = Seen::of(fd)?;
    let xattrs = xattr::Reader::new().of(fd)?;
    Ok(Meta { mode: seen.mode(), uid: seen.uid(), gid: seen.gid(), mtime: seen.mtime(), xattrs })
}

fn copy(from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let found = open::beneath(from, name, OFlags::PATH | OFlags::NOFOLLOW)?;
    match Seen::of(&found)?.file_type() {
        FileType::RegularFile => {
            let old = open::beneath_for_reading(from, name, OFlags::NOFOLLOW)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let new = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
            clone_file(&old, &new)?;
            meta::fresh(&new, &meta_of(&old)?)?;
        }
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let old = open::beneath(from, name, flags)?;
            mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let new = open::beneath(to, name, flags)?;
            for (below, _) in list_names(&old)? {
                copy(&old, &new, below.to_bytes())?;
            }
            meta::fresh(&new, &meta_of(&old)?)?;
        }
        FileType::Symlink => {
            symlinkat(readlinkat(&found, c"", Vec::new())?, to, name)?;
            let made = open::beneath(to, name, OFlags::PATH | OFlags::NOFOLLOW)?;
            meta::change(&made, &meta_of(&found)?)?;
        }
        // Sockets and the like are made anew by whoever needs them.
        _ => {}
    }
    Ok(())
}
