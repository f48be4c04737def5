//! Files whose extents are compressed on the disk: they are sent as they lie there.
//!
//! The digest is over the plain content, as of any file: each extent is decompressed for it, which costs less than the kernel's
//! own decompression does, and the kernel of the target need not compress it anew.

use std::os::fd::OwnedFd;

use super::{FRAME, Reader, Trouble, read_at};
use crate::data::content::ContentHash;
use crate::data::{encoded, extents};
use crate::proto::{Coding, Piece, ReadWant};

/// Smaller files lie beside their inodes, or are one block, which no compression makes smaller.
const LEAST: u64 = 4096;

/// After so many files that are not compressed only one of as many is tried.
const MISSES: u32 = 16;

/// Whether files of this tree are worth a try; one for each thread.
#[derive(Default)]
pub(super) struct Codes {
    misses: u32,
    room: Vec<u8>,
}

impl Codes {
    fn is_worth_a_try(&mut self, size: u64) -> bool {
        let is_turn = self.misses < MISSES || self.misses.is_multiple_of(MISSES);
        self.misses += u32::from(!is_turn);
        size > LEAST && is_turn
    }

    /// Returns what an extent holds as it lies on the disk and as the file has it, if it is compressed in a way that is known.
    fn extent(&mut self, fd: &OwnedFd, at: u64) -> Option<(Vec<u8>, Coding, Vec<u8>)> {
        self.room.resize(FRAME, 0);
        let read = encoded::read(fd, at, &mut self.room).ok().flatten();
        let (len, coding) = read?;
        let data = self.room[..len].to_vec();
        let plain = coding.decoded(&data).ok()?;
        Some((data, coding, plain))
    }
}

impl Reader<'_> {
    /// Sends a file whose first extent is compressed; returns whether it was one.
    pub(super) fn coded(&mut self, want: &ReadWant, fd: &OwnedFd, size: u64) -> Result<bool, Trouble> {
        if self.sent.is_none() || !self.codes.is_worth_a_try(size) {
            return Ok(false);
        }
        let Some((begin, _)) = extents::next(fd, 0, size)? else { return Ok(false) };
        let Some(first) = self.codes.extent(fd, begin) else {
            self.codes.misses = self.codes.misses.wrapping_add(1);
            return Ok(false);
        };
        self.codes.misses = 0;
        let mut first = Some(first);
        let mut hash = ContentHash::new();
        let mut at = 0;
        while let Some((mut start, end)) = extents::next(fd, at, size)? {
            while start < end {
                let extent = first.take().or_else(|| self.codes.extent(fd, start));
                let fits = |coding: &Coding| u64::from(coding.len) <= end - start || end == size;
                let (data, coding, len) = match extent.filter(|(_, coding, _)| fits(coding)) {
                    Some((data, coding, plain)) => {
                        // The last block of a file goes on behind its end.
                        let len = u64::from(coding.len).min(end - start);
                        hash.add(start, &plain[..len as usize]);
                        (data, Some(Coding { len: len as u32, ..coding }), len)
                    }
                    None => {
                        let data = read_at(fd, start, FRAME.min((end - start) as usize))?;
                        hash.add(start, &data);
                        let len = data.len() as u64;
                        (data, None, len)
                    }
                };
                if len == 0 {
                    break;
                }
                self.push(Piece { content: want.content, offset: start, data, last: None }, coding)?;
                start += len;
            }
            at = end;
        }
        let last = Some((size, hash.finish(size)));
        self.push_last(want, Piece { content: want.content, offset: 0, data: Vec::new(), last })?;
        Ok(true)
    }
}
