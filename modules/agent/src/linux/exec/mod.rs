//! Commands on this machine: argv without a shell, each in a session of its own, none of which outlives the agent.
//!
//! A command is over when its leader is over; whatever is left of its session is ended then. The leader is reaped last,
//! so its number cannot be taken by a stranger in between. Orphans that left the session become the agent's own
//! children and are ended at shutdown (facts/ssh.md S12-S15).

mod pipes;
mod processes;

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use self::pipes::Pipes;
use self::processes::Process;
use super::signals;
use crate::proto::{AgentError, AgentErrorKind, ExecRequest};
use crate::server::Call;

/// Where programs are looked up.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin";

/// How long a command may clean up after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// How often a waiting handler looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(50);

/// All commands of an agent.
#[derive(Debug, Default)]
pub struct Commands {
    running: Mutex<Running>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Running {
    closed: bool,
    leaders: HashSet<i32>,
}

/// Why a command was ended before it was over.
enum Stopped {
    Cancelled,
    Timeout,
}

impl Commands {
    /// Runs a command and returns its exit code, 128 and the signal's number if a signal ended it. A limit of 0 is none.
    ///
    /// # Errors
    /// If it cannot be started, its time is over, or the caller gave up; it is ended then.
    pub fn exec(&self, request: &ExecRequest, call: &Call) -> Result<i32, AgentError> {
        let since = Instant::now();
        let limit = Duration::from_millis(match request.timeout_ms {
            0 => u64::MAX,
            some => some,
        });
        let (mut child, leader) = self.start(request)?;
        let mut pipes = Pipes::of(&mut child, &request.stdin);
        let stopped = watch(leader.pid, &mut pipes, call, || {
            if call.is_cancelled() || self.running().closed {
                Some(Stopped::Cancelled)
            } else {
                (since.elapsed() >= limit).then_some(Stopped::Timeout)
            }
        });
        end_session(&leader);
        pipes.drain(call);
        let status = child.wait();
        self.running().leaders.remove(&leader.pid);
        self.changed.notify_all();
        match (stopped, status) {
            (Some(Stopped::Cancelled), _) => Err(AgentError::cancelled()),
            (Some(Stopped::Timeout), _) => Err(AgentError {
                kind: AgentErrorKind::Timeout,
                message: format!("`{}` was not over after {} s", request.program, limit.as_secs_f32()),
            }),
            (None, Ok(status)) => {
                Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
            }
            (None, Err(error)) => Err(AgentError::io(format!("lost `{}`", request.program), &error)),
        }
    }

    fn start(&self, request: &ExecRequest) -> Result<(Child, Process), AgentError> {
        let mut command = Command::new(request.program.as_path());
        command
            .args(request.args.iter().map(|arg| arg.as_path()))
            .env_clear()
            .envs([
                ("PATH", PATH),
                ("LC_ALL", "C.UTF-8"),
                ("HOME", "/root"),
                ("USER", "root"),
                ("LOGNAME", "root"),
            ])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        signals::isolate(&mut command);
        // Under the lock: after a shutdown nothing starts any more.
        let mut running = self.running();
        if running.closed {
            return Err(AgentError::cancelled());
        }
        let failed = |error| AgentError::io(format!("cannot start `{}`", request.program), &error);
        let child = command.spawn().map_err(failed)?;
        let pid = child.id().cast_signed();
        running.leaders.insert(pid);
        // Readable until it is reaped, over or not.
        let leader = processes::look(pid);
        Ok((child, leader.unwrap_or(Process { pid, parent: 0, session: pid, zombie: false, started: 0 })))
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all commands and every orphan they left, and starts no more.
    pub fn shut_down(&self) {
        let mut running = self.running();
        running.closed = true;
        let deadline = Instant::now() + GRACE + Duration::from_secs(2);
        while !running.leaders.is_empty() && Instant::now() < deadline {
            let wait = deadline.saturating_duration_since(Instant::now());
            running = match self.changed.wait_timeout(running, wait) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        drop(running);
        end_orphans();
    }
}

/// Feeds and drains the command until its leader is over or `stop` says so.
fn watch(
    pid: i32,
    pipes: &mut Pipes<'_>,
    call: &Call,
    stop: impl Fn() -> Option<Stopped>,
) -> Option<Stopped> {
    let pidfd = Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    loop {
        if let Some(why) = stop() {
            return Some(why);
        }
        let mut fds = pipes.poll_fds();
        if let Some(fd) = &pidfd {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        let ready = poll(&mut fds, Some(&tick)).unwrap_or(0);
        let over = match &pidfd {
            Some(_) => fds.last().is_some_and(|fd| !fd.revents().is_empty()),
            None => processes::look(pid).is_none_or(|process| process.zombie),
        };
        drop(fds);
        if ready > 0 {
            pipes.turn(call);
        }
        if over {
            return None;
        }
    }
}

fn wait_a_little() {
    thread::park_timeout(Duration::from_millis(10));
}

/// Ends everything in the leader's session. The leader itself may be over but is not reaped yet.
fn end_session(leader: &Process) {
    let members = || -> Vec<Process> {
        let all = processes::all();
        all.into_iter().filter(|process| process.session == leader.pid && !process.zombie).collect()
    };
    end(members, GRACE);
}

/// Asks all of `members` to go, and after `grace` makes them.
fn end(members: impl Fn() -> Vec<Process>, grace: Duration) {
    let since = Instant::now();
    let mut asked: HashSet<i32> = HashSet::new();
    loop {
        let left = members();
        if left.is_empty() || since.elapsed() > grace + Duration::from_secs(2) {
            return;
        }
        let late = since.elapsed() >= grace;
        for process in &left {
            if late {
                processes::signal(process, Signal::KILL);
            } else if asked.insert(process.pid) {
                processes::signal(process, Signal::TERM);
                // A stopped process would not see it.
                processes::signal(process, Signal::CONT);
            }
        }
        wait_a_little();
    }
}

/// Ends what left its session and became a child of ours, with all below it.
fn end_orphans() {
    let own = rustix::process::getpid();
    let session = rustix::process::getsid(None).map_or(0, |session| session.as_raw_nonzero().get());
    let orphans = || {
        let all = processes::descendants(&processes::all(), own.as_raw_nonzero().get(), session);
        all.iter().filter(|process| process.zombie).for_each(processes::reap);
        all.into_iter().filter(|process| !process.zombie).collect()
    };
    end(orphans, Duration::from_secs(1));
}

#[cfg(test)]
mod tests;
