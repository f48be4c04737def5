//! The log file of one session: a reader of the stream that writes JSON lines.
//!
//! It never fails a sync: without a directory or without space it says so once, as a WARNING, and stays silent.
//! The file is locked while its session lives, so others can tell a running session from a dead one.
//! Not to be started in a dry run, which writes nothing (rulings 24).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_contract::{Event, EventKind, Hostname, LogLevel, ModuleName, UtcStamp};

use super::core::CoreLog;
use super::line::LogLine;
use super::queue::{Reader, Received};
use super::rotate::rotate;

/// Longest time that a line stays unwritten.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Most bytes that stay unwritten.
const FLUSH_BYTES: usize = 64 * 1024;
/// Least time between two progress lines of one module.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A running log writer.
pub struct FileLog {
    path: Option<PathBuf>,
    lock: Option<File>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl FileLog {
    /// Starts writing `{dir}/{started}-{session}.jsonl` at `level` and tidies up older logs.
    ///
    /// `own` is the name of this machine; `core` says the one warning if the file cannot be written.
    pub fn start(dir: &Path, started: Timestamp, own: &Hostname, level: LogLevel, core: &CoreLog) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let name = format!("{}-{}.jsonl", UtcStamp::new(started), core.bus().session());
        let path = dir.join(name);
        let file = match open(dir, &path) {
            Ok(file) => file,
            Err(error) => {
                core.warning(format!("no log file is written: `{}`: {error}", path.display()));
                return Self { path: None, lock: None, stop, threads: Vec::new() };
            }
        };
        let reader = core.bus().subscribe();
        let lock = file.try_clone().ok();
        let mut writer = Writer::new(Box::new(file), own.clone(), level);
        let voice = core.clone();
        let writing = std::thread::spawn(move || writer.run(&reader, &voice));
        let (dir, current, stopped, voice) = (dir.to_owned(), path.clone(), stop.clone(), core.clone());
        let tidying = std::thread::spawn(move || {
            if let Err(error) = rotate(&dir, &current, &stopped) {
                voice.debug(format!("older logs in `{}` were not tidied up: {error}", dir.display()));
            }
        });
        Self { path: Some(path), lock, stop, threads: vec![writing, tidying] }
    }

    /// Returns where it writes; `None` if it cannot.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Waits until everything up to [`super::EventBus::close`] is written.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A writer that panicked must not take the sync's ending with it.
            drop(thread.join());
        }
        if let Some(lock) = self.lock {
            // Closing would not do: a child that is being started may still share the descriptor.
            lock.unlock().ok();
        }
    }
}

/// Creates a file that only its owner may read.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn open(dir: &Path, path: &Path) -> io::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    let file = create_private(path)?;
    // The lock only tells readers that we live; a reader that looks this very moment must not cost us the log.
    file.try_lock().ok();
    Ok(file)
}

/// Where lines end up; the file, or a full disk in a test.
trait Output: Write + Send {}
impl<T: Write + Send> Output for T {}

struct Writer {
    output: Box<dyn Output>,
    own: Hostname,
    level: LogLevel,
    buffer: Vec<u8>,
    last_progress: BTreeMap<ModuleName, Timestamp>,
    broken: bool,
}

impl Writer {
    fn new(output: Box<dyn Output>, own: Hostname, level: LogLevel) -> Self {
        Self { output, own, level, buffer: Vec::new(), last_progress: BTreeMap::new(), broken: false }
    }

    fn run(&mut self, reader: &Reader, core: &CoreLog) {
        let mut flushed = std::time::Instant::now();
        loop {
            let left = if self.buffer.is_empty() {
                FLUSH_EVERY
            } else {
                FLUSH_EVERY.saturating_sub(flushed.elapsed())
            };
            let received = reader.next(left);
            let urgent = match &received {
                Received::Event(event) => {
                    if self.buffer.is_empty() {
                        flushed = std::time::Instant::now();
                    }
                    self.take(event)
                }
                Received::Nothing | Received::Closed => true,
            };
            if urgent || self.buffer.len() >= FLUSH_BYTES || flushed.elapsed() >= FLUSH_EVERY {
                self.flush(core);
                flushed = std::time::Instant::now();
            }
            if received == Received::Closed {
                return;
            }
        }
    }

    /// Keeps the event's line for the next flush; `true` if that must be now.
    fn take(&mut self, event: &Event) -> bool {
        let ended = matches!(event.kind, EventKind::Ended { .. });
        if self.broken || !self.is_due(event) {
            return ended;
        }
        let line = LogLine::of(event, &self.own);
        if line.level < self.level {
            return ended;
        }
        // Serialising plain data into memory cannot fail; a line that did would be left out.
        if serde_json::to_writer(&mut self.buffer, &line).is_ok() {
            self.buffer.push(b'\n');
        }
        ended || line.level >= LogLevel::Warning
    }

    /// Progress is written once a second and at its end.
    fn is_due(&mut self, event: &Event) -> bool {
        let EventKind::Progress { module, progress } = &event.kind else { return true };
        let complete = progress.fraction.is_some_and(|fraction| fraction.get() >= 1.0);
        let recent = self
            .last_progress
            .get(module)
            .is_some_and(|last| event.at.duration_since(*last).unsigned_abs() < PROGRESS_EVERY);
        if complete || !recent {
            self.last_progress.insert(module.clone(), event.at);
        }
        complete || !recent
    }

    fn flush(&mut self, core: &CoreLog) {
        if self.broken || self.buffer.is_empty() {
            return;
        }
        let written = self.output.write_all(&self.buffer).and_then(|()| self.output.flush());
        self.buffer.clear();
        if let Err(error) = written {
            self.broken = true;
            core.warning(format!("the log file ends here: {error}"));
        }
    }
}

#[cfg(test)]
mod tests;
