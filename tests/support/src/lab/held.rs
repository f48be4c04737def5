//! A child process inside a machine, reaped by a thread of its own as soon as it ends.
//!
//! Invariants: the thread that started the child lives as long as the child (its parent-death signal is tied to that
//! thread); no zombie waits for its handle, since a machine's pid namespace cannot end before all of it is reaped; a
//! signal never goes to a number that may have become another process.

use std::{
    io,
    process::{Child, ExitStatus},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

/// How the child stands, shared between its thread and its handle.
#[derive(Debug, Default)]
struct State {
    ended: Mutex<Option<Result<ExitStatus, io::ErrorKind>>>,
    changed: Condvar,
}

/// A handle on the child. It leads its own session and process group. Dropping the handle kills the group.
#[derive(Debug)]
pub(super) struct Held {
    pid: Pid,
    state: Arc<State>,
}

impl Held {
    /// Makes the handle of a child that the calling thread has started, and what that thread must call next.
    pub(super) fn new(child: Child) -> (Self, impl FnOnce()) {
        let pid = Pid::from_child(&child);
        let state = Arc::new(State::default());
        let held = Self { pid, state: Arc::clone(&state) };
        (held, move || reap(child, pid, &state))
    }

    pub(super) fn host_pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Returns how the child ended, if it has.
    pub(super) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.lock().transpose().map_err(io::Error::from)
    }

    /// Waits for the end of the child, at most for `limit`.
    pub(super) fn wait_timeout(&self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let waited = self.state.changed.wait_timeout_while(self.lock(), limit, |ended| ended.is_none());
        let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ended.transpose().map_err(io::Error::from)
    }

    /// Waits for the end of the child.
    pub(super) fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_timeout(Duration::from_secs(3600))? {
                return Ok(status);
            }
        }
    }

    /// Sends a signal to the child alone, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let ended = self.lock();
        if ended.is_some() { Ok(()) } else { Ok(kill_process(self.pid, signal)?) }
    }

    /// Kills the child and its process group, and waits until it is reaped.
    pub(super) fn kill(&self) {
        {
            let ended = self.lock();
            if ended.is_some() {
                return;
            }
            // The group does not exist before the child has made it; the child does.
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = kill_process(self.pid, Signal::KILL);
        }
        // Frozen or not, SIGKILL ends it; the limit is for a disk that never answers.
        let _ = self.wait_timeout(Duration::from_secs(10));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Result<ExitStatus, io::ErrorKind>>> {
        self.state.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.kill();
    }
}

fn reap(mut child: Child, pid: Pid, state: &State) {
    // Looked for without reaping, so that the number stays taken until the lock is held.
    while let Err(rustix::io::Errno::INTR) =
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    {}
    let mut ended = state.ended.lock().unwrap_or_else(PoisonError::into_inner);
    *ended = Some(child.wait().map_err(|error| error.kind()));
    state.changed.notify_all();
}
