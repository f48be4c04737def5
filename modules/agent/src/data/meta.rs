//! Sets metadata: owner, then mode, then attributes, then times, since a new owner clears set-id bits and capabilities.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fchmod,
    fchown, fsetxattr, fstatvfs, futimens, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::seen::Seen;
use super::xattr;
use crate::proto::{FileTime, Meta, RefusedAttribute, Rights};

/// With so much left "no space" is said of an attribute and not of the disk; none is larger than 64 KiB.
const ROOM: u64 = 1 << 20;

/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// An attribute that the file system does not take, and what it says.
pub(super) type Refused = (Vec<u8>, Errno);

/// Returns what is told of one.
pub(super) fn told(path: &BytePath, (name, error): Refused) -> RefusedAttribute {
    let why = match error {
        // ext4 and btrfs say so of an attribute that is too large for its place.
        Errno::NOSPC | Errno::TOOBIG | Errno::RANGE => "too large".to_owned(),
        error => std::io::Error::from(error).to_string(),
    };
    RefusedAttribute { path: path.clone(), name: BytePath::new(name), why }
}

/// Sets everything on a file or directory of our own that is open and has no attributes yet.
pub(super) fn fresh(fd: impl AsFd, meta: &Meta) -> Result<Vec<Refused>, Errno> {
    fchown(&fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    fchmod(&fd, Mode::from_raw_mode(meta.mode))?;
    let mut refused = Vec::new();
    for (name, value) in &meta.xattrs {
        tolerate(&fd, name, fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()), &mut refused)?;
    }
    futimens(&fd, &times(meta.mtime))?;
    Ok(refused)
}

/// As [`fresh`], where the file system may keep no owners, modes or times; also whether it kept these.
pub(super) fn fresh_as_kept(fd: impl AsFd, meta: &Meta) -> Result<(Vec<Refused>, bool), Errno> {
    // What was made just now belongs to whoever made it: it is the file system that refuses.
    let kept = |done: Result<(), Errno>| match done {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error),
    };
    let is_owned = kept(fchown(&fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))))?;
    // Nobody gets the rights of an owner that it does not have.
    let mode = if is_owned { meta.mode } else { meta.mode & !SET_ID };
    let has_mode = kept(fchmod(&fd, Mode::from_raw_mode(mode)))?;
    let mut refused = Vec::new();
    for (name, value) in &meta.xattrs {
        tolerate(&fd, name, fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()), &mut refused)?;
    }
    let has_time = kept(futimens(&fd, &times(meta.mtime)))?;
    // Some say yes to everything.
    let seen = Seen::of(&fd)?;
    let is_so = (seen.uid(), seen.gid(), seen.mode()) == (meta.uid, meta.gid, meta.mode);
    Ok((refused, is_owned && has_mode && has_time && is_so))
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
        tolerate(&fd, name, setxattr(&path, name.as_slice(), value, XattrFlags::empty()), &mut refused)?;
    }
    for (name, _) in &refused {
        // The value of before belongs to the version of before.
        match removexattr(&path, name.as_slice()) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    utimensat(&fd, c"", &times(meta.mtime), AtFlags::EMPTY_PATH)?;
    Ok(refused)
}

/// What became of a directory.
pub(super) enum Settled {
    /// It is what it is to be, but for these.
    Done(Vec<Refused>),
    /// Somebody changed owner, mode or attributes, which stay; the time is set.
    Touched,
}

/// Makes a directory that is open for its path what `meta` says, but for what somebody changed there meanwhile; `again` if some of
/// it may have been set before a crash.
pub(super) fn settle(fd: impl AsFd, meta: &Meta, rights: &Rights, again: bool) -> Result<Settled, Errno> {
    let seen = Seen::of(&fd)?;
    let now = Meta {
        mode: seen.mode(),
        uid: seen.uid(),
        gid: seen.gid(),
        mtime: seen.mtime(),
        xattrs: xattr::Reader::new().of(&fd)?,
    };
    let is_expected = match rights {
        Rights::Same => same_rights(&now, meta),
        Rights::Were(was) => {
            same_rights(&now, meta) || same_rights(&now, was) || again && is_between(&now, was, meta)
        }
    };
    if is_expected {
        return change(fd, meta).map(Settled::Done);
    }
    if now.mtime != meta.mtime {
        if seen.is_frozen() {
            return Err(Errno::PERM);
        }
        set_mtime(&fd, meta.mtime)?;
    }
    Ok(match rights {
        // Nothing of this was to be changed, so whoever did it is not in the way of anything.
        Rights::Same => Settled::Done(Vec::new()),
        Rights::Were(_) => Settled::Touched,
    })
}

fn same_rights(one: &Meta, other: &Meta) -> bool {
    (one.mode, one.uid, one.gid, &one.xattrs) == (other.mode, other.uid, other.gid, &other.xattrs)
}

/// Whether rights are on the way from one state to another. The mode is part of an ACL, so that one may be neither.
fn is_between(now: &Meta, from: &Meta, to: &Meta) -> bool {
    const ACL: &[u8] = b"system.posix_acl_access";
    let value = |meta: &Meta, name: &[u8]| {
        meta.xattrs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let names =
        [now, from, to].into_iter().flat_map(|meta| meta.xattrs.iter().map(|(name, _)| name.as_slice()));
    let is_either = |name: &[u8]| {
        let now = value(now, name);
        name == ACL || now == value(from, name) || now == value(to, name)
    };
    [from.uid, to.uid].contains(&now.uid)
        && [from.gid, to.gid].contains(&now.gid)
        && [from.mode, to.mode].contains(&now.mode)
        && names.into_iter().all(is_either)
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
fn tolerate(
    fd: impl AsFd,
    name: &[u8],
    done: Result<(), Errno>,
    refused: &mut Vec<Refused>,
) -> Result<(), Errno> {
    match done {
        Ok(()) => Ok(()),
        Err(Errno::NOSPC) if !has_room(fd) => Err(Errno::NOSPC),
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

/// Whether the file system has room for an attribute of any size. What cannot be asked has none.
fn has_room(fd: impl AsFd) -> bool {
    fstatvfs(fd).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= ROOM)
}

fn times(mtime: FileTime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(mode: u32, uid: u32, xattrs: &[(&str, &str)]) -> Meta {
        let pair = |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        Meta { mode, uid, xattrs: xattrs.iter().map(pair).collect(), ..Meta::default() }
    }

    #[test]
    fn rights_that_a_crash_left_half_set_are_told_from_those_that_somebody_set() {
        let from = meta(0o755, 0, &[("user.a", "1"), ("user.gone", "x")]);
        let to = meta(0o700, 7, &[("user.a", "2"), ("user.new", "y")]);
        for half in [
            meta(0o755, 7, &[("user.a", "1"), ("user.gone", "x")]),
            meta(0o755, 7, &[("user.a", "1")]),
            meta(0o700, 7, &[("user.a", "2")]),
            meta(0o700, 7, &[("system.posix_acl_access", "mask"), ("user.a", "2")]),
        ] {
            assert!(is_between(&half, &from, &to), "{half:?}");
        }
        for other in [
            meta(0o711, 0, &[("user.a", "1"), ("user.gone", "x")]),
            meta(0o755, 8, &[("user.a", "1")]),
            meta(0o755, 0, &[("user.a", "3")]),
            meta(0o755, 0, &[("user.other", "1")]),
        ] {
            assert!(!is_between(&other, &from, &to), "{other:?}");
        }
    }
}
