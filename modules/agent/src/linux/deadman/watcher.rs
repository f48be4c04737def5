#![expect(
    unsafe_code,
    reason = "a process that outlives its parent's session needs one of its own before it runs"
)]
//! The process that looks after a sync or a rollback when nobody else does: it needs neither the connection nor the agent, holds nothing but
//! its standing, and ends itself when there is nothing to watch any more.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pc_switcher_contract::{Role, SessionId};

use super::decide::{Step, TICK, again, begin, step};
use super::{heal, note, now, read, write};
use crate::data::apply::Watch;
use crate::linux::lock::{Attempt, MachineLock};
use crate::linux::machine;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, LockRequest};

/// Where systemd keeps what it runs, if it runs this machine.
const SYSTEMD: &str = "/run/systemd/system";

/// How often it is looked meanwhile whether there is anything to watch still.
const GLANCE: Duration = Duration::from_secs(1);

/// In so many tries the subvolumes may go back as a whole; later somebody has worked there since.
const AS_A_WHOLE: u32 = 10;

/// Starts a watcher for a sync or a rollback. A child of our own is returned; with systemd it is a unit, out of reach of the login that we
/// came with.
///
/// # Errors
/// If it cannot be started.
pub(in crate::linux) fn start(session: &SessionId) -> Result<Option<Child>, AgentError> {
    if has_systemd() && as_unit(session) {
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
    let name = format!("pc-switcher-deadman-{session}");
    let what = "Take work of pc-switcher back unless it is confirmed";
    run_unit(&name, what, &[], &["agent", "--deadman", session.as_str()])
}

/// Whether systemd runs this machine.
pub(in crate::linux) fn has_systemd() -> bool {
    Path::new(SYSTEMD).is_dir()
}

/// Has systemd run this program as a unit of this name, or with `when` at other times than now; whether it took that.
pub(in crate::linux) fn run_unit(name: &str, what: &str, when: &[&str], args: &[&str]) -> bool {
    let Ok(program) = std::fs::read_link(machine::OWN_IMAGE) else { return false };
    if !program.is_file() {
        return false;
    }
    Command::new("timeout")
        .args(["20", "systemd-run", "--quiet", "--collect", "--service-type=exec"])
        .arg(format!("--unit={name}"))
        .arg(format!("--description={what}"))
        .args(when)
        .arg("--")
        .arg(program)
        .args(args)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Watches over a sync until it is confirmed or taken back. What fails is tried again, ever more slowly, until the next sync or the
/// next boot sees to it; why stands in the machine's state meanwhile.
///
/// # Errors
/// If the machine does not know its name.
pub fn watch(
    session: &SessionId,
    state: &StateDir,
    lock_path: &Path,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    let request = lock_request(session)?;
    let is_over =
        || read(state).is_ok_and(|found| found.armed.is_none_or(|armed| armed.wish.session != *session));
    let mut look = |failures| round(session, state, (lock_path, &request), failures < AS_A_WHOLE, watch);
    attend(&format!("sync {session}"), &mut look, &is_over);
    Ok(())
}

/// Returns with what a watcher asks for the machine's lock.
pub(in crate::linux) fn lock_request(session: &SessionId) -> Result<LockRequest, AgentError> {
    Ok(LockRequest {
        session: session.clone(),
        role: Role::Target,
        from: machine::hostname()?,
        user: "the dead man".into(),
    })
}

/// Looks round by round, each told how many failed so far, until one says that there is nothing to watch any more. After a failure
/// it waits, ever longer.
pub(in crate::linux) fn attend(
    what: &str,
    round: &mut dyn FnMut(u32) -> Result<Option<Duration>, AgentError>,
    is_over: &dyn Fn() -> bool,
) {
    let mut failures = 0_u32;
    loop {
        match round(failures) {
            Ok(None) => return,
            Ok(Some(time)) => thread::sleep(time),
            Err(error) => {
                failures = failures.saturating_add(1);
                eprintln!("{what} cannot be taken back: {error}");
                if pause(again(failures), is_over) {
                    return;
                }
            }
        }
    }
}

/// Looks once, and does what is to be done; returns when to look again, `None` if there is nothing to watch any more.
fn round(
    session: &SessionId,
    state: &StateDir,
    (lock_path, request): (&Path, &LockRequest),
    as_a_whole: bool,
    watch: &dyn Watch,
) -> Result<Option<Duration>, AgentError> {
    // Only looked at: a try could make a sync fail that starts right now.
    let is_locked = MachineLock::look(lock_path).is_some();
    match step(&read(state)?, session, &now()?, is_locked) {
        Step::End => Ok(None),
        Step::Look(time) => Ok(Some(time)),
        Step::Begin | Step::Heal(_) => match MachineLock::try_take(lock_path, request)? {
            Attempt::Busy(_) => Ok(Some(TICK)),
            Attempt::Held(_lock) => act(session, state, as_a_whole, watch)
                .inspect_err(|error| note(state, error))
                .map(|()| Some(Duration::ZERO)),
        },
    }
}

/// Waits, unless there is nothing to watch any more; whether that is so.
fn pause(time: Duration, is_over: &dyn Fn() -> bool) -> bool {
    let since = Instant::now();
    loop {
        let is_over = is_over();
        let left = time.saturating_sub(since.elapsed());
        if is_over || left.is_zero() {
            return is_over;
        }
        thread::sleep(left.min(GLANCE));
    }
}

/// Does what is to be done under the machine's lock: whoever had it before may have seen to it.
fn act(session: &SessionId, state: &StateDir, as_a_whole: bool, watch: &dyn Watch) -> Result<(), AgentError> {
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
        Step::Heal(why) => heal::heal(state, &why, as_a_whole, watch),
    }
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::{SnapshotKind, SnapshotMember, SnapshotSet};

    use super::*;
    use crate::data::apply::Unwatched;
    use crate::linux::deadman::change;
    use crate::proto::{Armed, DeadmanState, DeadmanWish};

    #[test]
    fn a_sync_that_cannot_be_taken_back_is_watched_on_and_why_is_there_to_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshots, state) = (dir.path().join("snapshots"), StateDir::new(dir.path().join("state")));
        let session: SessionId = "abc12345".parse().unwrap();
        let name = "@home-presync-20251115T120000Z-abc12345";
        let member = SnapshotMember {
            name: name.parse().unwrap(),
            path: snapshots.join(name).as_path().into(),
            uuid: String::new(),
            source_uuid: String::new(),
            id: 1,
            otransid: 1,
            ctransid: 1,
            first_taken: None,
            apart: None,
        };
        let pre = SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind: SnapshotKind::PreSync,
            stamp: "20251115T120000Z".parse().unwrap(),
            session: session.clone(),
            consistent: true,
            members: vec![member],
        };
        let sidecar = snapshots.join(".pc-switcher/sets").join(pre.id().to_string());
        std::fs::create_dir_all(&sidecar).unwrap();
        std::fs::write(sidecar.join("operations"), b"").unwrap();
        assert!(crate::data::apply::has_list(&sidecar));
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let from = "laptop".parse().unwrap();
        let wish = DeadmanWish { session: session.clone(), from, limit_seconds: 5, pre };
        let boot_id = now().unwrap().boot_id;
        let armed = Armed { wish, boot_id, until_ms: Some(0), failed: None };
        write(&state, &DeadmanState { armed: Some(armed), healed: Vec::new() }).unwrap();
        let lock = dir.path().join("lock");
        thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&session, &state, &lock, &Unwatched));
            let failed = || read(&state).unwrap().armed.unwrap().failed;
            let since = Instant::now();
            while failed().is_none() {
                assert!(since.elapsed() < Duration::from_secs(60) && !watcher.is_finished());
                thread::yield_now();
            }
            assert!(failed().unwrap().contains("cannot be trusted"), "{:?}", failed());
            change(&state, |found| found.armed = None).unwrap();
            watcher.join().unwrap().unwrap();
        });
    }
}
