//! Files of which the target has another version: each is read to its end once, and the blocks are sent whose digests the
//! target does not have at their places. Both the digest of the whole and the choice come from the same reading, so a live
//! file may change meanwhile.

use std::os::fd::OwnedFd;
use std::thread;

use rustix::fs::{Advice, FileType, OFlags, fadvise};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::{Batch, Codes, FRAME, Reader, TICK, Trouble, opened, read_at, tell_whole};
use crate::data::blocks::{of, of_zeros};
use crate::data::content::ContentHash;
use crate::data::seen::Seen;
use crate::data::sent::Sent;
use crate::data::{delta, extents, open, walk, wants};
use crate::proto::{AgentError, Blocks, BlocksWant, Identity, Piece, ReadWant, StreamFrame};
use crate::server::Call;

/// Answers [`crate::proto::Request::ReadBlocks`].
///
/// # Errors
/// If the root cannot be opened or the caller gave up.
pub fn run(root: &BytePath, call: &Call, sent: &Sent) -> Result<(), AgentError> {
    let dir = opened(root)?;
    let is_sealed = walk::is_sealed(&dir);
    if !is_sealed {
        thread::sleep(TICK);
    }
    wants::serve(call, delta::AT_ONCE, |wants| {
        let (inline, batch, codes) = (None, Batch::default(), Codes::default());
        let known = is_sealed.then_some(sent);
        let mut reader = Reader { root, dir: &dir, call, sent: known, inline, batch, codes, digest: None };
        while let Some(wants) = wants::next(wants, || reader.flush())? {
            for want in wants {
                let (want, blocks) = split(want);
                if is_sealed {
                    let done = reader.blocks(&want, &blocks);
                    reader.tell(&want, done.map(drop))?;
                    continue;
                }
                let version = match reader.blocks(&want, &blocks) {
                    Ok(version) => version,
                    Err(trouble) => reader.left(&want, trouble)?,
                };
                reader.flush()?;
                if let Some(version) = version {
                    tell_whole(call, &mut vec![(want.content, version)])?;
                    if let Some(digest) = reader.digest.take() {
                        sent.note(root, &want.path, digest);
                    }
                }
            }
        }
        Ok(())
    })
}

type Had = (u64, Vec<[u8; 16]>);

fn split(BlocksWant { path, blocks }: BlocksWant) -> (ReadWant, Had) {
    (ReadWant { content: blocks.content, path }, (blocks.block, blocks.digests))
}

impl Reader<'_> {
    /// Sends what differs; returns the version that was read, if it was the same before and after.
    fn blocks(&mut self, want: &ReadWant, (block, had): &Had) -> Result<Option<Identity>, Trouble> {
        let file = open::beneath_for_reading(self.dir, want.path.as_bytes(), OFlags::NOFOLLOW)?;
        let seen = Seen::of(&file)?;
        if seen.file_type() != FileType::RegularFile {
            return Err(Trouble::File(Errno::INVAL));
        }
        let size = seen.size();
        let block = (*block).clamp(Blocks::SMALLEST, Blocks::LARGEST);
        // Without digests the target may have anything, and all goes.
        let knows = !had.is_empty();
        let zeros = of_zeros(block);
        // Advice: the file is read as well without it.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        let mut hash = ContentHash::new();
        let (mut at, mut data) = (0, (0, 0));
        let mut same = 0;
        while at < size {
            if self.call.is_cancelled() {
                return Err(Trouble::Agent(AgentError::cancelled()));
            }
            if data.1 <= at {
                data = extents::next(&file, at, size)?.unwrap_or((size, size));
            }
            let number = at / block;
            let theirs = had.get(number as usize);
            let end = size.min((number + 1).saturating_mul(block));
            if data.0 >= end {
                let end = if theirs.is_none() { data.0 } else { end };
                // Beyond what the target has there are holes by themselves.
                if theirs.map_or(!knows, |theirs| end - at < block || *theirs != zeros) {
                    self.hole(want.content, at, end)?;
                }
                at = end;
                continue;
            }
            let bytes = read_at(&file, at, (end - at) as usize)?;
            let end = at + bytes.len() as u64;
            hash.add(at, &bytes);
            match theirs {
                Some(theirs) if *theirs == of(&bytes) => same += bytes.len() as u64,
                theirs => self.differing(want, &file, (at, &bytes), theirs.is_some() || !knows)?,
            }
            if same >= FRAME as u64 * 16 {
                self.call.item(&StreamFrame::Same(std::mem::take(&mut same)))?;
            }
            if bytes.is_empty() {
                // Cut while it was read: it ends here now.
                break;
            }
            at = end;
        }
        let size = at;
        if !hash.zeros(size, || self.call.is_cancelled()) {
            return Err(Trouble::Agent(AgentError::cancelled()));
        }
        self.call.item(&StreamFrame::Same(same))?;
        let last = Some((size, hash.finish(size)));
        self.push_last(want, Piece { content: want.content, offset: 0, data: Vec::new(), last })?;
        let after = Seen::of(&file)?.identity();
        if self.sent.is_some() {
            open::forget(&file);
        }
        Ok((seen.identity() == after).then_some(after))
    }

    /// Sends the data of a block, and where it has holes.
    fn differing(
        &mut self,
        want: &ReadWant,
        file: &OwnedFd,
        (begin, bytes): (u64, &[u8]),
        has_old: bool,
    ) -> Result<(), Trouble> {
        let end = begin + bytes.len() as u64;
        let mut at = begin;
        while at < end {
            let (mut start, stop) = extents::next(file, at, end)?.unwrap_or((end, end));
            // A live file may have a hole by now where there was something when it was read.
            if bytes[(at - begin) as usize..(start - begin) as usize].iter().any(|byte| *byte != 0) {
                start = at;
            }
            if start > at && has_old {
                self.hole(want.content, at, start)?;
            }
            let (from, to) = ((start - begin) as usize, (stop - begin) as usize);
            for (number, data) in (0..).zip(bytes[from..to].chunks(FRAME)) {
                let offset = start + number * FRAME as u64;
                self.push(Piece { content: want.content, offset, data: data.to_vec(), last: None }, None)?;
            }
            at = stop;
        }
        Ok(())
    }

    fn hole(&mut self, content: u32, at: u64, end: u64) -> Result<(), AgentError> {
        self.call.item(&StreamFrame::Hole { content, at, end })
    }
}
