//! Reads every file below a root for nothing but the file system's own checks: its checksums speak when data is read.

use std::os::fd::OwnedFd;

use rustix::fs::{Advice, FileType, OFlags, fadvise};
use rustix::io::{Errno, pread};

use pc_switcher_contract::BytePath;

use super::apply::remove::list;
use super::seen::Seen;
use super::{extents, open};
use crate::proto::AgentError;
use crate::server::Call;

/// Bytes read at once.
const STRETCH: usize = 1 << 20;

/// Told of what cannot be read: its path and what the system says.
pub(crate) type Told<'a> = dyn FnMut(&[u8], String) -> Result<(), AgentError> + 'a;

/// Reads all; returns how many files and bytes. What else is mounted below stays out.
///
/// # Errors
/// If the caller gave up.
pub(crate) fn run(root: &BytePath, call: &Call, told: &mut Told<'_>) -> Result<(u64, u64), AgentError> {
    match open::root(root) {
        Ok(dir) => run_in(&dir, call, told),
        Err(error) => told(b"", format!("cannot be opened: {error}")).map(|()| (0, 0)),
    }
}

/// As [`run`], of a root that is open.
///
/// # Errors
/// If the caller gave up.
pub(crate) fn run_in(dir: &OwnedFd, call: &Call, told: &mut Told<'_>) -> Result<(u64, u64), AgentError> {
    let (mut files, mut bytes) = (0, 0);
    let mut buffer = vec![0; STRETCH];
    let mut todo = vec![BytePath::default()];
    while let Some(at) = todo.pop() {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let listed = open::beneath_for_reading(dir, at.as_bytes(), flags).and_then(list);
        let entries = match listed {
            Ok(entries) => entries,
            // A stand-in of another subvolume.
            Err(Errno::XDEV) => continue,
            Err(error) => {
                told(at.as_bytes(), format!("the directory cannot be read: {error}"))?;
                continue;
            }
        };
        for (name, file_type) in entries {
            let path = at.join(name.to_bytes());
            match file_type {
                FileType::Directory => todo.push(path),
                FileType::RegularFile => {
                    files += 1;
                    match content(dir, &path, &mut buffer, call) {
                        Ok(read) => bytes += read,
                        Err(Errno::CANCELED) => return Err(AgentError::cancelled()),
                        Err(error) => told(path.as_bytes(), worded(error))?,
                    }
                }
                _ => {}
            }
        }
        if call.is_cancelled() {
            return Err(AgentError::cancelled());
        }
    }
    Ok((files, bytes))
}

fn worded(error: Errno) -> String {
    match error {
        Errno::IO => "cannot be read: the disk or its checksum says that the content is damaged".into(),
        error => format!("cannot be read: {error}"),
    }
}

fn content(dir: &OwnedFd, path: &BytePath, buffer: &mut [u8], call: &Call) -> Result<u64, Errno> {
    let fd = open::beneath_for_reading(dir, path.as_bytes(), OFlags::NOFOLLOW)?;
    // Pages that are in memory already would answer for the disk.
    open::forget(&fd);
    let size = Seen::of(&fd)?.size();
    let _ = fadvise(&fd, 0, None, Advice::Sequential);
    let (mut at, mut sum) = (0, 0);
    while let Some((mut start, end)) = extents::next(&fd, at, size)? {
        while start < end {
            let want = buffer.len().min((end - start) as usize);
            let n = match pread(&fd, &mut buffer[..want], start) {
                Err(Errno::INTR) => continue,
                read => read? as u64,
            };
            if n == 0 {
                return Ok(sum);
            }
            (start, sum) = (start + n, sum + n);
            if call.is_cancelled() {
                return Err(Errno::CANCELED);
            }
        }
        at = end;
    }
    open::forget(&fd);
    Ok(sum)
}
