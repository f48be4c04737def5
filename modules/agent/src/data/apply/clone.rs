//! Copies of files, or of ranges of them, that share their extents.

#![expect(unsafe_code, reason = "an ioctl that rustix does not know")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{IFlags, ioctl_ficlone, ioctl_getflags, ioctl_setflags};
use rustix::io::{Errno, pread, pwrite};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::data::extents;
use crate::data::seen::Seen;
use crate::proto::CloneRange;

/// Bytes that are copied at once where nothing can be shared.
const STRETCH: usize = 256 << 10;

/// Files share whole blocks, but for their ends.
const BLOCK: u64 = 4096;

/// `struct file_clone_range`.
#[repr(C)]
struct CloneArguments {
    from: i64,
    from_at: u64,
    len: u64,
    at: u64,
}

const CLONE_RANGE: Opcode = opcode::write::<CloneArguments>(0x94, 13);

/// Whether this kernel clones between two mounts of one file system; before Linux 5.18 it did not.
pub(super) fn crosses_mounts() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| is_since_5_18(&release))
}

fn is_since_5_18(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|text| text.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(18))
}

/// Makes `new`, which is empty, a clone of `live`; what cannot be cloned is copied, holes left out.
pub(in crate::data) fn clone(live: &OwnedFd, new: &OwnedFd) -> Result<(), Errno> {
    follow(live, new)?;
    match ioctl_ficlone(new, live) {
        Err(error) if is_no_clone(error) => copy(live, new),
        done => done,
    }
}

/// Makes a file that has no content yet one without copy-on-write if the other is: only then they share extents (facts/sync-engine.md,
/// table of special cases).
pub(super) fn follow(live: &OwnedFd, new: &OwnedFd) -> Result<(), Errno> {
    if is_written_in_place(live) { write_in_place(new) } else { Ok(()) }
}

/// Whether a file is written without copy-on-write, or files that are made in a directory are.
pub(super) fn is_written_in_place(fd: impl AsFd) -> bool {
    ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::NOCOW))
}

/// Makes a file that has no content yet, or a directory, one without copy-on-write, where the file system knows of that.
pub(super) fn write_in_place(fd: impl AsFd) -> Result<(), Errno> {
    match ioctl_getflags(&fd).and_then(|flags| ioctl_setflags(&fd, flags | IFlags::NOCOW)) {
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Ok(()),
        done => done,
    }
}

fn is_no_clone(error: Errno) -> bool {
    matches!(error, Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::TXTBSY)
}

/// Makes a range of `new` one of `from`: of whole blocks a clone where that goes, otherwise a copy.
///
/// # Errors
/// What the kernel says, or [`Errno::IO`] if `from` ends before.
pub(in crate::data) fn range(
    from: &OwnedFd,
    new: &OwnedFd,
    (at, from_at, len): CloneRange,
) -> Result<(), Errno> {
    let ends = from_at.checked_add(len).ok_or(Errno::INVAL)? == Seen::of(from)?.size();
    let whole = if ends { len } else { len - len % BLOCK };
    let arguments = CloneArguments { from: i64::from(from.as_raw_fd()), from_at, len: whole, at };
    let done = match whole {
        // The kernel takes it for everything up to the end.
        0 => Ok(()),
        // SAFETY: FICLONERANGE reads this structure, whose size its number encodes, and keeps nothing of it.
        _ => unsafe { ioctl(new, Setter::<CLONE_RANGE, CloneArguments>::new(arguments)) },
    };
    match done {
        Ok(()) => copy_range(from, new, (at + whole, from_at + whole, len - whole)),
        Err(error) if is_no_clone(error) => copy_range(from, new, (at, from_at, len)),
        Err(error) => Err(error),
    }
}

fn copy_range(from: &OwnedFd, new: &OwnedFd, (at, from_at, len): CloneRange) -> Result<(), Errno> {
    let mut buffer = vec![0; STRETCH.min(len as usize)];
    let mut done = 0;
    while done < len {
        let want = buffer.len().min((len - done) as usize);
        let n = pread(from, &mut buffer[..want], from_at + done)?;
        if n == 0 {
            return Err(Errno::IO);
        }
        write_all(new, &buffer[..n], at + done)?;
        done += n as u64;
    }
    Ok(())
}

/// Writes zeros where a file has anything.
pub(super) fn zeros(new: &OwnedFd, mut at: u64, end: u64) -> Result<(), Errno> {
    let zeros = vec![0; STRETCH];
    let end = end.min(Seen::of(new)?.size());
    while at < end {
        let step = (zeros.len() as u64).min(end - at);
        write_all(new, &zeros[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

fn write_all(new: &OwnedFd, data: &[u8], at: u64) -> Result<(), Errno> {
    let mut written = 0;
    while written < data.len() {
        written += pwrite(new, &data[written..], at + written as u64)?;
    }
    Ok(())
}

fn copy(live: &OwnedFd, new: &OwnedFd) -> Result<(), Errno> {
    let size = Seen::of(live)?.size();
    let mut buffer = vec![0; STRETCH];
    let mut at = 0;
    while let Some((mut start, end)) = extents::next(live, at, size)? {
        while start < end {
            let want = STRETCH.min((end - start) as usize);
            let n = pread(live, &mut buffer[..want], start)?;
            if n == 0 {
                return Ok(());
            }
            write_all(new, &buffer[..n], start)?;
            start += n as u64;
        }
        at = end;
    }
    Ok(())
}

const _: () = assert!(size_of::<CloneArguments>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_5_18_do_not_clone_between_mounts() {
        for release in ["5.18.0-4-amd64", "5.100", "6.1.0-44-amd64", "18.2"] {
            assert!(is_since_5_18(release), "{release}");
        }
        for release in ["5.17.9", "5.4.0-200-generic", "4.19", "", "x"] {
            assert!(!is_since_5_18(release), "{release}");
        }
    }
}
