//! A rollback on trial: the machine puts the trees from before back in place by itself unless somebody confirms it.
//!
//! A rollback takes effect with a restart, so its time begins with the first start that works on the new trees: the unit of the
//! boot begins it, and leaves a process that waits for its end. A restart before that ends it as well. Names are exchanged then, and
//! the start after that finds the trees from before; until it comes, whoever works on the new trees may still say that they stay.
//! Of all that the journal alone knows, so both trees do (docs/adr/0016).

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pc_switcher_contract::{SessionId, UtcStamp};

use super::journal::Journal;
use super::used::{in_use, is_live_used, live_used};
use super::{cancel, finish, look, put_back, records, word};
use crate::data::apply::Watch;
use crate::linux::deadman::{self, Now};
use crate::linux::lock::{Attempt, MachineLock};
use crate::linux::state::StateDir;
use crate::proto::{AgentError, Returned, RollbackPhase, RollbackState, Trial, TrialBegan, TrialFor, time};

/// How often whoever waits looks around.
const LOOK: Duration = Duration::from_secs(1);

/// What is to be done about a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing in this boot: it is on no trial, or waits for a restart.
    Nothing,
    /// Its time begins to run: so many seconds.
    Begin(u64),
    /// There is so much time left.
    Wait(Duration),
    /// The trees from before are put back in place, for this reason.
    Back(String),
    /// That was begun, and goes on.
    GoOn,
}

/// What the machine was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// With trees from before alone: it was not started anew yet.
    Before,
    /// With some of both: its power was cut while names were exchanged, and the rest of them are exchanged since.
    Partly,
    /// With what is in place, whatever else keeps a tree from before.
    Anew,
}

/// Finds out what the machine was started with.
fn start_of(state: &RollbackState) -> Start {
    let (before, live) = (in_use(state), live_used(state));
    match before.iter().all(|name| live.contains(name)) {
        true => Start::Anew,
        false if live.is_empty() => Start::Before,
        false => Start::Partly,
    }
}

/// Judges a rollback; `start` says what the machine was started with.
pub(super) fn judge(state: &RollbackState, start: &dyn Fn() -> Start, now: &Now) -> Verdict {
    if state.phase == RollbackPhase::Cancelling {
        return Verdict::GoOn;
    }
    let Some(trial) = state.on_trial() else { return Verdict::Nothing };
    let began = trial.began.as_ref();
    // A start with some of both is not the one that was to be tried, and it is followed by that one.
    let began = began.filter(|began| !began.is_partly || began.boot_id == now.boot_id);
    match (began, trial.holds) {
        (Some(began), _) if began.boot_id != now.boot_id => {
            Verdict::Back("the machine was started anew before anybody had confirmed it".into())
        }
        (Some(began), holds) => match began.until_ms.saturating_sub(now.since_boot_ms) {
            0 => Verdict::Back(match holds {
                TrialFor::Seconds(limit) => {
                    format!("nobody confirmed it within {} of the restart", time(limit))
                }
                TrialFor::OneStart => ONE_START.into(),
            }),
            left => Verdict::Wait(Duration::from_millis(left)),
        },
        (None, holds) => match (start(), holds) {
            (Start::Before, _) | (Start::Partly, TrialFor::OneStart) => Verdict::Nothing,
            (Start::Anew, TrialFor::OneStart) => Verdict::Back(ONE_START.into()),
            // Nobody may be able to start it anew, nor to get in.
            (_, TrialFor::Seconds(limit)) => Verdict::Begin(limit),
        },
    }
}

const ONE_START: &str = "it was to hold for one start";

/// Returns how many seconds are left to confirm it, if its time runs in this boot.
pub(super) fn left_seconds(state: &RollbackState) -> Option<u64> {
    let began = state.on_trial()?.began.as_ref()?;
    let now = deadman::now().ok().filter(|now| now.boot_id == began.boot_id)?;
    Some(began.until_ms.saturating_sub(now.since_boot_ms).div_ceil(1000))
}

/// Does what is to be done. The caller holds the machine's lock.
pub(super) fn act(state: &StateDir, now: &Now, watch: &dyn Watch) -> Result<Verdict, AgentError> {
    let journal = Journal::of(state);
    let Some(mut found) = journal.read()? else { return Ok(Verdict::Nothing) };
    let verdict = judge(&found, &|| start_of(&found), now);
    match &verdict {
        Verdict::Nothing | Verdict::Wait(_) => {}
        Verdict::Begin(limit) => {
            let until_ms = now.since_boot_ms.saturating_add(limit.saturating_mul(1000));
            let is_partly = start_of(&found) == Start::Partly;
            let began = TrialBegan { boot_id: now.boot_id.clone(), until_ms, is_partly };
            found.trial = found.trial.map(|trial| Trial { began: Some(began), ..trial });
            journal.write(&found)?;
            watch.after("began")?;
        }
        Verdict::Back(why) => {
            let returned = Returned { at: UtcStamp::new(jiff::Timestamp::now()), why: why.clone() };
            cancel(found, Some(returned), &journal, state, watch)?;
        }
        Verdict::GoOn => put_back(found, &journal, state, watch)?,
    }
    Ok(verdict)
}

/// As [`act`]; why it could not be done is noted for whoever looks.
fn act_and_note(state: &StateDir, watch: &dyn Watch) -> Result<Verdict, AgentError> {
    act(state, &deadman::now()?, watch).inspect_err(|error| {
        let journal = Journal::of(state);
        let Ok(Some(mut found)) = journal.read() else { return };
        if !found.goes_back() {
            return;
        }
        if let Some(trial) = &mut found.trial {
            trial.failed = Some(error.to_string());
        }
        // Whoever looks learns less if this fails; it is tried again all the same.
        let _ = journal.write(&found);
    })
}

/// Sees to a rollback on trial at boot, and returns what is to be said of it. The caller holds the machine's lock.
///
/// # Errors
/// If the machine does not let us; then a watcher is left behind, which tries again.
pub fn at_boot(state: &StateDir, watch: &dyn Watch) -> Result<Option<String>, AgentError> {
    let verdict = act_and_note(state, watch);
    // Whoever watched before systemd started all services anew within one start of the kernel is gone.
    if matches!(verdict, Ok(Verdict::Begin(_) | Verdict::Wait(_)) | Err(_)) {
        attend_later(state)?;
    }
    let found = look(&Journal::of(state))?;
    let is_news = matches!(verdict, Ok(Verdict::Begin(_) | Verdict::Back(_) | Verdict::GoOn));
    let Some(state) = found.state.filter(|_| is_news) else { return verdict.map(|_| None) };
    let waits = |trial: &Trial| format!("rollback {}: {}", state.session, trial.explain(found.left_seconds));
    verdict.map(|_| state.explain_returned().or_else(|| state.on_trial().map(waits)))
}

/// Leaves a watcher behind for a rollback on trial, or one that is half taken back, if there is one.
///
/// # Errors
/// If the journal cannot be read, or no process can be started.
pub fn attend_later(state: &StateDir) -> Result<(), AgentError> {
    match Journal::of(state).read()? {
        Some(found) if found.goes_back() => deadman::start(&found.session).map(drop),
        _ => Ok(()),
    }
}

/// Watches over a rollback on trial until it is confirmed, wholly taken back, or waits for a restart. What fails is tried again.
///
/// # Errors
/// If the machine does not know its name.
pub fn watch(
    session: &SessionId,
    state: &StateDir,
    lock_path: &Path,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    watch_and_tell(session, state, lock_path, watch, &wall)
}

/// As [`watch`]; what the machine did is told by `tell`.
pub(super) fn watch_and_tell(
    session: &SessionId,
    state: &StateDir,
    lock_path: &Path,
    watch: &dyn Watch,
    tell: &dyn Fn(&str),
) -> Result<(), AgentError> {
    let request = deadman::lock_request(session)?;
    let journal = Journal::of(state);
    let is_ours = |found: &RollbackState| found.session == *session && found.goes_back();
    let mut round = |_: u32| -> Result<Option<Duration>, AgentError> {
        let Some(found) = journal.read()?.filter(is_ours) else { return Ok(None) };
        match judge(&found, &|| start_of(&found), &deadman::now()?) {
            Verdict::Nothing => Ok(None),
            Verdict::Wait(left) => Ok(Some(left.min(LOOK))),
            Verdict::Begin(_) | Verdict::Back(_) | Verdict::GoOn => {
                match MachineLock::try_take(lock_path, &request)? {
                    Attempt::Busy(_) => Ok(Some(LOOK)),
                    // Whoever had it before may have seen to it.
                    Attempt::Held(_lock) => {
                        if let Verdict::Back(_) | Verdict::GoOn = act_and_note(state, watch)? {
                            let said = journal.read()?.and_then(|found| found.explain_returned());
                            said.iter().for_each(|said| tell(said));
                        }
                        Ok(Some(Duration::ZERO))
                    }
                }
            }
        }
    };
    let is_over = || journal.read().is_ok_and(|found| !found.as_ref().is_some_and(is_ours));
    deadman::attend(&format!("rollback {session}"), &mut round, &is_over);
    Ok(())
}

/// Tells whoever works at a terminal of this machine that it went back.
fn wall(said: &str) {
    let text = format!(
        "{said}; the next start finds the machine as it was before the rollback, unless `pc-switcher rollback confirm` comes \
         before it"
    );
    // `status` says it as well, so nothing is lost if nobody hears it.
    let _ = Command::new("timeout").args(["10", "wall", &text]).stdin(Stdio::null()).status();
}

/// Confirms a rollback on trial: from now on it is taken back by hand alone. One that was taken back by itself while somebody still
/// works on its trees is put in place again. The caller holds the machine's lock.
pub(super) fn stay(journal: &Journal<'_>, state: &StateDir, watch: &dyn Watch) -> Result<(), AgentError> {
    let found = look(journal)?;
    let may_come_again = found.may_come_again();
    let Some(mut now) = found.state else {
        return Err(AgentError::failed("there is no rollback to confirm"));
    };
    match now.phase {
        RollbackPhase::Done => {
            now.trial = None;
            journal.write(&now)?;
            Ok(watch.after("stays")?)
        }
        RollbackPhase::Cancelled if may_come_again && is_live_used(&now) => Err(AgentError::failed(
            "this machine works on the trees from before again, and on what the rollback had put in place as well; unmount that, and \
             `pc-switcher rollback confirm` removes it",
        )),
        RollbackPhase::Cancelled if may_come_again => {
            // Before it is decided: a machine that dies in between is a stranger to all others, which asks more than it has to.
            records::forget(state, &now.records)?;
            watch.after("records")?;
            now.trial = None;
            now.phase = RollbackPhase::Committed;
            journal.write(&now)?;
            watch.after("again")?;
            finish(now, journal, watch)?;
            journal.keep_no_more()
        }
        phase => Err(AgentError::failed(format!("rollback {} is {}", now.session, word(phase)))),
    }
}
