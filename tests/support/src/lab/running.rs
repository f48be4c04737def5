//! A command that runs inside a machine while the test goes on: input, lines of output, end.
//!
//! Invariant: dropping it kills the command.

use std::{
    io::{Read, Write},
    process::{ChildStdin, ExitStatus},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    cmd::Output,
    enter::Inside,
    error::{LabError, Result},
    held::Held,
};

/// How long output may follow the end of a command before it is given up: an orphan may hold the pipe for ever.
const TRAILING_LIMIT: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(3);

/// A started command of a machine; see [`super::Machine::spawn`].
#[derive(Debug)]
pub struct Running {
    machine: String,
    line: String,
    process: Held,
    stdin: Option<ChildStdin>,
    stdout: Collected,
    stderr: Collected,
    timeout: Duration,
}

impl Running {
    pub(super) fn new(machine: &str, line: String, timeout: Duration, inside: Inside) -> Self {
        let Inside { stdin, stdout, stderr, process } = inside;
        let (stdout, stderr) = (Collected::from(stdout), Collected::from(stderr));
        Self { machine: machine.to_owned(), line, process, stdin, stdout, stderr, timeout }
    }

    /// Writes to the command's input.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().ok_or_else(|| LabError::Invalid {
            what: format!("the input of `{}` is closed already", self.line),
        })?;
        stdin
            .write_all(bytes)
            .and_then(|()| stdin.flush())
            .map_err(LabError::io(format!("write to `{}`", self.line)))
    }

    /// Writes the whole input from a thread of its own and closes it.
    pub(super) fn feed(&mut self, bytes: Vec<u8>) {
        if let Some(mut stdin) = self.stdin.take() {
            // A command that does not read its input is no failure of the lab.
            thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
    }

    /// Closes the command's input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Returns what the command has written to standard output so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.bytes()
    }

    /// Returns what the command has written to standard error so far.
    pub fn stderr(&self) -> Vec<u8> {
        self.stderr.bytes()
    }

    /// Waits until `text` appears in standard output or standard error.
    pub fn expect(&self, text: &str, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            // Asked before looking: what a command writes before its end is seen.
            let has_ended = self.try_wait()?.is_some();
            if self.stdout.contains(text) || self.stderr.contains(text) {
                return Ok(());
            }
            if start.elapsed() > limit || (has_ended && self.stdout.is_closed() && self.stderr.is_closed()) {
                let what = format!("text `{text}` from `{}` on `{}`", self.line, self.machine);
                return Err(LabError::NotReady {
                    what,
                    waited: start.elapsed(),
                    detail: format!("; it said: {}", self.said()),
                });
            }
            thread::sleep(STEP);
        }
    }

    /// Returns the command's number on the host.
    pub fn host_pid(&self) -> i32 {
        self.process.host_pid()
    }

    /// Sends a signal to the command alone, unless it has ended.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        self.process.signal(signal).map_err(LabError::io(format!("signal `{}`", self.line)))
    }

    /// Returns how the command ended, if it has.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().map_err(LabError::io(format!("wait for `{}`", self.line)))
    }

    /// Closes the input, waits for the end of the command (at most its timeout, then kills its process group) and
    /// returns all it wrote.
    pub fn wait(mut self) -> Result<Output> {
        self.stdin = None;
        let ended = self.process.wait_timeout(self.timeout);
        let Some(status) = ended.map_err(LabError::io(format!("wait for `{}`", self.line)))? else {
            self.process.kill();
            return Err(LabError::TimedOut {
                machine: self.machine.clone(),
                command: self.line.clone(),
                after: self.timeout,
                said: self.said(),
            });
        };
        self.stdout.wait_closed(TRAILING_LIMIT);
        self.stderr.wait_closed(TRAILING_LIMIT);
        Ok(Output { status, stdout: self.stdout.bytes(), stderr: self.stderr.bytes() })
    }

    /// Kills the command and its process group.
    pub fn kill(self) {
        self.process.kill();
    }

    fn said(&self) -> String {
        let bytes = [self.stdout.bytes(), self.stderr.bytes()].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Output collected by a thread until its end.
#[derive(Clone, Debug)]
pub(super) struct Collected {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    is_closed: bool,
}

impl Collected {
    pub(super) fn from<R: Read + Send + 'static>(source: Option<R>) -> Self {
        let collected = Self { state: Arc::default() };
        match source {
            Some(source) => {
                let collected = collected.clone();
                thread::spawn(move || collected.collect(source));
            }
            None => collected.change(|state| state.is_closed = true),
        }
        collected
    }

    fn collect(&self, mut source: impl Read) {
        let mut buffer = [0; 16 << 10];
        // A pty answers EIO once its last user is gone: an end like any other.
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            self.change(|state| state.bytes.extend_from_slice(&buffer[..count]));
        }
        self.change(|state| state.is_closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.state.1.notify_all();
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).bytes.clone()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).is_closed
    }

    /// Tells whether `text` stands in what was collected.
    pub(super) fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.bytes()).contains(text)
    }

    /// Waits for the end of the output, at most for `limit`.
    pub(super) fn wait_closed(&self, limit: Duration) {
        let (state, changed) = &*self.state;
        let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(guard, limit, |state| !state.is_closed));
    }
}
