//! Digests of whole files, for comparing without sending: BLAKE3 of the content with holes read as zeros.

use std::os::fd::OwnedFd;

use rustix::fs::{Advice, FileType, OFlags, fadvise};
use rustix::io::{Errno, pread};

use pc_switcher_contract::BytePath;

use super::content::ContentHash;
use super::inline::Inline;
use super::read::READERS;
use super::seen::Seen;
use super::sent::Sent;
use super::{extents, open, walk, wants};
use crate::proto::{AgentError, ReadWant};
use crate::server::Call;

/// Bytes read at once.
const STRETCH: usize = 256 << 10;

/// Digests that one item carries, at most.
const ITEM: usize = 512;

/// Answers [`crate::proto::Request::Digest`].
///
/// # Errors
/// If the root cannot be opened or the caller gave up.
pub fn run(root: &BytePath, call: &Call, sent: &Sent) -> Result<(), AgentError> {
    let dir = open::root(root).map_err(|error| AgentError::io(format!("`{root}`"), &error.into()))?;
    // Elsewhere a tree lags behind, and the pages are those of files in use.
    let is_sealed = walk::is_sealed(&dir);
    wants::serve(call, READERS, |wants| {
        let mut inline = is_sealed.then(|| Inline::below(&dir));
        let mut buffer = vec![0; STRETCH];
        let mut found: Vec<(u32, Option<[u8; 32]>)> = Vec::new();
        loop {
            let flush = || if found.is_empty() { Ok(()) } else { call.item(&std::mem::take(&mut found)) };
            let Some(wants) = wants::next(wants, flush)? else { return Ok(()) };
            let (known, wants): (Vec<_>, Vec<_>) =
                wants.into_iter().partition(|want: &ReadWant| sent.of(root, &want.path).is_some());
            found.extend(known.into_iter().map(|want| (want.content, sent.of(root, &want.path))));
            if let Some(inline) = &mut inline {
                inline.prepare(&wants);
            }
            for want in wants {
                let small = inline.as_mut().and_then(|inline| inline.take(&want.path)).map(|(data, _)| data);
                let digest = match small {
                    Some(data) => Some(of_data(&data)),
                    None => file(&dir, &want.path, is_sealed, &mut buffer, &|| call.is_cancelled()).ok(),
                };
                found.push((want.content, digest));
            }
            if found.len() >= ITEM {
                call.item(&std::mem::take(&mut found))?;
            }
        }
    })
}

fn of_data(data: &[u8]) -> [u8; 32] {
    let mut hash = ContentHash::new();
    hash.add(0, data);
    hash.finish(data.len() as u64)
}

/// Opens one file and forgets its pages when they were read.
fn file(
    dir: &OwnedFd,
    path: &BytePath,
    forgets: bool,
    buffer: &mut [u8],
    stop: &dyn Fn() -> bool,
) -> Result<[u8; 32], Errno> {
    let fd = open::beneath_for_reading(dir, path.as_bytes(), OFlags::NOFOLLOW)?;
    let digest = content(&fd, buffer, stop);
    if forgets {
        open::forget(&fd);
    }
    digest
}

/// Reads a regular file to its end; `stop` is asked now and then, since a large one must not hold up the end of a call.
pub(super) fn content(fd: &OwnedFd, buffer: &mut [u8], stop: &dyn Fn() -> bool) -> Result<[u8; 32], Errno> {
    let seen = Seen::of(fd)?;
    if seen.file_type() != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let size = seen.size();
    if size > STRETCH as u64 {
        // Advice: the file is read as well without it.
        let _ = fadvise(fd, 0, None, Advice::Sequential);
    }
    let mut hash = ContentHash::new();
    let mut at = 0;
    while at < size {
        let (start, end) = match size <= STRETCH as u64 {
            true => (0, size),
            false => extents::next(fd, at, size)?.unwrap_or((size, size)),
        };
        if !hash.zeros(start, stop) {
            return Err(Errno::CANCELED);
        }
        at = start;
        while at < end {
            let want = STRETCH.min((end - at) as usize);
            let n = read(fd, &mut buffer[..want], at)?;
            if n == 0 {
                return Ok(hash.finish(at));
            }
            hash.add(at, &buffer[..n]);
            at += n as u64;
            if stop() {
                return Err(Errno::CANCELED);
            }
        }
    }
    Ok(hash.finish(size))
}

fn read(fd: &OwnedFd, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    loop {
        match pread(fd, &mut *buffer, at) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}
