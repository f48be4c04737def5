#![expect(unsafe_code, reason = "a child needs a session of its own and a death signal before it runs")]
//! Commands, each in a session of its own, of which nothing survives its call.
//!
//! Invariant: a session is signalled only while its leader has not been reaped, so its number cannot belong to others.
//! What leaves its session becomes a child of the agent and ends with it (`orphans`).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pc_switcher_contract::BytePath;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::processes::{self, Process};
use crate::proto::{AgentError, AgentErrorKind, ExecItem, ExecRequest};
use crate::server::Call;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin";

/// How long a group may take to end after TERM.
const GRACE: Duration = Duration::from_secs(3);

/// How long a killed group is waited for; one that hangs in the kernel cannot be helped.
const KILLED: Duration = Duration::from_secs(2);

/// How much output is still read after the group is gone, if something outside of it keeps writing. No pipe of ours holds
/// more.
const REST: usize = 1 << 20;

/// How often a wait looks around.
const STEP: Duration = Duration::from_millis(25);

/// Most bytes of one item.
const CHUNK: usize = 64 << 10;

/// The process groups that run.
#[derive(Debug, Default)]
pub struct Groups(Mutex<Running>);

#[derive(Debug, Default)]
struct Running {
    closed: bool,
    leaders: HashSet<Pid>,
}

impl Groups {
    /// Ends every group, gently first, and lets no other start.
    pub fn end_all(&self) {
        {
            let mut running = self.lock();
            running.closed = true;
            for leader in &running.leaders {
                signal(*leader, Signal::TERM);
            }
        }
        let since = Instant::now();
        while since.elapsed() < GRACE && self.lock().leaders.iter().any(|leader| lives(*leader)) {
            thread::sleep(STEP);
        }
        // Whoever started a group takes it out of the list before it reaps the leader.
        for leader in &self.lock().leaders {
            signal(*leader, Signal::KILL);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a command to its end; its output goes out as [`ExecItem`]s while it runs. A signal counts as 128 and its number.
///
/// # Errors
/// If it cannot be started, runs into its limit or the caller gives up; then nothing of its group is left either.
pub fn run(groups: &Groups, request: &ExecRequest, call: &Call) -> Result<i32, AgentError> {
    let since = Instant::now();
    let limit = Duration::from_millis(request.timeout_ms);
    let mut group = Group::start(groups, request)?;
    let failed = |error: io::Error| AgentError::io(format!("cannot watch `{}`", request.program), &error);
    let pipes = (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let spawn = |name: &str| thread::Builder::new().name(format!("exec-{name}"));
        let watch = || {
            if let Some(pipe) = pipes.0 {
                let pipe = nonblocking(pipe)?;
                spawn("stdin").spawn_scoped(scope, move || feed(pipe, &request.stdin, over))?;
            }
            if let Some(pipe) = pipes.1 {
                let pipe = nonblocking(pipe)?;
                spawn("stdout").spawn_scoped(scope, move || drain(pipe, ExecItem::Stdout, call, over))?;
            }
            if let Some(pipe) = pipes.2 {
                let pipe = nonblocking(pipe)?;
                spawn("stderr").spawn_scoped(scope, move || drain(pipe, ExecItem::Stderr, call, over))?;
            }
            Ok(())
        };
        let watched = watch().map_err(failed).and_then(|()| {
            loop {
                if call.is_cancelled() {
                    return Err(AgentError::cancelled());
                }
                if group.leader_ended(STEP).map_err(failed)? {
                    return Ok(());
                }
                if since.elapsed() >= limit {
                    return Err(took_too_long(&request.program, limit));
                }
            }
        });
        if watched.is_err() {
            group.end_gently();
        }
        let status = group.end();
        over.store(true, Ordering::SeqCst);
        watched.and(status)
    })
    // Output that the caller did not take is a cancelled call, also if the command was done by then.
    .and_then(|code| if call.is_cancelled() { Err(AgentError::cancelled()) } else { Ok(code) })
}

fn took_too_long(program: &BytePath, limit: Duration) -> AgentError {
    AgentError {
        kind: AgentErrorKind::Timeout,
        message: format!("`{program}` took longer than {} s and was ended", limit.as_secs_f32()),
    }
}

/// A running group. Dropping it kills it.
struct Group<'a> {
    groups: &'a Groups,
    child: Child,
    leader: Pid,
    pidfd: OwnedFd,
    /// What became of it, once it was reaped.
    ended: Option<Result<i32, AgentError>>,
}

impl<'a> Group<'a> {
    fn start(groups: &'a Groups, request: &ExecRequest) -> Result<Self, AgentError> {
        let failed = |error: &dyn std::fmt::Display| {
            AgentError::failed(format!("cannot start `{}`: {error}", request.program))
        };
        let agent = rustix::process::getpid();
        let mut command = Command::new(OsStr::from_bytes(request.program.as_bytes()));
        command
            .args(request.args.iter().map(|arg| OsStr::from_bytes(arg.as_bytes())))
            .env_clear()
            .envs([
                ("PATH", PATH),
                ("LC_ALL", "C.UTF-8"),
                ("HOME", "/root"),
                ("USER", "root"),
                ("LOGNAME", "root"),
            ])
            .current_dir("/")
            .stdin(if request.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: the closure runs in the forked child before exec and makes plain system calls only: it does not
        // allocate, takes no lock and touches no memory of other threads.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                // The agent's own is stricter; files of a command such as `apt-get` are for everybody.
                rustix::process::umask(Mode::from_raw_mode(0o022));
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The agent may have died before the death signal was set.
                if rustix::process::getppid() != Some(agent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        // Held over the start, so that no group slips past `Groups::end_all`.
        let mut running = groups.lock();
        if running.closed {
            return Err(AgentError::cancelled());
        }
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let leader = Pid::from_child(&child);
        match rustix::process::pidfd_open(leader, PidfdFlags::empty()) {
            Ok(pidfd) => {
                running.leaders.insert(leader);
                Ok(Self { groups, child, leader, pidfd, ended: None })
            }
            Err(error) => {
                signal(leader, Signal::KILL);
                let _ = child.wait();
                Err(failed(&error))
            }
        }
    }

    /// Waits up to `time` for the leader's end; does not reap it.
    fn leader_ended(&self, time: Duration) -> io::Result<bool> {
        ready(&self.pidfd, PollFlags::IN, time)
    }

    /// Asks the group to end and gives it a moment.
    fn end_gently(&self) {
        signal(self.leader, Signal::TERM);
        let since = Instant::now();
        while since.elapsed() < GRACE && lives(self.leader) {
            thread::sleep(STEP);
        }
    }

    /// Kills what is left of the group and reaps the leader.
    fn end(&mut self) -> Result<i32, AgentError> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        signal(self.leader, Signal::KILL);
        let since = Instant::now();
        while since.elapsed() < KILLED && lives(self.leader) {
            thread::sleep(Duration::from_millis(2));
        }
        self.groups.lock().leaders.remove(&self.leader);
        let ended = match self.leader_ended(Duration::ZERO) {
            Ok(true) => match self.child.wait() {
                Ok(status) => Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1)),
                Err(error) => {
                    Err(AgentError::io(format!("cannot wait for process {}", self.child.id()), &error))
                }
            },
            // It hangs in the kernel and dies when that lets go of it.
            _ => Err(AgentError::failed(format!(
                "process {} does not end though it was killed",
                self.child.id()
            ))),
        };
        self.ended.insert(ended).clone()
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Sends a signal to a group and to the groups that a shell made in its session; what is gone already is fine.
fn signal(leader: Pid, signal: Signal) {
    let _ = rustix::process::kill_process_group(leader, signal);
    for process in session_of(leader).filter(|process| process.group != leader.as_raw_nonzero().get()) {
        processes::signal(&process, signal);
    }
}

/// Whether a session has a member that is more than a zombie.
fn lives(leader: Pid) -> bool {
    session_of(leader).next().is_some()
}

fn session_of(leader: Pid) -> impl Iterator<Item = Process> {
    let session = leader.as_raw_nonzero().get();
    processes::all().into_iter().filter(move |process| process.session == session && !process.zombie)
}

fn nonblocking<P: AsFd>(pipe: P) -> io::Result<P> {
    let flags = fcntl_getfl(&pipe)?;
    fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
    Ok(pipe)
}

/// Waits up to `time`; the other end's closing counts as ready.
fn ready(pipe: impl AsFd, what: PollFlags, time: Duration) -> io::Result<bool> {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    match poll(&mut [PollFd::new(&pipe, what)], Some(&time)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Writes the input and closes it; a command that does not want it is no error.
fn feed(mut pipe: impl Write + AsFd, mut input: &[u8], over: &AtomicBool) {
    while !input.is_empty() && !over.load(Ordering::SeqCst) {
        match ready(&pipe, PollFlags::OUT, STEP) {
            Ok(true) => match pipe.write(input) {
                Ok(count) => input = &input[count..],
                Err(error) if is_passing(&error) => {}
                Err(_) => return,
            },
            Ok(false) => {}
            Err(_) => return,
        }
    }
}

/// Sends what comes out of a pipe until its end. After the group's end it takes what is there and does not wait for
/// processes that left the group and hold the pipe.
fn drain(mut pipe: impl Read + AsFd, item: fn(Vec<u8>) -> ExecItem, call: &Call, over: &AtomicBool) {
    let mut buffer = vec![0; CHUNK];
    let mut rest = REST;
    loop {
        // Looked at before the pipe: what was written before the end is in the pipe by then.
        let is_over = over.load(Ordering::SeqCst);
        match ready(&pipe, PollFlags::IN, if is_over { Duration::ZERO } else { STEP }) {
            Ok(true) => match pipe.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if call.item(&item(buffer[..count].to_vec())).is_err() {
                        return;
                    }
                    if is_over {
                        rest = rest.saturating_sub(count);
                    }
                }
                Err(error) if is_passing(&error) => {}
                Err(_) => return,
            },
            Ok(false) if is_over => return,
            Ok(false) => {}
            Err(_) => return,
        }
        if rest == 0 {
            return;
        }
    }
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
