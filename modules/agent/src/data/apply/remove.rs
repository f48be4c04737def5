//! Removes trees of our own, whatever their depth, without following anything.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, openat, renameat, seek, unlinkat};
use rustix::io::Errno;

/// Open directories at once; deeper ones are moved up first.
const DEPTH: usize = 100;

/// Removes `name` in `base` with all below it; nothing there is fine. `base` must be a directory that only we use.
pub(in crate::data) fn tree(base: impl AsFd, name: &str) -> Result<(), Errno> {
    tree_of(base, &CString::new(name).map_err(|_| Errno::INVAL)?)
}

/// As [`tree`], for a name that need not be text.
pub(in crate::data) fn tree_of(base: impl AsFd, name: &CStr) -> Result<(), Errno> {
    let base = base.as_fd();
    let mut todo = vec![name.to_owned()];
    let mut moved = 0_u64;
    while let Some(name) = todo.pop() {
        let mut lift = |dir: rustix::fd::BorrowedFd<'_>, deep: &CString| {
            moved += 1;
            let up = CString::new(format!("deep-{moved}")).map_err(|_| Errno::INVAL)?;
            renameat(dir, deep, base, &up)?;
            todo.push(up);
            Ok(())
        };
        empty(base, &name, 0, &mut lift)?;
    }
    Ok(())
}

type Lift<'a> = dyn FnMut(rustix::fd::BorrowedFd<'_>, &CString) -> Result<(), Errno> + 'a;

fn empty(
    parent: rustix::fd::BorrowedFd<'_>,
    name: &CString,
    depth: usize,
    lift: &mut Lift<'_>,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match openat(parent, name, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return gone(unlinkat(parent, name, AtFlags::empty())),
        Err(error) => return Err(error),
    };
    for (name, file_type) in list(&dir)? {
        let removed = match file_type {
            FileType::Directory => Err(Errno::ISDIR),
            _ => unlinkat(&dir, &name, AtFlags::empty()),
        };
        match removed {
            Err(Errno::ISDIR) if depth < DEPTH => empty(dir.as_fd(), &name, depth + 1, lift)?,
            Err(Errno::ISDIR) => lift(dir.as_fd(), &name)?,
            removed => gone(removed)?,
        }
    }
    drop(dir);
    gone(unlinkat(parent, name, AtFlags::REMOVEDIR))
}

fn gone(removed: Result<(), Errno>) -> Result<(), Errno> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Returns the names in a directory with their types.
pub(in crate::data) fn list(dir: impl AsFd) -> Result<Vec<(CString, FileType)>, Errno> {
    // It may have been listed before.
    seek(&dir, SeekFrom::Start(0))?;
    let mut room = vec![MaybeUninit::uninit(); 32 << 10];
    let mut found = Vec::new();
    let mut entries = RawDir::new(dir, &mut room);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_deeper_than_open_files_allow_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let base = std::fs::File::open(dir.path()).unwrap();
        let open = |at: &dyn AsFd, name: &str| {
            rustix::fs::mkdirat(at.as_fd(), name, Mode::from_raw_mode(0o700)).unwrap();
            openat(at.as_fd(), name, OFlags::RDONLY, Mode::empty()).unwrap()
        };
        let mut at = open(&base, "top");
        for _ in 0..3000 {
            rustix::fs::symlinkat("/etc", &at, "link").unwrap();
            at = open(&at, "a-rather-long-name");
        }
        tree(&base, "top").unwrap();
        tree(&base, "never-there").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
