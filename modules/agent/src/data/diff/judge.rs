//! Whether content differs, or metadata, of what has one place in both trees.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, readlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use crate::data::seen::Seen;
use crate::data::{digest, open, xattr};
use crate::proto::ChangeKind;

/// Larger files are not read to tell a new time from new content.
const SMALL: u64 = 16 << 20;
/// Bytes read at once.
const STRETCH: usize = 256 << 10;

/// One of the two: its tree, its path in it and what it is.
pub(super) type One<'a> = (&'a OwnedFd, &'a BytePath, &'a Seen);

/// Says what differs, if anything does; both are of one type.
pub(super) fn judge(was: One<'_>, is: One<'_>, stop: &dyn Fn() -> bool) -> Result<Option<ChangeKind>, Errno> {
    let differs = match is.2.file_type() {
        FileType::RegularFile => file_differs(was, is, stop)?,
        FileType::Symlink => target(was)? != target(is)?,
        _ => false,
    };
    if differs {
        return Ok(Some(ChangeKind::Changed));
    }
    let plain = |(_, _, seen): One<'_>| (seen.mode(), seen.uid(), seen.gid());
    // The time of a directory is that of its names, which are told by themselves.
    let times = !is.2.is_dir() && was.2.mtime() != is.2.mtime();
    let is_dressed = plain(was) != plain(is) || times || attributes(was)? != attributes(is)?;
    Ok(is_dressed.then_some(ChangeKind::Metadata))
}

fn file_differs(was: One<'_>, is: One<'_>, stop: &dyn Fn() -> bool) -> Result<bool, Errno> {
    if was.2.size() != is.2.size() {
        return Ok(true);
    }
    match is.2.size() {
        0 => Ok(false),
        1..=SMALL => Ok(content(was, stop)? != content(is, stop)?),
        _ => Ok(was.2.mtime() != is.2.mtime()),
    }
}

fn content((root, path, _): One<'_>, stop: &dyn Fn() -> bool) -> Result<[u8; 32], Errno> {
    let fd = open::beneath_for_reading(root, path.as_bytes(), OFlags::NOFOLLOW)?;
    let digest = digest::content(&fd, &mut vec![0; STRETCH], stop);
    open::forget(&fd);
    digest
}

fn target((root, path, _): One<'_>) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let fd = open::beneath(root, path.as_bytes(), flags)?;
    Ok(readlinkat(fd, c"", Vec::new())?.into_bytes())
}

fn attributes((root, path, _): One<'_>) -> Result<xattr::Xattrs, Errno> {
    let fd = open::beneath(root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW)?;
    xattr::Reader::new().of(&fd)
}
