//! Threads that write content into staging. A file belongs to one thread, told by its number.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, ftruncate, openat};
use rustix::io::{Errno, pwrite};

use pc_switcher_contract::BytePath;

use super::clone;
use super::coming::Coming;
use crate::data::content::ContentHash;
use crate::data::seen::Seen;
use crate::data::{digest, encoded, meta, ranges};
use crate::proto::{AgentError, CloneRange, Coding, Identity, Meta, Piece, Refusals};
use crate::server::Call;

/// Frames that may wait for each thread: with the window of a call this bounds the memory.
const WAITING: usize = 4;

/// Bytes read at once where a file that was patched is read back.
const STRETCH: usize = 256 << 10;

/// What a file is made of before its content comes.
pub(super) enum Over {
    /// It is new.
    Nothing,
    /// A clone of this file, live or in a snapshot, if it is still the version of the plan.
    Version(OwnedFd, Identity),
    /// The file is gone, so staging ends with that.
    Gone,
    /// Ranges of other files.
    Ranges,
}

/// What the first piece of a file brings along.
pub(super) struct Start {
    /// The staged directory it is made in.
    pub(super) dir: Arc<OwnedFd>,
    /// Its name there.
    pub(super) name: Vec<u8>,
    /// Its size by the plan and its metadata; none if its step comes later.
    pub(super) planned: Option<(u64, Meta)>,
    /// Its absolute path, for messages.
    pub(super) path: BytePath,
    /// What it is made of.
    pub(super) over: Over,
    /// Whether what it is made of is proven to be what the source had: then what comes is digested, and no more.
    pub(super) is_proven: bool,
    /// Whether it is written without copy-on-write.
    pub(super) is_in_place: bool,
}

/// Something to write, on its way to a thread.
pub(super) struct Job {
    /// The number of the content.
    pub(super) content: u32,
    /// What to make first.
    pub(super) start: Option<Box<Start>>,
    /// What to write.
    pub(super) what: What,
}

/// What comes of a file.
pub(super) enum What {
    /// Bytes.
    Piece(Piece),
    /// Bytes as an extent of the source's disk holds them.
    Coded(Piece, Coding),
    /// From here to there is nothing.
    Hole(u64, u64),
    /// Ranges of another file.
    Clones(Arc<OwnedFd>, Vec<CloneRange>),
}

impl Job {
    /// Makes a piece one that is compressed.
    pub(super) fn coded(self, coding: Coding) -> Job {
        match self.what {
            What::Piece(piece) => Job { what: What::Coded(piece, coding), ..self },
            what => Job { what, ..self },
        }
    }
}

/// What all threads have done.
#[derive(Default)]
pub(super) struct Tally {
    /// Files that are complete.
    pub(super) files: AtomicU64,
    /// Bytes written.
    pub(super) bytes: AtomicU64,
    /// The sizes of files that are complete and wait for their steps.
    ahead: Mutex<HashMap<u32, u64>>,
    refused: Mutex<Refusals>,
}

impl Tally {
    /// Notes attributes that were refused.
    pub(super) fn refused(&self, path: &BytePath, refused: Vec<meta::Refused>) {
        let mut all = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.into_iter().for_each(|refused| all.add(meta::told(path, refused)));
    }

    /// Takes out the size of a file that waits for its step, if it is complete.
    pub(super) fn take_ahead(&self, content: u32) -> Option<u64> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).remove(&content)
    }

    /// Takes the attributes out that were refused.
    pub(super) fn take_refused(&self) -> Refusals {
        std::mem::take(&mut self.refused.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The threads of one call.
pub(super) struct Writers<'scope> {
    queues: Vec<Sender<Vec<Job>>>,
    threads: Vec<ScopedJoinHandle<'scope, Result<(), AgentError>>>,
}

impl<'scope> Writers<'scope> {
    /// Starts `count` threads.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        count: usize,
        tally: &'env Tally,
        call: &'env Call,
    ) -> Writers<'scope> {
        let mut writers = Writers { queues: Vec::new(), threads: Vec::new() };
        for _ in 0..count {
            let (send, recv) = bounded(WAITING);
            writers.queues.push(send);
            writers.threads.push(scope.spawn(move || work(&recv, tally, call)));
        }
        writers
    }

    /// Hands out jobs; waits while a thread is behind. Returns false if one has given up: [`Writers::finish`] says why.
    pub(super) fn give(&self, jobs: Vec<Job>) -> bool {
        let count = self.queues.len();
        let mut shares: Vec<Vec<Job>> = (0..count).map(|_| Vec::new()).collect();
        for job in jobs {
            shares[job.content as usize % count].push(job);
        }
        let mut shares = shares.into_iter().zip(&self.queues).filter(|(share, _)| !share.is_empty());
        shares.all(|(share, queue)| queue.send(share).is_ok())
    }

    /// Waits until all is written; nothing can be handed out any more.
    pub(super) fn finish(&mut self) -> Result<(), AgentError> {
        self.queues.clear();
        let mut ended = Ok(());
        for thread in self.threads.drain(..) {
            let done = thread.join().unwrap_or_else(|_| Err(AgentError::failed("a writing thread panicked")));
            ended = ended.and(done);
        }
        ended
    }
}

/// A file that is being written.
struct Open {
    fd: OwnedFd,
    start: Box<Start>,
    made: Made,
    end: u64,
    /// Whether extents may be written as they came, as far as that was tried.
    takes_extents: bool,
}

/// How a file comes about.
enum Made {
    /// Of its pieces alone, which are digested as they come.
    New(Box<ContentHash>),
    /// Of what is on this machine already, and pieces; it is digested as a whole in the end.
    Patched,
    /// Likewise, but what is on this machine is proven: what came over it is read back and digested by itself.
    Proven(Coming),
    /// It cannot be made: the version that it is made of has changed, and staging ends with that.
    Never,
}

fn work(queue: &Receiver<Vec<Job>>, tally: &Tally, call: &Call) -> Result<(), AgentError> {
    let mut open: HashMap<u32, Open> = HashMap::new();
    for Job { content, start, what } in queue.iter().flatten() {
        let mut file = match start {
            Some(start) => create(start)?,
            None => open.remove(&content).ok_or_else(|| unknown(content))?,
        };
        let last = match what {
            What::Piece(piece) => {
                file.write(&piece, None, tally)?;
                piece.last
            }
            What::Coded(mut piece, coding) => {
                let plain = coding
                    .decoded(&piece.data)
                    .map_err(|why| file.differs(&format!("came broken: {why}")))?;
                let data = std::mem::replace(&mut piece.data, plain);
                file.write(&piece, Some((&data, coding)), tally)?;
                piece.last
            }
            What::Hole(at, end) => {
                file.punch(at, end)?;
                None
            }
            What::Clones(from, ranges) => {
                file.clone_ranges(&from, &ranges, call)?;
                None
            }
        };
        match last {
            Some((size, digest)) => file.finish(content, (size, digest), tally, call)?,
            None => {
                open.insert(content, file);
            }
        }
    }
    // What is still open then was cut off by an error elsewhere, or is missing in the count of files.
    Ok(())
}

/// The error for a piece that belongs to no step, or comes after its file was complete.
pub(super) fn unknown(content: u32) -> AgentError {
    AgentError::protocol(format!("content {content} belongs to no step"))
}

fn create(start: Box<Start>) -> Result<Open, AgentError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(&start.dir, start.name.as_slice(), flags, Mode::from_raw_mode(0o600))
        .map_err(|error| failed(&start, error))?;
    if start.is_in_place {
        clone::write_in_place(&fd).map_err(|error| failed(&start, error))?;
    }
    let made = made(&fd, &start).map_err(|error| failed(&start, error))?;
    // The kernel writes none where there is no copy-on-write.
    let takes_extents = matches!(made, Made::New(_)) && !start.is_in_place;
    Ok(Open { fd, start, made, end: 0, takes_extents })
}

/// Makes a whole file of one that nobody changes any more.
pub(super) fn clone_whole(start: &Start, from: &OwnedFd, tally: &Tally) -> Result<(), AgentError> {
    let Some((size, meta)) = &start.planned else {
        return Err(AgentError::protocol("a clone of unknown size"));
    };
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(&start.dir, start.name.as_slice(), flags, Mode::from_raw_mode(0o600)).and_then(|fd| {
        clone::clone(from, &fd)?;
        // What could only be copied ends with its last data.
        if Seen::of(&fd)?.size() < *size {
            ftruncate(&fd, *size)?;
        }
        Ok((Seen::of(&fd)?.size(), meta::fresh(&fd, meta)?))
    });
    let (found, refused) = made.map_err(|error| failed(start, error))?;
    if found != *size {
        return Err(AgentError::failed(format!(
            "the old version of `{}` has {found} bytes instead of {size}",
            start.path
        )));
    }
    tally.refused(&start.path, refused);
    tally.files.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Begins a file as what it is made of.
fn made(fd: &OwnedFd, start: &Start) -> Result<Made, Errno> {
    let (live, expected) = match &start.over {
        Over::Nothing => return Ok(Made::New(Box::new(ContentHash::new()))),
        Over::Gone => return Ok(Made::Never),
        Over::Ranges => return Ok(Made::Patched),
        Over::Version(live, expected) => (live, expected),
    };
    let is_expected = || Seen::of(live).map(|seen| seen.identity() == *expected);
    if !is_expected()? {
        return Ok(Made::Never);
    }
    clone::clone(live, fd)?;
    // Nothing beyond the end may come back if it grows.
    let size = start.planned.as_ref().map_or(expected.size, |(size, _)| *size);
    ftruncate(fd, size.min(expected.size))?;
    Ok(match is_expected()? {
        false => Made::Never,
        true if start.is_proven => Made::Proven(Coming::default()),
        true => Made::Patched,
    })
}

fn failed(start: &Start, error: Errno) -> AgentError {
    AgentError::io(format!("staging of `{}`", start.path), &error.into())
}

impl Open {
    /// Writes a piece; as the extent that it came in, if the file system takes that.
    fn write(
        &mut self,
        piece: &Piece,
        extent: Option<(&[u8], Coding)>,
        tally: &Tally,
    ) -> Result<(), AgentError> {
        let len = piece.data.len() as u64;
        let most = self.start.planned.as_ref().map_or(u64::MAX, |(size, _)| *size);
        let end = piece.offset.checked_add(len).filter(|end| *end <= most);
        let Some(end) = end.filter(|_| piece.offset >= self.end || len == 0) else {
            return Err(self.differs("has other pieces than its size allows"));
        };
        match &mut self.made {
            Made::New(hash) => hash.add(piece.offset, &piece.data),
            Made::Patched => {}
            Made::Proven(coming) => coming.data(piece.offset, end),
            Made::Never => return Ok(()),
        }
        let mut at = piece.offset;
        let mut rest = piece.data.as_slice();
        if let Some((bytes, coding)) = extent.filter(|_| self.takes_extents) {
            // Whatever the reason: the plain bytes say the same.
            self.takes_extents = encoded::write(&self.fd, at, bytes, coding).is_ok();
            if self.takes_extents {
                rest = &[];
            }
        }
        while !rest.is_empty() {
            match pwrite(&self.fd, rest, at) {
                Ok(0) => return Err(failed(&self.start, Errno::IO)),
                Ok(n) => {
                    at += n as u64;
                    rest = &rest[n..];
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(&self.start, error)),
            }
        }
        self.end = self.end.max(end);
        tally.bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn punch(&mut self, at: u64, end: u64) -> Result<(), AgentError> {
        if at >= end
            || end > self.planned_size()
            || !matches!(self.start.over, Over::Version(..) | Over::Gone)
        {
            return Err(self.differs("has a hole where none can be"));
        }
        if let Made::Proven(coming) = &mut self.made {
            coming.hole(at, end);
        }
        if matches!(self.made, Made::Patched | Made::Proven(_)) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let punched = match fallocate(&self.fd, flags, at, end - at) {
                // A file system without holes.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => clone::zeros(&self.fd, at, end),
                punched => punched,
            };
            punched.map_err(|error| failed(&self.start, error))?;
        }
        Ok(())
    }

    fn clone_ranges(&mut self, from: &OwnedFd, ranges: &[CloneRange], call: &Call) -> Result<(), AgentError> {
        let size = self.planned_size();
        if !matches!(self.start.over, Over::Ranges) || self.end > 0 {
            return Err(self.differs("has clones where none can be"));
        }
        if Seen::of(&self.fd).map_err(|error| failed(&self.start, error))?.size() == 0 {
            clone::follow(from, &self.fd).map_err(|error| failed(&self.start, error))?;
        }
        for range in ranges {
            let (at, _, len) = *range;
            if at.checked_add(len).is_none_or(|end| end > size) {
                return Err(self.differs("has clones beyond its size"));
            }
            if call.is_cancelled() {
                return Err(AgentError::cancelled());
            }
            clone::range(from, &self.fd, *range).map_err(|error| failed(&self.start, error))?;
        }
        Ok(())
    }

    /// Its size by the plan; any if its step comes later.
    fn planned_size(&self) -> u64 {
        self.start.planned.as_ref().map_or(u64::MAX, |(size, _)| *size)
    }

    fn finish(
        mut self,
        content: u32,
        (size, digest): (u64, [u8; 32]),
        tally: &Tally,
        call: &Call,
    ) -> Result<(), AgentError> {
        match &self.start.planned {
            Some((planned, _)) if size != *planned => {
                return Err(self.differs(&format!("has {size} bytes instead of {planned}")));
            }
            None if size < self.end => return Err(self.differs("has more pieces than its size allows")),
            _ => {}
        }
        let is_patched = matches!(self.made, Made::Patched | Made::Proven(_));
        if self.end < size || is_patched {
            ftruncate(&self.fd, size).map_err(|error| failed(&self.start, error))?;
        }
        let is_right = match &mut self.made {
            Made::New(hash) => hash.finish(size) == digest,
            Made::Patched => {
                let read = digest::content(&self.fd, &mut vec![0; STRETCH], &|| call.is_cancelled());
                read.map_err(|error| failed(&self.start, error))? == digest
            }
            Made::Proven(coming) => {
                let ranges = coming.take();
                let read = ranges::digest(&self.fd, &ranges, size, &|| call.is_cancelled());
                read.map_err(|error| failed(&self.start, error))? == digest
            }
            // Nothing half made may ever stand staged: a redo takes an inode of several names for its own by less than its ctime.
            Made::Never => {
                return Err(self.differs("was changed while it was staged; the next sync asks about it"));
            }
        };
        if !is_right {
            let hint = "; `compare = \"content\"` for one sync looks at what is there";
            return Err(
                self.differs(&format!("arrived with another digest{}", if is_patched { hint } else { "" }))
            );
        }
        let Some((_, meta)) = &self.start.planned else {
            tally.ahead.lock().unwrap_or_else(PoisonError::into_inner).insert(content, size);
            return Ok(());
        };
        let refused = meta::fresh(&self.fd, meta).map_err(|error| failed(&self.start, error))?;
        tally.refused(&self.start.path, refused);
        tally.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn differs(&self, how: &str) -> AgentError {
        AgentError::failed(format!("the content of `{}` {how}", self.start.path))
    }
}
