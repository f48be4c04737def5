//! A copy of a file that shares its extents with it.

use std::os::fd::OwnedFd;

use rustix::fs::{IFlags, ioctl_ficlone, ioctl_getflags, ioctl_setflags};
use rustix::io::{Errno, pread, pwrite};

use crate::data::extents;
use crate::data::seen::Seen;

/// Bytes that are copied at once where nothing can be shared.
const STRETCH: usize = 256 << 10;

/// Makes `new`, which is empty, a clone of `live`; what cannot be cloned is copied, holes left out.
pub(in crate::data) fn clone(live: &OwnedFd, new: &OwnedFd) -> Result<(), Errno> {
    // A file without copy-on-write shares extents only with its like (facts/sync-engine.md, table of special cases).
    if ioctl_getflags(live).is_ok_and(|flags| flags.contains(IFlags::NOCOW)) {
        match ioctl_getflags(new).and_then(|flags| ioctl_setflags(new, flags | IFlags::NOCOW)) {
            // Another file system, which does not know of it.
            Err(Errno::OPNOTSUPP | Errno::NOTTY) => {}
            done => done?,
        }
    }
    match ioctl_ficlone(new, live) {
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::TXTBSY) => copy(live, new),
        done => done,
    }
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
            let mut written = 0;
            while written < n {
                written += pwrite(new, &buffer[written..n], start + written as u64)?;
            }
            start += n as u64;
        }
        at = end;
    }
    Ok(())
}
