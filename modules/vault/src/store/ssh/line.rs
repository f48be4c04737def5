//! One line to a machine that serves a vault: a thread writes, another reads, and whoever asks waits for its answer.

use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pc_switcher_contract::{ErrorKind, ModuleError};

use super::Hope;
use super::place::SshPlace;
use super::wire::{self, Answer, Ask, Assembly, MAGIC, PROTOCOL, Sort};
use crate::error::Result;
use crate::store::Stop;

/// How often a line on which nothing goes says that we are there.
const PING: Duration = Duration::from_secs(10);
/// How often somebody who waits looks whether to go on.
const TICK: Duration = Duration::from_millis(50);
/// How long a login shell may talk before our program does.
const NOISE: usize = 64 << 10;
/// The number of requests that nobody waits for.
const NOBODY: u64 = 0;

/// Says why a line ended, in the words of the program there or of ssh; may wait a moment for them.
pub type Why = Arc<dyn Fn() -> Option<(ErrorKind, String)> + Send + Sync>;

/// A stream to a program that serves a vault.
pub struct Line {
    /// The stream.
    pub stream: UnixStream,
    /// Why it ended.
    pub why: Why,
    /// What keeps the stream up, dropped with it.
    pub end: Box<dyn Send + Sync>,
}

/// Why there is no answer.
pub(super) enum Broken {
    /// Somebody wants the run to end.
    Stopped,
    /// There will be none on this line.
    Lost(String),
}

type Answered = (Answer, Vec<u8>);

/// What is to be written.
struct Job {
    id: u64,
    ask: Ask,
    object: Arc<Vec<u8>>,
    is_over: Arc<AtomicBool>,
}

/// Who waits for what.
#[derive(Default)]
struct Waiting {
    open: HashMap<u64, Sender<Answered>>,
    is_lost: bool,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Grows with all that comes, and with objects that go.
    moved: AtomicU64,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is answered any more.
    fn lose(&self) {
        let mut waiting = self.waiting();
        waiting.is_lost = true;
        waiting.open.clear();
    }
}

/// A line on which the program there has said who it is.
pub(super) struct Wire {
    stream: UnixStream,
    jobs: Sender<Job>,
    next: AtomicU64,
    shared: Arc<Shared>,
    why: Why,
    append_only: bool,
    stop: Stop,
    hope: Hope,
    _end: Box<dyn Send + Sync>,
}

impl Wire {
    /// Greets the program at the other end.
    ///
    /// # Errors
    /// If none serves a vault there, or it speaks another protocol.
    pub(super) fn open(place: &SshPlace, line: Line, stop: &Stop, hope: Hope) -> Result<Self> {
        let Line { stream, why, end } = line;
        let failed = |error: io::Error| ModuleError::failed(format!("cannot use the line: {error}"));
        let (reading, writing) = (stream.try_clone().map_err(failed)?, stream.try_clone().map_err(failed)?);
        let shared = Arc::new(Shared::default());
        let (jobs, todo) = channel();
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map(drop)
        };
        let own = Arc::clone(&shared);
        spawn(
            "vault-reads",
            Box::new(move || {
                let _ = read_all(Moved(&reading, &own.moved), &own);
                own.lose();
                let _ = reading.shutdown(Shutdown::Both);
            }),
        )
        .map_err(failed)?;
        let own = Arc::clone(&shared);
        spawn(
            "vault-writes",
            Box::new(move || {
                let _ = write_all(&writing, &todo, &own.moved);
                let _ = writing.shutdown(Shutdown::Both);
            }),
        )
        .map_err(failed)?;
        let (next, stop) = (AtomicU64::new(1), stop.clone());
        let mut wire = Self { stream, jobs, next, shared, why, append_only: false, stop, hope, _end: end };
        let hello = wire.ask(&Ask::Hello { protocol: PROTOCOL }, &Arc::default(), true);
        let host = &place.host;
        match hello {
            Ok((Answer::Hello { protocol: PROTOCOL, append_only, .. }, _)) => {
                wire.append_only = append_only;
                Ok(wire)
            }
            Ok((Answer::Hello { version, .. }, _)) => Err(ModuleError::new(
                ErrorKind::Invalid,
                format!("pc-switcher {version} on `{host}` serves vaults in another way than this one"),
            )
            .hint(format!("install the same version on both machines; `pc-switcher sync {host}` does"))),
            Ok((answer, _)) => {
                Err(ModuleError::failed(format!("`{host}` greets with something else: {answer:?}")))
            }
            Err(Broken::Stopped) => Err(ModuleError::cancelled()),
            Err(Broken::Lost(_)) => Err(match (wire.why)() {
                Some((ErrorKind::Unreachable, why)) => unreachable(place, &why),
                Some((kind, why)) => ModuleError::new(kind, format!("`{host}` serves no vault: {why}")).hint(
                    format!("pc-switcher must be installed there; `pc-switcher sync {host}` brings it along"),
                ),
                None => unreachable(place, "it ended without a word"),
            }),
        }
    }

    pub(super) fn is_append_only(&self) -> bool {
        self.append_only
    }

    pub(super) fn is_lost(&self) -> bool {
        self.shared.waiting().is_lost
    }

    /// Asks, and waits for the answer. `is_stopped`: whether a stop ends the wait, or only makes it hurry.
    pub(super) fn ask(
        &self,
        ask: &Ask,
        object: &Arc<Vec<u8>>,
        is_stopped: bool,
    ) -> std::result::Result<Answered, Broken> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, answered) = channel();
        {
            let mut waiting = self.shared.waiting();
            if waiting.is_lost {
                return Err(self.lost());
            }
            waiting.open.insert(id, send);
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let job = Job { id, ask: ask.clone(), object: Arc::clone(object), is_over: Arc::clone(&is_over) };
        if self.jobs.send(job).is_err() {
            return Err(self.lost());
        }
        let (mut since, mut moved, mut is_late) = (Instant::now(), 0, false);
        loop {
            match answered.recv_timeout(TICK) {
                Ok(answered) => return Ok(answered),
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let (now, is_asked) = (self.shared.moved.load(Ordering::Relaxed), self.stop.is_asked());
            if is_asked && is_stopped {
                is_over.store(true, Ordering::Relaxed);
                self.shared.waiting().open.remove(&id);
                return Err(Broken::Stopped);
            }
            let silence = match is_asked {
                true => self.hope.silence.min(self.hope.silence_at_the_end),
                false => self.hope.silence,
            };
            if now != moved || is_asked != is_late {
                (since, moved, is_late) = (Instant::now(), now, is_asked);
            } else if since.elapsed() > silence {
                // Whoever is at the other end has forgotten us.
                let _ = self.stream.shutdown(Shutdown::Both);
                return Err(Broken::Lost(format!("nothing came for {} s", silence.as_secs())));
            }
        }
    }

    fn lost(&self) -> Broken {
        Broken::Lost((self.why)().map_or_else(|| "it ended without a word".into(), |(_, why)| why))
    }
}

impl Drop for Wire {
    /// Both threads end with the stream.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn unreachable(place: &SshPlace, why: &str) -> ModuleError {
    ModuleError::new(
        ErrorKind::Unreachable,
        format!("the line to `{}` for the vault broke: {why}", place.host),
    )
    .hint(format!("does `ssh {}` work?", place.target()))
}

/// A stream that counts what comes.
struct Moved<'a>(&'a UnixStream, &'a AtomicU64);

impl Read for Moved<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.0;
        let count = stream.read(into)?;
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(count)
    }
}

/// Hands answers to those who wait, until the line ends.
fn read_all(from: impl Read, shared: &Shared) -> io::Result<()> {
    let mut from = BufReader::with_capacity(256 << 10, from);
    skip_noise(&mut from)?;
    let mut assembly = Assembly::default();
    while let Some(frame) = wire::read(&mut from)? {
        if let Some((id, answer, object)) = assembly.take_in::<Answer>(frame)?
            && let Some(waits) = shared.waiting().open.remove(&id)
        {
            // Whoever gave up meanwhile does not wait any more.
            let _ = waits.send((answer, object));
        }
    }
    Ok(())
}

/// Skips what a login shell says before our program does.
fn skip_noise(from: &mut impl Read) -> io::Result<()> {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(MAGIC) {
        if seen.len() > NOISE {
            return Err(io::Error::other("the login shell prints without end"));
        }
        from.read_exact(&mut byte)?;
        seen.push(byte[0]);
    }
    Ok(())
}

/// Writes what is asked for, and now and then that we are there.
fn write_all(to: impl Write, todo: &Receiver<Job>, moved: &AtomicU64) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(256 << 10, to);
    loop {
        match todo.recv_timeout(PING) {
            Ok(Job { id, ask, object, is_over }) => {
                wire::write_whole(&mut to, id, &ask, &object, || {
                    moved.fetch_add(1, Ordering::Relaxed);
                    is_over.load(Ordering::Relaxed)
                })?;
            }
            Err(RecvTimeoutError::Timeout) => {
                wire::write(&mut to, NOBODY, Sort::Head, &serde_json::to_vec(&Ask::Ping)?)?;
                to.flush()?;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
