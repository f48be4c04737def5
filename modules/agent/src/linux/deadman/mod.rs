//! The dead man: a sync that this machine takes back by itself unless somebody confirms that it can still be reached.
//!
//! **Invariant: from before the first change until a sync is confirmed or taken back, an entry on the disk says so, and
//! somebody looks after it**: the sync itself while it holds the machine's lock, then a watcher that needs neither the
//! connection nor the agent, after a restart the unit of the boot, and in any case the next sync (docs/adr/0016).

mod decide;
mod heal;
mod watcher;

use std::fs;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use self::decide::{Verdict, begin, judge};
use super::state::StateDir;
use crate::data::apply::Watch;
use crate::proto::{AgentError, Armed, DeadmanOrder, DeadmanState, DeadmanWish, Healed};
use crate::server::Call;

pub(in crate::linux) use decide::Now;
pub(in crate::linux) use watcher::{attend, has_systemd, lock_request, run_unit, start};

pub use watcher::watch;

/// How often a sync that waits to be confirmed is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The dead man as an agent knows it. One order at a time: whoever confirms comes before or after whoever takes back.
#[derive(Debug, Default)]
pub struct Deadman(Mutex<Option<Child>>);

impl Deadman {
    /// Carries out an order. The caller holds the machine's lock for all but a look.
    ///
    /// # Errors
    /// If the machine does not let us; then what was armed still is.
    pub fn run(
        &self,
        order: &DeadmanOrder,
        state: &StateDir,
        watch: &dyn Watch,
        call: &Call,
    ) -> Result<DeadmanState, AgentError> {
        match order {
            DeadmanOrder::Look => {}
            DeadmanOrder::Arm(wish) => self.arm(wish, state)?,
            DeadmanOrder::Count => self.count(state, watch, call)?,
            DeadmanOrder::Confirm => {
                let mut child = self.lock();
                change(state, |found| found.armed = None)?;
                end(&mut child);
            }
            DeadmanOrder::Heal(why) => {
                // What has begun goes on to its end, whoever listens.
                let _shield = call.shield();
                let mut child = self.lock();
                heal::heal(state, why, true, watch)?;
                end(&mut child);
            }
            DeadmanOrder::Settle { from_elsewhere } => {
                let _shield = call.shield();
                let _child = self.lock();
                settle(*from_elsewhere, state, watch, &now()?)?;
            }
            DeadmanOrder::Told(from) => {
                let _child = self.lock();
                change(state, |found| found.healed.retain(|healed| !healed.from.same_machine(from)))?;
            }
        }
        read(state)
    }

    /// Returns the process that outlives this agent, if there is one.
    pub fn keeps(&self) -> Option<u32> {
        self.lock().as_ref().map(Child::id)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self, wish: &DeadmanWish, state: &StateDir) -> Result<(), AgentError> {
        let mut child = self.lock();
        let mut found = read(state)?;
        if let Some(other) = found.armed.as_ref().filter(|other| other.wish.session != wish.session) {
            return Err(AgentError::failed(other.explain()));
        }
        found.armed =
            Some(Armed { wish: wish.clone(), boot_id: now()?.boot_id, until_ms: None, failed: None });
        write(state, &found)?;
        match watcher::start(&wish.session) {
            Ok(started) => {
                *child = started;
                Ok(())
            }
            Err(error) => {
                change(state, |found| found.armed = None)?;
                Err(error)
            }
        }
    }

    /// Lets the time run, and waits for what comes of it.
    fn count(&self, state: &StateDir, watch: &dyn Watch, call: &Call) -> Result<(), AgentError> {
        let session = {
            let _child = self.lock();
            let mut found = read(state)?;
            let Some(armed) = &mut found.armed else { return Ok(()) };
            begin(armed, &now()?);
            let session = armed.wish.session.clone();
            write(state, &found)?;
            session
        };
        loop {
            if call.is_cancelled() {
                return Err(AgentError::cancelled());
            }
            {
                let mut child = self.lock();
                let armed = read(state)?.armed.filter(|armed| armed.wish.session == session);
                let Some(armed) = armed else { return Ok(()) };
                if let Verdict::Heal(why) = judge(&armed, &now()?) {
                    let _shield = call.shield();
                    heal::heal(state, &why, true, watch)?;
                    end(&mut child);
                    return Ok(());
                }
            }
            thread::sleep(LOOK);
        }
    }
}

/// Takes back what was armed before a restart.
///
/// # Errors
/// If the machine does not let us; then a watcher is left behind, which tries again.
pub fn at_boot(state: &StateDir, watch: &dyn Watch) -> Result<Option<Healed>, AgentError> {
    let Some(armed) = read(state)?.armed else { return Ok(None) };
    match judge(&armed, &now()?) {
        Verdict::Heal(why) => {
            heal::heal(state, &why, true, watch).inspect_err(|error| {
                note(state, error);
                // It tries again as long as nobody else does.
                let _ = watcher::start(&armed.wish.session);
            })?;
            Ok(read(state)?.healed(&armed.wish.session).cloned())
        }
        // Its watcher is there.
        Verdict::Open | Verdict::Wait(_) => Ok(None),
    }
}

/// Sees to what an older sync has left armed.
pub(in crate::linux) fn settle(
    from_elsewhere: bool,
    state: &StateDir,
    watch: &dyn Watch,
    now: &Now,
) -> Result<(), AgentError> {
    let mut found = read(state)?;
    let Some(armed) = &mut found.armed else { return Ok(()) };
    let waits = heal::waits_for(&armed.wish, now);
    match judge(armed, now) {
        // It stays armed, and is tried again by whoever looks after it.
        Verdict::Heal(_) if waits.is_some() => {
            armed.failed = waits;
            write(state, &found)
        }
        Verdict::Heal(why) => heal::heal(state, &why, true, watch).map_err(|error| {
            let session = &armed.wish.session;
            // Nobody could take it back, so nobody waits for it any more.
            let left = change(state, |found| found.armed = None).err();
            let left = left.map(|left| format!("; {left}")).unwrap_or_default();
            AgentError {
                kind: error.kind,
                message: format!(
                    "sync {session} stays, though {why}: it cannot be taken back: {error}{left}"
                ),
            }
        }),
        _ if from_elsewhere => change(state, |found| found.armed = None),
        Verdict::Open => {
            begin(armed, now);
            write(state, &found)
        }
        Verdict::Wait(_) => Ok(()),
    }
}

/// Ends the process that watches: there is nothing to watch any more. It never does anything without the machine's lock, which
/// the caller has.
fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // Gone already is as good.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn read(state: &StateDir) -> Result<DeadmanState, AgentError> {
    Ok(state.get(DeadmanState::KEY)?.map(|bytes| DeadmanState::read(&bytes)).unwrap_or_default())
}

fn write(state: &StateDir, found: &DeadmanState) -> Result<(), AgentError> {
    state.put(DeadmanState::KEY, bytes_of(found)?.as_deref())
}

/// Returns it as it is written down; `None` if there is nothing to be.
fn bytes_of(found: &DeadmanState) -> Result<Option<Vec<u8>>, AgentError> {
    if *found == DeadmanState::default() {
        return Ok(None);
    }
    let failed = |error| AgentError::failed(format!("the dead man cannot be written down: {error}"));
    serde_json::to_vec_pretty(found).map(Some).map_err(failed)
}

fn change(state: &StateDir, change: impl FnOnce(&mut DeadmanState)) -> Result<(), AgentError> {
    let found = read(state)?;
    let mut changed = found.clone();
    change(&mut changed);
    if changed == found { Ok(()) } else { write(state, &changed) }
}

/// Notes why the sync that is armed could not be taken back, for whoever looks. The caller holds the machine's lock.
fn note(state: &StateDir, error: &AgentError) {
    // Whoever looks learns less if this fails; it is tried again all the same.
    let _ = change(state, |found| {
        if let Some(armed) = &mut found.armed {
            armed.failed = Some(error.to_string());
        }
    });
}

/// Returns where this machine stands in time. The kernel counts the time of sleep, too.
pub(in crate::linux) fn now() -> Result<Now, AgentError> {
    let line = |path: &str| {
        fs::read_to_string(path).map_err(|error| AgentError::io(format!("cannot read `{path}`"), &error))
    };
    let uptime = line("/proc/uptime")?;
    let seconds: Option<f64> = uptime.split_whitespace().next().and_then(|word| word.parse().ok());
    let seconds =
        seconds.ok_or_else(|| AgentError::failed(format!("`/proc/uptime` says `{}`", uptime.trim())))?;
    Ok(Now {
        boot_id: line("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        since_boot_ms: (seconds * 1000.0) as u64,
    })
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::{SnapshotKind, SnapshotSet};

    use super::*;
    use crate::data::apply::Unwatched;

    fn wish(session: &str) -> DeadmanWish {
        let pre = SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind: SnapshotKind::PreSync,
            stamp: "20251115T120000Z".parse().unwrap(),
            session: session.parse().unwrap(),
            consistent: true,
            members: Vec::new(),
        };
        DeadmanWish {
            session: session.parse().unwrap(),
            from: "laptop".parse().unwrap(),
            limit_seconds: 600,
            pre,
        }
    }

    fn armed_in(state: &StateDir, boot_id: &str, until_ms: Option<u64>) {
        let armed = Armed { wish: wish("abc12345"), boot_id: boot_id.to_owned(), until_ms, failed: None };
        write(state, &DeadmanState { armed: Some(armed), healed: Vec::new() }).unwrap();
    }

    fn order(order: &DeadmanOrder, state: &StateDir) -> Result<DeadmanState, AgentError> {
        let (call, _frames) = Call::for_test(Vec::new());
        Deadman::default().run(order, state, &Unwatched, &call)
    }

    #[test]
    fn a_contact_from_elsewhere_confirms_and_one_from_here_lets_the_time_run() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        armed_in(&state, &now().unwrap().boot_id, None);
        let found = order(&DeadmanOrder::Settle { from_elsewhere: false }, &state).unwrap();
        assert!(found.armed.unwrap().until_ms.is_some());
        let found = order(&DeadmanOrder::Settle { from_elsewhere: true }, &state).unwrap();
        assert_eq!(found, DeadmanState::default());
        assert!(!dir.path().join(DeadmanState::KEY).exists(), "nothing is left of it");
    }

    #[test]
    fn a_sync_that_changed_nothing_leaves_no_word_when_it_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        armed_in(&state, "another boot", None);
        assert_eq!(at_boot(&state, &Unwatched).unwrap(), None);
        assert_eq!(read(&state).unwrap(), DeadmanState::default());
        armed_in(&state, &now().unwrap().boot_id, Some(0));
        let found = order(&DeadmanOrder::Settle { from_elsewhere: false }, &state).unwrap();
        assert_eq!(found, DeadmanState::default());
        assert_eq!(order(&DeadmanOrder::Count, &state).unwrap(), found, "there is nothing to wait for");
    }

    #[test]
    fn one_that_another_sync_has_armed_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        armed_in(&state, "any", None);
        let error = order(&DeadmanOrder::Arm(wish("ffffffff")), &state).unwrap_err();
        assert!(error.message.contains("sync abc12345 from laptop is not confirmed"), "{error}");
    }
}
