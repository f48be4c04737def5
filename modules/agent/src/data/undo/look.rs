//! Looks at single paths of a tree.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, readlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use crate::data::changed::SUBVOLUME_ROOT;
use crate::data::seen::Seen;
use crate::data::{open, xattr};
use crate::proto::{Entry, Kind, Meta};

/// The inode of what stands for a subvolume in a snapshot.
const STUB: u64 = 2;

/// One state of a part.
pub(super) struct View {
    pub(super) root: OwnedFd,
    xattrs: xattr::Reader,
}

impl View {
    pub(super) fn of(root: OwnedFd) -> Self {
        Self { root, xattrs: xattr::Reader::new() }
    }

    /// Returns what stands at a path.
    ///
    /// # Errors
    /// `EXDEV` for what is no part of this tree, `EINVAL` for what is never mirrored.
    pub(super) fn at(&mut self, path: &BytePath) -> Result<Option<Entry>, Errno> {
        let fd = match open::beneath(&self.root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW) {
            // A symbolic link on the way: nothing of this tree is there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => opened?,
        };
        let seen = Seen::of(&fd)?;
        let (kind, target) = match seen.file_type() {
            FileType::RegularFile => (Kind::File, BytePath::default()),
            FileType::Directory if !path.is_empty() && matches!(seen.ino(), SUBVOLUME_ROOT | STUB) => {
                return Err(Errno::XDEV);
            }
            FileType::Directory => (Kind::Dir, BytePath::default()),
            FileType::Symlink => {
                (Kind::Symlink, BytePath::new(readlinkat(&fd, c"", Vec::new())?.into_bytes()))
            }
            FileType::Fifo => (Kind::Fifo, BytePath::default()),
            _ => return Err(Errno::INVAL),
        };
        let is_file = kind == Kind::File;
        Ok(Some(Entry {
            name: BytePath::new(path.name()),
            kind,
            meta: Meta {
                mode: seen.mode(),
                uid: seen.uid(),
                gid: seen.gid(),
                mtime: seen.mtime(),
                xattrs: self.xattrs.of(&fd)?,
            },
            size: if is_file { seen.size() } else { 0 },
            allocated: if is_file { seen.allocated() } else { 0 },
            ctime: seen.ctime(),
            ino: seen.ino(),
            nlink: seen.nlink(),
            target,
        }))
    }

    /// Returns the names in a directory.
    pub(super) fn names(&self, path: &BytePath) -> Result<Vec<Vec<u8>>, Errno> {
        let fd = open::beneath_for_reading(&self.root, path.as_bytes(), OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }
}
