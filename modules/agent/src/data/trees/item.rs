//! One name of a copy, as its list and a stream say it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use pc_switcher_contract::BytePath;

use crate::data::seen::Seen;
use crate::data::xattr;
use crate::proto::{FileTime, Meta};

/// How the content of files is kept in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Form {
    /// As it is.
    Hardlink,
    /// Each file a zstd frame.
    Archive,
    /// Not in the tree itself: in a volume of LVM, which the label names.
    Volume,
}

/// A name, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// Where, relative to the root; empty for the root itself. What is above a name comes before it.
    pub(crate) path: BytePath,
    /// What it is.
    pub(crate) what: What,
    /// Its metadata; of a further name of a file that of the first.
    pub(crate) meta: Meta,
    /// What it was copied of.
    pub(crate) live: Live,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// A directory.
    Dir,
    /// A file: bytes of content, and their digest with holes read as zeros.
    File(u64, [u8; 32]),
    /// A further name of the file that has this one.
    Link(BytePath),
    /// A symbolic link to this.
    Symlink(BytePath),
    /// A named pipe.
    Fifo,
    /// A device: whether of blocks, and its numbers.
    Device(bool, u32, u32),
}

/// The inode of the live tree that was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    /// The device.
    pub(crate) device: u64,
    /// The inode.
    pub(crate) ino: u64,
    /// Its last change of any kind.
    pub(crate) ctime: FileTime,
    /// Whether a later change would show: it was not just being changed.
    pub(crate) is_settled: bool,
    /// Whether it had further names.
    pub(crate) has_links: bool,
}

impl Live {
    /// Returns what an inode is known by. What changed at `settled` or later may change again without showing.
    pub(super) fn of(seen: &Seen, settled: FileTime) -> Self {
        Self {
            device: seen.device(),
            ino: seen.ino(),
            ctime: seen.ctime(),
            is_settled: seen.ctime() < settled,
            has_links: seen.nlink() > 1,
        }
    }

    /// Whether this is the inode, whatever became of it.
    pub(super) fn is_it(&self, seen: &Seen) -> bool {
        (self.device, self.ino) == (seen.device(), seen.ino())
    }
}

/// Returns the metadata of what is open.
pub(super) fn meta_of(fd: &OwnedFd) -> Result<Meta, Errno> {
    meta_with(&Seen::of(fd)?, fd)
}

pub(super) fn meta_with(seen: &Seen, fd: impl AsFd) -> Result<Meta, Errno> {
    let xattrs = xattr::Reader::new().of(fd)?;
    Ok(Meta { mode: seen.mode(), uid: seen.uid(), gid: seen.gid(), mtime: seen.mtime(), xattrs })
}
