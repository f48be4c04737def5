//! Sets metadata: owner, then mode, then attributes, then times, since a new owner clears set-id bits and capabilities.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fchmod,
    fchown, fsetxattr, futimens, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

use super::seen::Seen;
use super::xattr;
use crate::proto::{FileTime, Meta};

/// An attribute that the file system does not take, and what it says.
pub(super) type Refused = (Vec<u8>, Errno);

/// Sets everything on a file or directory of our own that is open and has no attributes yet.
pub(super) fn fresh(fd: impl AsFd, meta: &Meta) -> Result<Vec<Refused>, Errno> {
    fchown(&fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    fchmod(&fd, Mode::from_raw_mode(meta.mode))?;
    let mut refused = Vec::new();
    for (name, value) in &meta.xattrs {
        tolerate(name, fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()), &mut refused)?;
    }
    futimens(&fd, &times(meta.mtime))?;
    Ok(refused)
}

/// Makes the metadata of an inode that is open for its path what `meta` says; what is right already is not touched.
pub(super) fn change(fd: impl AsFd, meta: &Meta) -> Result<Vec<Refused>, Errno> {
    let seen = Seen::of(&fd)?;
    let had = xattr::Reader::new().of(&fd)?;
    let same_owner = (seen.uid(), seen.gid()) == (meta.uid, meta.gid);
    if same_owner && seen.mode() == meta.mode && seen.mtime() == meta.mtime && had == meta.xattrs {
        return Ok(Vec::new());
    }
    if seen.is_frozen() {
        return Err(Errno::PERM);
    }
    let path = path_of(&fd)?;
    if !same_owner {
        chownat(&fd, c"", Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)), AtFlags::EMPTY_PATH)?;
    }
    for (name, _) in had.iter().filter(|(name, _)| !meta.xattrs.iter().any(|(wanted, _)| wanted == name)) {
        match removexattr(&path, name.as_slice()) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    if seen.file_type() != FileType::Symlink && !(same_owner && seen.mode() == meta.mode) {
        chmod(&path, Mode::from_raw_mode(meta.mode))?;
    }
    let mut refused = Vec::new();
    for (name, value) in meta.xattrs.iter().filter(|pair| !same_owner || !had.contains(pair)) {
        tolerate(name, setxattr(&path, name.as_slice(), value, XattrFlags::empty()), &mut refused)?;
    }
    utimensat(&fd, c"", &times(meta.mtime), AtFlags::EMPTY_PATH)?;
    Ok(refused)
}

/// Sets the time of the last change alone.
pub(super) fn set_mtime(fd: impl AsFd, mtime: FileTime) -> Result<(), Errno> {
    utimensat(fd, c"", &times(mtime), AtFlags::EMPTY_PATH)
}

/// Takes off ACLs that a directory inherits, so that nothing made in it inherits them in turn.
pub(super) fn strip_acls(fd: impl AsFd) -> Result<(), Errno> {
    let path = path_of(&fd)?;
    for name in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match removexattr(&path, name) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The kernel's own name of what is open; following it leads to this very inode and nowhere else.
fn path_of(fd: impl AsFd) -> Result<CString, Errno> {
    let mut path = Vec::new();
    let _ = write!(path, "/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// Notes an attribute that this file system or our rights do not allow; everything else is an error.
fn tolerate(name: &[u8], done: Result<(), Errno>, refused: &mut Vec<Refused>) -> Result<(), Errno> {
    match done {
        Ok(()) => Ok(()),
        // ext4 says that there is no space when an attribute is too large for its block.
        Err(
            error @ (Errno::NOTSUP
            | Errno::NOSPC
            | Errno::TOOBIG
            | Errno::RANGE
            | Errno::INVAL
            | Errno::PERM
            | Errno::ACCESS),
        ) => {
            refused.push((name.to_vec(), error));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn times(mtime: FileTime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}
