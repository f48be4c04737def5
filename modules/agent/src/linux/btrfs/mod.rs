//! What this program asks of btrfs, behind a trait: the kernel's ioctls or a model of them.
//!
//! Both are held to the same contract tests. Directory work (making, renaming, syncing) is done by the callers with
//! the standard library, so the model keeps subvolumes as plain directories and adds what only btrfs knows.

#[doc(hidden)]
pub mod fuzzing;
mod ioctl;
mod raw;
mod tree;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod image;
#[cfg(test)]
pub(crate) mod model;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;

pub use ioctl::KernelBtrfs;
pub(crate) use tree::relative;
pub use tree::{FS_TREE, SubvolumeTree};

use super::lvm;

/// A uuid as btrfs keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Returns 32 hex digits, as subvolumes are named in records.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the dashed form, as file systems are named in `/sys/fs/btrfs`.
    pub fn dashed(&self) -> String {
        let hex = self.hex();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.dashed())
    }
}

/// What btrfs knows of a subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Its id; [`FS_TREE`] for the top level.
    pub id: u64,
    /// The id of the subvolume that holds its name; 0 for the top level and for deleted ones.
    pub parent_id: u64,
    /// Its own uuid.
    pub uuid: Uuid,
    /// The uuid of what it is a snapshot of; zero if it is none.
    pub source_uuid: Uuid,
    /// Its last transaction.
    pub generation: u64,
    /// The last transaction that changed its content.
    pub ctransid: u64,
    /// The transaction in which it was made.
    pub otransid: u64,
    /// Whether it is read-only.
    pub readonly: bool,
    /// When it was made, by the clock of then: seconds since 1970.
    pub created_seconds: i64,
}

/// A subvolume's name in its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubvolumeRef {
    /// Its id.
    pub id: u64,
    /// The subvolume that holds the name.
    pub parent_id: u64,
    /// The directory in the parent that holds the name, relative to the parent's root; empty for the root.
    pub dir: Vec<u8>,
    /// The name.
    pub name: Vec<u8>,
}

/// A stretch of space of one use and one profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceSlot {
    /// Block group flags: use and profile.
    pub flags: u64,
    /// Bytes allocated, counted once however many copies there are.
    pub total_bytes: u64,
    /// Bytes used.
    pub used_bytes: u64,
}

/// What the devices of a file system say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceSpace {
    /// How many there are.
    pub devices: u64,
    /// Their size together.
    pub total_bytes: u64,
    /// What chunks take of it.
    pub allocated_bytes: u64,
}

/// Btrfs as callers see it. Errors are the kernel's own, so that callers can tell `EXDEV` from `ENOSPC`.
pub trait Btrfs: Send + Sync {
    /// Returns the subvolume that `path` lies in. Needs no privilege.
    ///
    /// # Errors
    /// `ENOTTY` where there is no btrfs.
    fn subvolume(&self, path: &Path) -> io::Result<SubvolumeInfo>;

    /// Whether anything in the subvolume that `path` lies in is newer than a transaction. May say so though nothing is, where
    /// the tree is a single leaf. Needs root.
    ///
    /// # Errors
    /// `EPERM` without root.
    fn has_newer(&self, path: &Path, transid: u64) -> io::Result<bool>;

    /// Returns the file system's uuid. Needs no privilege.
    ///
    /// # Errors
    /// `ENOTTY` where there is no btrfs.
    fn fs_uuid(&self, path: &Path) -> io::Result<Uuid>;

    /// Returns all subvolumes of the file system, snapshots included. Needs root.
    ///
    /// # Errors
    /// `EPERM` without root.
    fn subvolumes(&self, path: &Path) -> io::Result<Vec<SubvolumeRef>>;

    /// Returns where `path`, a directory, lies in its subvolume; empty for the subvolume's root. Needs root.
    ///
    /// # Errors
    /// `EPERM` without root.
    fn inside(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Makes a writable snapshot of the subvolume whose root `source` is. Durable when it returns (facts/btrfs.md B1).
    ///
    /// # Errors
    /// `EXDEV` over file systems, `ETXTBSY` with a running swap file, `EEXIST`, `ENOSPC`.
    fn snapshot(&self, source: &Path, parent: &Path, name: &OsStr) -> io::Result<()>;

    /// Makes an empty subvolume; durable only after [`Btrfs::sync`] (facts/btrfs.md B1).
    ///
    /// # Errors
    /// `ENOTTY` where there is no btrfs, `EEXIST`, `ENOSPC`.
    fn make(&self, parent: &Path, name: &OsStr) -> io::Result<()>;

    /// Removes the subvolume whose root `path` is if nothing is in it; durable only after [`Btrfs::sync`].
    ///
    /// # Errors
    /// `ENOTEMPTY`.
    fn remove_empty(&self, path: &Path) -> io::Result<()>;

    /// Removes a subvolume; durable only after [`Btrfs::sync`].
    ///
    /// # Errors
    /// `EPERM` for one that is pinned or being sent, `ENOTEMPTY` with a subvolume inside.
    fn destroy(&self, parent: &Path, name: &OsStr) -> io::Result<()>;

    /// Removes the subvolume of this id, which stands in `parent`: no other, whatever has taken its name meanwhile. Durable
    /// only after [`Btrfs::sync`].
    ///
    /// # Errors
    /// As [`Btrfs::destroy`]; `ENOENT` if there is none.
    fn destroy_id(&self, parent: &Path, id: u64) -> io::Result<()>;

    /// Moves a subvolume. A read-only one stays in its directory (facts/btrfs.md B19).
    ///
    /// # Errors
    /// `EROFS` for a read-only one that would change its directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the subvolume read-only or writable. Durable when it returns (facts/btrfs.md B2).
    ///
    /// # Errors
    /// `EPERM` while it is being sent.
    fn set_readonly(&self, path: &Path, readonly: bool) -> io::Result<()>;

    /// Makes a directory immutable, or an ordinary one again: while it is, nobody adds, removes or renames what is directly in
    /// it, by name or by id (facts/btrfs.md B16). Durable only after [`Btrfs::sync`].
    ///
    /// # Errors
    /// `EPERM` without `CAP_LINUX_IMMUTABLE`, which root in a container often lacks.
    fn set_immutable(&self, dir: &Path, immutable: bool) -> io::Result<()>;

    /// Whether a directory is immutable. Needs no privilege.
    ///
    /// # Errors
    /// `ENOENT` if there is none.
    fn is_immutable(&self, dir: &Path) -> io::Result<bool>;

    /// Starts a commit and returns at once: snapshots asked for now share a transaction (facts/btrfs.md B62).
    ///
    /// # Errors
    /// If the file system is broken.
    fn start_sync(&self, path: &Path) -> io::Result<()>;

    /// Whether subvolumes that were removed still take space: the kernel clears them away later. Needs root.
    ///
    /// # Errors
    /// `EPERM` without root.
    fn is_clearing(&self, path: &Path) -> io::Result<bool>;

    /// Commits everything.
    ///
    /// # Errors
    /// If the file system is broken.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Returns how space is used, by block group profile. Needs no privilege.
    ///
    /// # Errors
    /// `ENOTTY` where there is no btrfs.
    fn space(&self, path: &Path) -> io::Result<Vec<SpaceSlot>>;

    /// Returns what the devices say. Needs no privilege.
    ///
    /// # Errors
    /// `ENOTTY` where there is no btrfs.
    fn devices(&self, path: &Path) -> io::Result<DeviceSpace>;

    /// Returns what is asked where a member is no subvolume but lies in a volume of LVM.
    fn lvm(&self) -> &'static dyn lvm::Lvm {
        &lvm::HOST
    }
}
