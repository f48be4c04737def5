//! On which subvolume of a btrfs something lies.
#![expect(unsafe_code, reason = "an ioctl that rustix does not know")]

use std::io;
use std::os::fd::AsFd;

use rustix::fs::fstatfs;
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

/// The magic number of btrfs.
const BTRFS: u64 = 0x9123_683e;

/// `struct btrfs_ioctl_get_subvol_info_args`; only id, flags and uuid are read.
#[repr(C)]
struct SubvolumeInfo {
    id: u64,
    before: [u64; 35],
    flags: u64,
    uuid: [u8; 16],
    after: [u64; 24],
}

/// The flag of a read-only subvolume as it is on the disk.
const READONLY: u64 = 1;

const GET_SUBVOLUME_INFO: Opcode = opcode::read::<SubvolumeInfo>(0x94, 60);

/// Returns the uuid of the subvolume that holds what is open, 32 hex digits; `None` if this is no btrfs.
pub(super) fn subvolume_uuid(fd: impl AsFd) -> io::Result<Option<String>> {
    Ok(info(fd)?.map(|info| info.uuid.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Returns the id of the subvolume that holds what is open; `None` if this is no btrfs.
pub(super) fn subvolume_id(fd: impl AsFd) -> io::Result<Option<u64>> {
    Ok(info(fd)?.map(|info| info.id))
}

/// Whether what is open lies on a read-only subvolume of a btrfs, at its root or anywhere in it.
pub(super) fn is_read_only(fd: impl AsFd) -> bool {
    info(fd).is_ok_and(|info| info.is_some_and(|info| info.flags & READONLY != 0))
}

fn info(fd: impl AsFd) -> io::Result<Option<SubvolumeInfo>> {
    if fstatfs(&fd)?.f_type as u64 != BTRFS {
        return Ok(None);
    }
    // SAFETY: the number encodes the size of `SubvolumeInfo`, 504 bytes, which the kernel fills; all of its bit patterns
    // are valid.
    let info = unsafe { ioctl(&fd, Getter::<GET_SUBVOLUME_INFO, SubvolumeInfo>::new()) };
    match info {
        Ok(info) => Ok(Some(info)),
        Err(Errno::NOTTY) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_has_the_number_of_the_kernel_header() {
        assert_eq!(size_of::<SubvolumeInfo>(), 504);
        assert_eq!(GET_SUBVOLUME_INFO as u64, 0x81f8_943c);
    }
}
