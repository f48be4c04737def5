//! What one `statx` says about an inode.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use crate::proto::{FileTime, Identity};

/// An inode as it stands, never through a symbolic link.
#[derive(Clone)]
pub(crate) struct Seen(Statx);

impl Seen {
    /// Looks at `name` in `dir`.
    pub(super) fn at(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<Seen, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).map(Seen)
    }

    /// Looks at what is open.
    pub(super) fn of(fd: impl AsFd) -> Result<Seen, Errno> {
        statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).map(Seen)
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.0.stx_mode.into())
    }

    pub(super) fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Permission and special bits.
    pub(super) fn mode(&self) -> u32 {
        u32::from(self.0.stx_mode) & 0o7777
    }

    pub(super) fn uid(&self) -> u32 {
        self.0.stx_uid
    }

    pub(super) fn gid(&self) -> u32 {
        self.0.stx_gid
    }

    pub(super) fn ino(&self) -> u64 {
        self.0.stx_ino
    }

    /// The device that it lies on.
    pub(super) fn device(&self) -> u64 {
        u64::from(self.0.stx_dev_major) << 32 | u64::from(self.0.stx_dev_minor)
    }

    /// The numbers of the device that it stands for.
    pub(super) fn stands_for(&self) -> (u32, u32) {
        (self.0.stx_rdev_major, self.0.stx_rdev_minor)
    }

    pub(super) fn nlink(&self) -> u32 {
        self.0.stx_nlink
    }

    pub(super) fn size(&self) -> u64 {
        self.0.stx_size
    }

    /// Bytes allocated.
    pub(super) fn allocated(&self) -> u64 {
        self.0.stx_blocks.saturating_mul(512)
    }

    pub(super) fn mtime(&self) -> FileTime {
        time(self.0.stx_mtime)
    }

    pub(super) fn ctime(&self) -> FileTime {
        time(self.0.stx_ctime)
    }

    /// Whether `chattr` forbids changes.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen_by().is_some()
    }

    /// Returns the flag of `chattr` that forbids changes, if one does.
    pub(super) fn frozen_by(&self) -> Option<char> {
        let has = |flag| self.0.stx_attributes.contains(flag);
        let append = has(StatxAttributes::APPEND).then_some('a');
        if has(StatxAttributes::IMMUTABLE) { Some('i') } else { append }
    }

    /// Its identity as a plan knows it: only files have a size.
    pub(super) fn identity(&self) -> Identity {
        let size = if self.file_type() == FileType::RegularFile { self.size() } else { 0 };
        Identity { ino: self.ino(), ctime: self.ctime(), mtime: self.mtime(), size }
    }

    /// Whether this lies on the subvolume of `other`, by whatever mount.
    pub(super) fn is_beside(&self, other: &Seen) -> bool {
        let device = |seen: &Seen| (seen.0.stx_dev_major, seen.0.stx_dev_minor);
        device(self) == device(other)
    }

    /// Whether this lies on another mount or another subvolume than `other`, or has something mounted on it.
    pub(super) fn is_across(&self, other: &Seen) -> bool {
        let known = |seen: &Seen| seen.0.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        !self.is_beside(other) || (known(self) && known(other) && self.0.stx_mnt_id != other.0.stx_mnt_id)
    }
}

fn time(stamp: StatxTimestamp) -> FileTime {
    FileTime { seconds: stamp.tv_sec, nanos: stamp.tv_nsec }
}
