#![expect(
    unsafe_code,
    reason = "a process that outlives its parent's session needs one of its own before it runs"
)]
//! The process that looks after a sync when nobody else does: it needs neither the connection nor the agent, holds nothing but
//! its standing, and ends itself when there is nothing to watch any more.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use pc_switcher_contract::{Role, SessionId};

use super::decide::{Step, TICK, begin, step};
use super::{heal, now, read, write};
use crate::data::apply::Watch;
use crate::linux::lock::{Attempt, MachineLock};
use crate::linux::machine;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, LockRequest};

/// Where systemd keeps what it runs, if it runs this machine.
const SYSTEMD: &str = "/run/systemd/system";

/// How often a sync is tried to be taken back, and how long it waits in between. Then the next boot or sync tries.
const TRIES: usize = 10;
const AGAIN: Duration = Duration::from_secs(5);

/// Starts a watcher for a sync. A child of our own is returned; with systemd it is a unit, out of reach of the login that we
/// came with.
///
/// # Errors
/// If it cannot be started.
pub(super) fn start(session: &SessionId) -> Result<Option<Child>, AgentError> {
    if Path::new(SYSTEMD).is_dir() && as_unit(session) {
        return Ok(None);
    }
    let mut command = Command::new(machine::OWN_IMAGE);
    command
        .arg0("pc-switcher")
        .args(["agent", "--deadman", session.as_str()])
        .env_clear()
        .envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C.UTF-8"),
        ])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: `setsid` is a system call; the hook allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
    }
    let started = command.spawn();
    started.map(Some).map_err(|error| AgentError::io("cannot start the dead man's watcher", &error))
}

/// Starts it as a unit; whether that worked.
fn as_unit(session: &SessionId) -> bool {
    let Ok(program) = std::fs::read_link(machine::OWN_IMAGE) else { return false };
    if !program.is_file() {
        return false;
    }
    Command::new("timeout")
        .args(["20", "systemd-run", "--quiet", "--collect", "--service-type=exec"])
        .arg(format!("--unit=pc-switcher-deadman-{session}"))
        .arg("--description=Take a sync of pc-switcher back unless it is confirmed")
        .arg("--")
        .arg(program)
        .args(["agent", "--deadman", session.as_str()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Watches over a sync until it is confirmed or taken back.
///
/// # Errors
/// If it cannot be taken back, or the machine's state cannot be read.
pub fn watch(
    session: &SessionId,
    state: &StateDir,
    lock_path: &Path,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    let request = LockRequest {
        session: session.clone(),
        role: Role::Target,
        from: machine::hostname()?,
        user: "the dead man".into(),
    };
    let mut failures = 0;
    loop {
        // Only looked at: a try could make a sync fail that starts right now.
        let is_locked = MachineLock::look(lock_path).is_some();
        match step(&read(state)?, session, &now()?, is_locked) {
            Step::End => return Ok(()),
            Step::Look(time) => thread::sleep(time),
            Step::Begin | Step::Heal(_) => match MachineLock::try_take(lock_path, &request)? {
                Attempt::Busy(_) => thread::sleep(TICK),
                Attempt::Held(lock) => {
                    let acted = act(session, state, watch);
                    drop(lock);
                    if let Err(error) = acted {
                        failures += 1;
                        if failures == TRIES {
                            return Err(error);
                        }
                        thread::sleep(AGAIN);
                    }
                }
            },
        }
    }
}

/// Does what is to be done under the machine's lock: whoever had it before may have seen to it.
fn act(session: &SessionId, state: &StateDir, watch: &dyn Watch) -> Result<(), AgentError> {
    let mut found = read(state)?;
    let now = now()?;
    match step(&found, session, &now, false) {
        Step::End | Step::Look(_) => Ok(()),
        Step::Begin => {
            if let Some(armed) = &mut found.armed {
                begin(armed, &now);
            }
            write(state, &found)
        }
        Step::Heal(why) => heal::heal(state, &why, watch),
    }
}
