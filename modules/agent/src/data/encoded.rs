//! Compressed extents of btrfs as they lie on the disk: `BTRFS_IOC_ENCODED_READ` and `_WRITE`, Linux 5.18, root only.
#![expect(unsafe_code, reason = "ioctls that rustix does not know")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::proto::{Coding, LARGEST_EXTENT};

/// `_IOR(0x94, 64, struct btrfs_ioctl_encoded_io_args)` and `_IOW`.
const READ: u64 = 0x8080_9440;
const WRITE: u64 = 0x4080_9440;

/// `BTRFS_ENCODED_IO_COMPRESSION_ZSTD`.
const ZSTD: u32 = 2;

/// `struct btrfs_ioctl_encoded_io_args`.
#[repr(C)]
struct Args {
    /// One vector.
    iov: *const libc::iovec,
    iovcnt: libc::c_ulong,
    offset: i64,
    flags: u64,
    len: u64,
    whole: u64,
    skip: u64,
    compression: u32,
    encryption: u32,
    reserved: [u8; 64],
}

impl Args {
    fn new(vector: &libc::iovec, offset: u64) -> Self {
        Self {
            iov: vector,
            iovcnt: 1,
            offset: offset.cast_signed(),
            flags: 0,
            len: 0,
            whole: 0,
            skip: 0,
            compression: 0,
            encryption: 0,
            reserved: [0; 64],
        }
    }
}

/// Reads the extent that holds `offset`, from there on, if it is compressed with zstd; what it needs is left in `room`, which
/// holds at least [`LARGEST_EXTENT`] bytes.
///
/// # Errors
/// What the kernel says: [`Errno::NOTTY`] where there is no such call, [`Errno::PERM`] without root.
pub(super) fn read(fd: impl AsFd, offset: u64, room: &mut [u8]) -> Result<Option<(usize, Coding)>, Errno> {
    let vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    let mut args = Args::new(&vector, offset);
    // SAFETY: the request takes `Args`, whose one vector is `room`, which nobody else uses and which outlives the call.
    let read = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), READ as _, &raw mut args) };
    let Ok(read) = usize::try_from(read) else { return Err(last()) };
    let small = |value: u64| u32::try_from(value).ok();
    let coding = match (small(args.len), small(args.whole), small(args.skip)) {
        (Some(len), Some(whole), Some(skip)) if args.compression == ZSTD && args.encryption == 0 => {
            Coding { piece: 0, len, whole, skip }
        }
        _ => return Ok(None),
    };
    Ok((read <= LARGEST_EXTENT && coding.is_possible()).then_some((read, coding)))
}

/// Writes an extent as it came from [`read`]; the file ends there or goes on at a border of blocks.
///
/// # Errors
/// What the kernel says; there is a reason for each to write the plain bytes instead: no such call, no root, a file without
/// copy-on-write, other sizes of blocks.
pub(super) fn write(fd: impl AsFd, offset: u64, bytes: &[u8], coding: Coding) -> Result<(), Errno> {
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut args = Args::new(&vector, offset);
    (args.len, args.whole, args.skip) = (coding.len.into(), coding.whole.into(), coding.skip.into());
    args.compression = ZSTD;
    // SAFETY: the request takes `Args`, whose one vector is `bytes`, which the kernel only reads.
    let written = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), WRITE as _, &raw mut args) };
    match usize::try_from(written) {
        Ok(_) => Ok(()),
        Err(_) => Err(last()),
    }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_size_of_the_kernel_header() {
        assert_eq!(size_of::<Args>(), 128);
    }

    #[test]
    fn what_is_no_btrfs_knows_no_extents() {
        let file = tempfile::tempfile().unwrap();
        let known = read(&file, 0, &mut [0; 1024]);
        assert!(matches!(known, Err(_) | Ok(None)), "{known:?}");
    }
}
