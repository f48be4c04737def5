//! Where a file has data. Holes are kept and none are invented (facts: mirror M18).

use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Returns the next stretch of data at or after `from`, within `size`; `None` if only a hole is left. Preallocated, unwritten
/// space counts as a hole. A file system that knows no holes has one stretch.
pub(super) fn next(fd: impl AsFd, from: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    if from >= size {
        return Ok(None);
    }
    let start = match seek(&fd, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((from, size))),
        Err(error) => return Err(error),
    };
    if start >= size {
        return Ok(None);
    }
    let end = seek(&fd, SeekFrom::Hole(start))?.min(size);
    // A file that is cut while it is read may answer with a hole right here.
    Ok((end > start).then_some((start, end)))
}
