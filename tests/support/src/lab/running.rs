//! A command that runs inside a machine while the test goes on: input, lines of output, end.
//!
//! Invariant: dropping it kills the command.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, ExitStatus},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    cmd::Output,
    enter::Leash,
    error::{LabError, Result},
};

/// How long output may follow the end of a command before it is given up: an orphan may hold the pipe for ever.
const TRAILING_LIMIT: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(3);

/// A started command of a machine; see [`super::Machine::spawn`].
#[derive(Debug)]
pub struct Running {
    machine: String,
    line: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Collected,
    stderr: Collected,
    timeout: Duration,
    _leash: Leash,
}

impl Running {
    pub(super) fn new(
        machine: &str,
        line: String,
        timeout: Duration,
        (mut child, leash): (Child, Leash),
    ) -> Self {
        let stdout = Collected::from(child.stdout.take());
        let stderr = Collected::from(child.stderr.take());
        let stdin = child.stdin.take();
        Self { machine: machine.to_owned(), line, stdin, stdout, stderr, child, timeout, _leash: leash }
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
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<()> {
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
    pub fn host_pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the command alone.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)
            .map_err(|error| LabError::io(format!("signal `{}`", self.line))(error.into()))
    }

    /// Returns how the command ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(LabError::io(format!("wait for `{}`", self.line)))
    }

    /// Closes the input, waits for the end of the command (at most its timeout, then kills its process group) and
    /// returns all it wrote.
    pub fn wait(mut self) -> Result<Output> {
        self.stdin = None;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.try_wait()? {
                break status;
            }
            if start.elapsed() > self.timeout {
                self.kill_group();
                return Err(LabError::TimedOut {
                    machine: self.machine.clone(),
                    command: self.line.clone(),
                    after: self.timeout,
                    said: self.said(),
                });
            }
            thread::sleep(STEP);
        };
        self.stdout.wait_closed(TRAILING_LIMIT);
        self.stderr.wait_closed(TRAILING_LIMIT);
        Ok(Output { status, stdout: self.stdout.bytes(), stderr: self.stderr.bytes() })
    }

    /// Kills the command and its process group.
    pub fn kill(mut self) {
        self.kill_group();
    }

    fn kill_group(&mut self) {
        // The command leads a session of its own; its group may be gone already.
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }

    fn said(&self) -> String {
        let bytes = [self.stdout.bytes(), self.stderr.bytes()].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill_group();
            // Reaped so that no zombie stays in this process; it has got SIGKILL.
            let _ = self.child.wait();
        }
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
