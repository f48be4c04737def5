//! Threads that write content into staging. A file belongs to one thread, told by its number.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{Mode, OFlags, ftruncate, openat};
use rustix::io::{Errno, pwrite};

use pc_switcher_contract::BytePath;

use crate::data::content::ContentHash;
use crate::data::meta;
use crate::proto::{AgentError, Meta, Piece};

/// Frames that may wait for each thread: with the window of a call this bounds the memory.
const WAITING: usize = 4;

/// Warnings that are kept; more say nothing new.
const WARNINGS: usize = 1000;

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
}

/// A piece on its way to a thread.
pub(super) struct Job {
    /// The piece.
    pub(super) piece: Piece,
    /// What to make first.
    pub(super) start: Option<Box<Start>>,
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
    warnings: Mutex<Vec<String>>,
}

impl Tally {
    /// Notes attributes that were refused.
    pub(super) fn refused(&self, path: &BytePath, refused: Vec<meta::Refused>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, error) in refused {
            if warnings.len() < WARNINGS {
                let name = BytePath::new(name);
                warnings.push(format!("`{path}`: attribute `{name}`: {}", std::io::Error::from(error)));
            }
        }
    }

    /// Takes out the size of a file that waits for its step, if it is complete.
    pub(super) fn take_ahead(&self, content: u32) -> Option<u64> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).remove(&content)
    }

    /// Takes the warnings out.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
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
    ) -> Writers<'scope> {
        let mut writers = Writers { queues: Vec::new(), threads: Vec::new() };
        for _ in 0..count {
            let (send, recv) = bounded(WAITING);
            writers.queues.push(send);
            writers.threads.push(scope.spawn(move || work(&recv, tally)));
        }
        writers
    }

    /// Hands out jobs; waits while a thread is behind. Returns false if one has given up: [`Writers::finish`] says why.
    pub(super) fn give(&self, jobs: Vec<Job>) -> bool {
        let count = self.queues.len();
        let mut shares: Vec<Vec<Job>> = (0..count).map(|_| Vec::new()).collect();
        for job in jobs {
            shares[job.piece.content as usize % count].push(job);
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
    hash: ContentHash,
    end: u64,
}

fn work(queue: &Receiver<Vec<Job>>, tally: &Tally) -> Result<(), AgentError> {
    let mut open: HashMap<u32, Open> = HashMap::new();
    for Job { piece, start } in queue.iter().flatten() {
        let content = piece.content;
        let mut file = match start {
            Some(start) => create(start)?,
            None => open.remove(&content).ok_or_else(|| unknown(content))?,
        };
        file.write(&piece, tally)?;
        match piece.last {
            Some((size, digest)) => file.finish(content, size, digest, tally)?,
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
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&start.dir, start.name.as_slice(), flags, Mode::from_raw_mode(0o600)) {
        Ok(fd) => Ok(Open { fd, start, hash: ContentHash::new(), end: 0 }),
        Err(error) => Err(failed(&start, error)),
    }
}

fn failed(start: &Start, error: Errno) -> AgentError {
    AgentError::io(format!("staging of `{}`", start.path), &error.into())
}

impl Open {
    fn write(&mut self, piece: &Piece, tally: &Tally) -> Result<(), AgentError> {
        let len = piece.data.len() as u64;
        let most = self.start.planned.as_ref().map_or(u64::MAX, |(size, _)| *size);
        let end = piece.offset.checked_add(len).filter(|end| *end <= most);
        let Some(end) = end.filter(|_| piece.offset >= self.end || len == 0) else {
            return Err(self.differs("has other pieces than its size allows"));
        };
        self.hash.add(piece.offset, &piece.data);
        let mut at = piece.offset;
        let mut rest = piece.data.as_slice();
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

    fn finish(mut self, content: u32, size: u64, digest: [u8; 32], tally: &Tally) -> Result<(), AgentError> {
        match &self.start.planned {
            Some((planned, _)) if size != *planned => {
                return Err(self.differs(&format!("has {size} bytes instead of {planned}")));
            }
            None if size < self.end => return Err(self.differs("has more pieces than its size allows")),
            _ => {}
        }
        if self.hash.finish(size) != digest {
            return Err(self.differs("arrived with another digest"));
        }
        if self.end < size {
            ftruncate(&self.fd, size).map_err(|error| failed(&self.start, error))?;
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
