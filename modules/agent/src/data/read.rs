//! Reads content on the source: small files many to a frame, large ones in pieces, holes not at all.
//!
//! One thread reads a file from its beginning to its end, so the pieces of a file stay in order while several files travel
//! at once. What cannot be read is reported for the file and does not end the call.
//!
//! Of some files only a part is sent: see `rest` and `blocks`.
//!
//! In a live tree each file is looked at before and after it is read. One that did not change meanwhile is said to be whole,
//! with the version that was read.

mod batch;
mod blocks;
mod coded;
mod ranges;
mod rest;

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, FileType, IFlags, OFlags, fadvise, ioctl_getflags};
use rustix::io::{Errno, pread};

use pc_switcher_contract::BytePath;

use super::content::ContentHash;
use super::inline::Inline;
use super::seen::Seen;
use super::sent::Sent;
use super::{delta, extents, open, walk, wants};
use crate::proto::{AgentError, Coding, Identity, Piece, ReadWant, StreamFrame};
use crate::server::Call;

use batch::Batch;
use coded::Codes;

pub use blocks::run as run_blocks;
pub use ranges::run as run_ranges;
pub use rest::run as run_rest;

/// Bytes of content that one frame carries, about.
const FRAME: usize = 256 << 10;

/// What a piece weighs in a frame besides its data.
const PIECE_HEAD: usize = 64;

/// Longer than stamps of files stand still: what is written from now on has another one than whatever a walk has seen.
const TICK: Duration = Duration::from_millis(20);

/// Files that one [`StreamFrame::Whole`] tells of.
const TOLD: usize = 256;

/// How many files are read at once: they wait for the disk more than for a processor.
pub(super) const READERS: usize = 8;

/// Answers [`crate::proto::Request::Read`].
///
/// # Errors
/// If the root cannot be opened or the caller gave up.
pub fn run(root: &BytePath, call: &Call, sent: &Sent) -> Result<(), AgentError> {
    let dir = opened(root)?;
    // Elsewhere a file may change after it was sent.
    let sent = walk::is_sealed(&dir).then_some(sent);
    wants::serve(call, READERS, |wants| {
        let inline = sent.map(|_| Inline::below(&dir));
        let batch = Batch::default();
        let mut reader =
            Reader { root, dir: &dir, call, sent, inline, batch, codes: Codes::default(), digest: None };
        while let Some(wants) = wants::next(wants, || reader.flush())? {
            if let Some(inline) = &mut reader.inline {
                inline.prepare(&wants);
            }
            for want in wants {
                reader.send(&want)?;
            }
        }
        Ok(())
    })
}

/// Answers [`crate::proto::Request::ReadLive`].
///
/// # Errors
/// As [`run`].
pub fn run_live(root: &BytePath, call: &Call, sent: &Sent) -> Result<(), AgentError> {
    let dir = open::root(root).map_err(|error| AgentError::io(format!("`{root}`"), &error.into()))?;
    thread::sleep(TICK);
    wants::serve(call, READERS, |wants| {
        let mut reader = Reader {
            root,
            dir: &dir,
            call,
            sent: None,
            inline: None,
            batch: Batch::default(),
            codes: Codes::default(),
            digest: None,
        };
        let mut whole = Vec::new();
        loop {
            let next = wants::next(wants, || {
                reader.flush()?;
                tell_whole(call, &mut whole)
            })?;
            let Some(wants) = next else { return Ok(()) };
            for want in wants {
                let Some(version) = reader.send_live(&want)? else { continue };
                whole.push((want.content, version));
                if let Some(digest) = reader.digest.take() {
                    sent.note(root, &want.path, digest);
                }
            }
            if whole.len() >= TOLD {
                reader.flush()?;
                tell_whole(call, &mut whole)?;
            }
        }
    })
}

/// Says which files of a live tree are whole.
fn tell_whole(call: &Call, whole: &mut Vec<(u32, Identity)>) -> Result<(), AgentError> {
    match whole.is_empty() {
        true => Ok(()),
        false => call.item(&StreamFrame::Whole(std::mem::take(whole))),
    }
}

/// Answers [`crate::proto::Request::ReadDelta`]: every file is read to the end, for its digest, and what differs from the same
/// file below `base` is sent.
///
/// # Errors
/// If a root cannot be opened or is no read-only snapshot, or the caller gave up.
pub fn run_delta(root: &BytePath, base: &BytePath, call: &Call, sent: &Sent) -> Result<(), AgentError> {
    let (dir, base_dir) = (opened(root)?, opened(base)?);
    if let Some((path, _)) = [(root, &dir), (base, &base_dir)].iter().find(|(_, dir)| !walk::is_sealed(dir)) {
        return Err(AgentError::failed(format!("`{path}` is not in a read-only snapshot")));
    }
    wants::serve(call, delta::AT_ONCE, |wants| {
        let (inline, batch, codes) = (None, Batch::default(), Codes::default());
        let mut reader =
            Reader { root, dir: &dir, call, sent: Some(sent), inline, batch, codes, digest: None };
        while let Some(wants) = wants::next(wants, || reader.flush())? {
            for want in wants {
                let done = reader.patch(&want, &base_dir);
                reader.tell(&want, done)?;
            }
        }
        Ok(())
    })
}

fn opened(root: &BytePath) -> Result<OwnedFd, AgentError> {
    open::root(root).map_err(|error| AgentError::io(format!("`{root}`"), &error.into()))
}

/// One reading thread.
struct Reader<'a> {
    root: &'a BytePath,
    dir: &'a OwnedFd,
    call: &'a Call,
    sent: Option<&'a Sent>,
    inline: Option<Inline<'a>>,
    batch: Batch,
    codes: Codes,
    /// The digest of the last file that was sent.
    digest: Option<[u8; 32]>,
}

impl Reader<'_> {
    fn send(&mut self, want: &ReadWant) -> Result<(), AgentError> {
        let done = self.file(want);
        self.tell(want, done)
    }

    /// Says that a file could not be read, if so.
    fn tell(&mut self, want: &ReadWant, done: Result<(), Trouble>) -> Result<(), AgentError> {
        match done {
            Ok(()) => Ok(()),
            Err(Trouble::Agent(error)) => Err(error),
            Err(Trouble::File(error)) => self.unreadable(want, error),
        }
    }

    fn unreadable(&mut self, want: &ReadWant, error: Errno) -> Result<(), AgentError> {
        self.flush()?;
        let why = std::io::Error::from(error).to_string();
        self.call.item(&StreamFrame::Unreadable { content: want.content, why })
    }

    /// Sends a file of a live tree, whatever becomes of it meanwhile; returns the version that was read, if it is whole.
    fn send_live(&mut self, want: &ReadWant) -> Result<Option<Identity>, AgentError> {
        self.live_file(want).or_else(|trouble| self.left(want, trouble))
    }

    /// Says why a file of a live tree could not be read, if that must be said.
    fn left(&mut self, want: &ReadWant, trouble: Trouble) -> Result<Option<Identity>, AgentError> {
        match trouble {
            Trouble::Agent(error) => Err(error),
            // What stood at this name has gone, or something else stands there or above it.
            Trouble::File(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::INVAL) => {
                Ok(None)
            }
            Trouble::File(error) => self.unreadable(want, error).map(|()| None),
        }
    }

    fn live_file(&mut self, want: &ReadWant) -> Result<Option<Identity>, Trouble> {
        let fd = open::beneath_for_reading(self.dir, want.path.as_bytes(), OFlags::NOFOLLOW)?;
        let before = Seen::of(&fd)?.identity();
        self.content(want, &fd)?;
        let after = Seen::of(&fd)?.identity();
        Ok((before == after).then_some(before))
    }

    fn file(&mut self, want: &ReadWant) -> Result<(), Trouble> {
        if let Some((data, is_frozen)) = self.inline.as_mut().and_then(|inline| inline.take(&want.path)) {
            if is_frozen {
                self.call.item(&StreamFrame::Frozen { content: want.content })?;
            }
            let size = data.len() as u64;
            let last = Pieces::new(want.content).last(Some((0, data)), size);
            return Ok(self.push_last(want, last)?);
        }
        let fd = open::beneath_for_reading(self.dir, want.path.as_bytes(), OFlags::NOFOLLOW)?;
        let sent = self.content(want, &fd);
        if self.sent.is_some() {
            open::forget(&fd);
        }
        sent
    }

    fn content(&mut self, want: &ReadWant, fd: &OwnedFd) -> Result<(), Trouble> {
        let seen = Seen::of(fd)?;
        if seen.file_type() != FileType::RegularFile {
            return Err(Trouble::File(Errno::INVAL));
        }
        if seen.is_frozen() {
            self.call.item(&StreamFrame::Frozen { content: want.content })?;
        }
        let mut pieces = Pieces::new(want.content);
        let size = seen.size();
        if size > 0 && ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::NOCOW)) {
            self.call.item(&StreamFrame::InPlace { content: want.content })?;
        }
        if self.coded(want, fd, size)? {
            return Ok(());
        }
        if size <= FRAME as u64 && seen.allocated() >= size {
            let data = read_at(fd, 0, size as usize)?;
            let size = data.len() as u64;
            let last = pieces.last(Some((0, data)), size);
            return Ok(self.push_last(want, last)?);
        }
        if size > FRAME as u64 {
            // Advice: the file is read as well without it.
            let _ = fadvise(fd, 0, None, Advice::Sequential);
        }
        let mut held: Option<(u64, Vec<u8>)> = None;
        let mut at = 0;
        while let Some((mut start, end)) = extents::next(fd, at, size)? {
            while start < end {
                let data = read_at(fd, start, FRAME.min((end - start) as usize))?;
                if data.is_empty() {
                    // Cut while it was read: it ends here now.
                    let last = pieces.last(held, start);
                    return Ok(self.push_last(want, last)?);
                }
                let next = start + data.len() as u64;
                if let Some(before) = held.replace((start, data)) {
                    let piece = pieces.next(before);
                    self.push(piece, None)?;
                }
                start = next;
            }
            at = end;
        }
        let last = pieces.last(held, size);
        Ok(self.push_last(want, last)?)
    }

    fn patch(&mut self, want: &ReadWant, base: &OwnedFd) -> Result<(), Trouble> {
        let (new, old) = (delta::open_file(self.dir, &want.path)?, delta::open_file(base, &want.path)?);
        let ranges = delta::changed(&new, &old)?;
        let size = Seen::of(&new)?.size();
        if ranges.iter().any(|range| range.is_hole) {
            self.flush()?;
        }
        for range in ranges.iter().filter(|range| range.is_hole) {
            let (content, at, end) = (want.content, range.at, range.end);
            self.call.item(&StreamFrame::Hole { content, at, end })?;
        }
        let mut ranges = ranges.iter().filter(|range| !range.is_hole).peekable();
        self.some(want, &new, size, |at| {
            while ranges.next_if(|range| range.end <= at).is_some() {}
            match ranges.peek() {
                Some(range) if range.at <= at => (true, range.end),
                Some(range) => (false, range.at),
                None => (false, size),
            }
        })
    }

    fn push_last(&mut self, want: &ReadWant, piece: Piece) -> Result<(), AgentError> {
        self.digest = piece.last.map(|(_, digest)| digest);
        if let (Some(sent), Some(digest)) = (self.sent, self.digest) {
            sent.note(self.root, &want.path, digest);
        }
        self.push(piece, None)
    }

    fn push(&mut self, piece: Piece, coding: Option<Coding>) -> Result<(), AgentError> {
        if self.batch.is_too_full_for(&piece) {
            self.flush()?;
        }
        self.batch.push(piece, coding);
        if self.batch.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), AgentError> {
        self.batch.take().map_or(Ok(()), |frame| self.call.item(&frame))
    }
}

/// Numbers and digests the pieces of one file.
struct Pieces {
    content: u32,
    hash: ContentHash,
}

impl Pieces {
    fn new(content: u32) -> Self {
        Self { content, hash: ContentHash::new() }
    }

    fn next(&mut self, (offset, data): (u64, Vec<u8>)) -> Piece {
        self.hash.add(offset, &data);
        Piece { content: self.content, offset, data, last: None }
    }

    /// The last piece; empty if the file has no data.
    fn last(mut self, held: Option<(u64, Vec<u8>)>, size: u64) -> Piece {
        let piece = self.next(held.unwrap_or_default());
        Piece { last: Some((size, self.hash.finish(size))), ..piece }
    }
}

/// Reads up to `len` bytes; fewer only at the end of the file.
pub(super) fn read_at(fd: impl AsFd, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut data = Vec::with_capacity(len);
    while data.len() < len {
        let at = offset + data.len() as u64;
        match pread(&fd, spare_capacity(&mut data), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(len);
    Ok(data)
}

/// What ends a file, or the call.
enum Trouble {
    File(Errno),
    Agent(AgentError),
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Trouble::File(error)
    }
}

impl From<AgentError> for Trouble {
    fn from(error: AgentError) -> Self {
        Trouble::Agent(error)
    }
}
