//! Takes whole subvolumes of this machine back to a set of snapshots, and that back again.
//!
//! **Invariant: at each moment each subvolume has its name and is wholly the old tree or wholly the new one, and the journal
//! says which it will be.** New trees are made beside the old ones; what belongs to the machine is carried over; the journal
//! is written; then names are exchanged, one at a time. What runs works on in the tree that it has mounted, until the machine
//! is started anew. The old trees stay beside the new ones until somebody confirms.
//!
//! Whoever holds the machine's lock finishes what was cut off: what was not committed is dropped, the rest goes on.

mod away;
mod by_hand;
mod carried;
mod checks;
mod fallback;
mod inside;
mod journal;
mod late;
mod live;
mod nested;
mod records;
mod spaces;
mod steps;
mod stray;
mod table;
mod top;
mod trial;
mod used;
mod users;

#[cfg(test)]
mod by_hand_tests;
#[cfg(test)]
mod live_guards_tests;
#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod nested_tests;
#[cfg(test)]
mod pair_tests;
#[cfg(test)]
pub(in crate::linux) mod tests;
#[cfg(test)]
mod trial_tests;

pub(crate) use carried::{below as own_below, tell_new_trees};
pub(crate) use fallback::{Stand, fall_back, in_place, settle, take_back};
pub use journal::POINTER;
pub use late::unmounted;
pub(crate) use late::wait_for_snapshots;
pub use trial::{at_boot, attend_later, watch};

use std::io;

use pc_switcher_contract::{SetId, SnapshotKind, UtcStamp};

use self::checks::Checked;
use self::journal::Journal;
use self::nested::Ground;
use self::steps::{Names, top_of};
use self::top::Top;
use self::used::{in_use, is_live_used, reached};
use crate::data::apply::Watch;
use crate::linux::install::Unit;
use crate::linux::snapshots::keep_trees;
use crate::linux::state::StateDir;
use crate::proto::{
    AgentError, Returned, RollbackLook, RollbackOrder, RollbackPhase, RollbackState, RollbackWish,
    SubvolumeFact, TakeSet, Trial,
};

/// Carries out an order. The caller holds the machine's lock for all but the first two.
///
/// # Errors
/// If there is nothing to do it with, or the machine does not let us; then the journal says how far it came.
pub fn run(order: &RollbackOrder, state: &StateDir, watch: &dyn Watch) -> Result<RollbackLook, AgentError> {
    let journal = Journal::of(state);
    match order {
        RollbackOrder::Look => {}
        RollbackOrder::Check(wish) => return check(wish, &journal),
        RollbackOrder::Strays(snapshot_dir) => {
            return Ok(RollbackLook {
                strays: stray::all(&journal, snapshot_dir)?,
                ..RollbackLook::default()
            });
        }
        RollbackOrder::Prepare(wish) => prepare(wish, &journal, state, watch)?,
        RollbackOrder::Commit => commit(under_way(&journal, RollbackPhase::Prepared)?, &journal, watch)?,
        RollbackOrder::Abort => abort(&under_way(&journal, RollbackPhase::Prepared)?, &journal, state)?,
        RollbackOrder::Confirm(stamp) => {
            nothing_is_missing(&journal)?;
            if look(&journal)?.may_come_again() {
                trial::stay(&journal, state, watch)?;
            }
            return confirm(*stamp, &journal, state, watch);
        }
        RollbackOrder::Stay => trial::stay(&journal, state, watch)?,
        RollbackOrder::Decided { snapshot_dir, session } => {
            let decided = journal::has_decided(snapshot_dir, session)?;
            // Whoever works on its trees still may say that they stay after all; who waits goes on waiting then.
            let is_open = !decided && {
                let look = look(&journal)?;
                look.may_come_again() && look.state.is_some_and(|state| state.session == *session)
            };
            return Ok(RollbackLook { decided: (!is_open).then_some(decided), ..RollbackLook::default() });
        }
        RollbackOrder::Cancel => {
            nothing_is_missing(&journal)?;
            cancel(under_way(&journal, RollbackPhase::Done)?, None, &journal, state, watch)?;
        }
    }
    look(&journal)
}

/// As [`run`], where somebody asks: what nobody uses goes back and forth at once, and a look says who uses the rest.
///
/// # Errors
/// As [`run`], and if something could not be mounted again.
pub fn run_at_once(
    order: &RollbackOrder,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<RollbackLook, AgentError> {
    let journal = Journal::of(state);
    let exchanges = matches!(order, RollbackOrder::Commit | RollbackOrder::Cancel);
    if exchanges {
        // Without that all of it waits for the restart.
        let _ = away::allow(&journal);
    }
    let mut found = run(order, state, watch)?;
    if exchanges {
        live::switch(&journal, watch)?;
        found = RollbackLook { kept: found.kept, ..look(&journal)? };
    }
    if let Some(state) = found.state.as_ref().filter(|_| !found.in_use.is_empty()) {
        found.ways = live::ways(state, &journal);
    }
    Ok(found)
}

/// As [`redo`], where somebody comes: what nobody uses any more goes back.
///
/// # Errors
/// As [`redo`], and if something could not be mounted again.
pub fn redo_at_once(state: &StateDir, watch: &dyn Watch) -> Result<(), AgentError> {
    redo(state, watch)?;
    live::switch(&Journal::of(state), watch)
}

/// Finishes a rollback that was cut off.
///
/// # Errors
/// If the machine does not let us; the journal says how far it came.
pub fn redo(state: &StateDir, watch: &dyn Watch) -> Result<(), AgentError> {
    let journal = Journal::of(state);
    journal.tidy()?;
    // It keeps the names from nothing.
    let mended = away::mend(&journal, watch);
    go_on(&journal, state, watch)?;
    mended
}

fn go_on(journal: &Journal<'_>, state: &StateDir, watch: &dyn Watch) -> Result<(), AgentError> {
    let Some(found) = stray::known(journal)? else { return Ok(()) };
    let found = by_hand::settle(found, journal, state, watch)?;
    match found.phase {
        // It was cut off between its word and the journal.
        RollbackPhase::Prepared if journal.decided(&found.session)? => commit(found, journal, watch),
        // Another machine decides, and it may have.
        RollbackPhase::Prepared if found.waits_for().is_some() => Ok(()),
        RollbackPhase::Preparing | RollbackPhase::Prepared => abort(&found, journal, state),
        RollbackPhase::Committed => finish(found, journal, watch),
        RollbackPhase::Cancelling => put_back(found, journal, state, watch),
        RollbackPhase::Done => {
            // What cannot come along keeps nobody from working either: a look says why it stays.
            let _ = nested::bring(&found, journal, Ground::Running, watch);
            Ok(())
        }
        // What cannot be removed keeps nobody from working: `rollback status` shows it, and `rollback confirm` says why.
        RollbackPhase::Confirmed => {
            let _ = let_go(&found, journal, watch);
            Ok(())
        }
        RollbackPhase::Cancelled => {
            let _ = tidy(&found, journal, state, watch);
            Ok(())
        }
    }
}

fn look(journal: &Journal<'_>) -> Result<RollbackLook, AgentError> {
    let (state, moved) = by_hand::read(journal)?;
    let in_use = state.as_ref().map(in_use).unwrap_or_default();
    let reached = state.as_ref().map(reached).unwrap_or_default();
    let left_seconds = state.as_ref().and_then(trial::left_seconds);
    let (inside, inside_more) = state.as_ref().map(nested::left).unwrap_or_default();
    let not_mounted = state.as_ref().map_or_else(|| Ok(Vec::new()), |_| away::missing(journal))?;
    Ok(RollbackLook {
        state,
        in_use,
        reached,
        left_seconds,
        inside,
        inside_more,
        not_mounted,
        moved,
        ..RollbackLook::default()
    })
}

/// Refuses what would forget that something has to be mounted.
fn nothing_is_missing(journal: &Journal<'_>) -> Result<(), AgentError> {
    look(journal)?.explain_not_mounted().map_or(Ok(()), |why| Err(AgentError::failed(why)))
}

fn check(wish: &RollbackWish, journal: &Journal<'_>) -> Result<RollbackLook, AgentError> {
    let found = look(journal)?;
    if let Some(state) = &found.state {
        return Ok(RollbackLook { problems: vec![not_yet(state)], ..found });
    }
    if let Some(stray) = stray::look(journal, &wish.snapshot_dir)? {
        return Ok(RollbackLook { problems: vec![stray::unknown(&stray, wish)], ..found });
    }
    let Checked { members, problems, warnings, is_vital, unattended, inside, inside_more } =
        checks::check(wish)?;
    let no_unit = |unit: Unit| format!("the boot does not start `{}`", unit.name());
    let unattended = if Unit::Redo.is_enabled() { unattended } else { Some(no_unit(Unit::Redo)) };
    let late = (!inside.is_empty() && !Unit::Rollback.is_enabled()).then(|| no_unit(Unit::Rollback));
    let ways = live::forecast(wish, &members);
    Ok(RollbackLook { problems, warnings, is_vital, unattended, inside, inside_more, late, ways, ..found })
}

fn not_yet(found: &RollbackState) -> String {
    if let Some(partner) = found.waits_for() {
        return format!(
            "rollback {} is prepared and waits for what {partner} decided; a sync or a rollback that reaches both machines tells",
            found.session
        );
    }
    if found.phase == RollbackPhase::Cancelled {
        return format!(
            "what rollback {} had put in place still stands beside the trees; `pc-switcher rollback confirm` removes it",
            found.session
        );
    }
    format!(
        "rollback {} is not over; `pc-switcher rollback confirm` keeps it for good, `pc-switcher rollback cancel` takes it \
         back",
        found.session
    )
}

fn under_way(journal: &Journal<'_>, phase: RollbackPhase) -> Result<RollbackState, AgentError> {
    match journal.read()? {
        Some(found) if found.phase == phase => Ok(found),
        Some(found) => Err(AgentError::failed(format!(
            "rollback {} is {} and not {}",
            found.session,
            word(found.phase),
            word(phase)
        ))),
        None => Err(AgentError::failed("there is no rollback under way")),
    }
}

fn word(phase: RollbackPhase) -> &'static str {
    match phase {
        RollbackPhase::Preparing => "preparing",
        RollbackPhase::Prepared => "prepared",
        RollbackPhase::Committed => "being put in place",
        RollbackPhase::Done => "done",
        RollbackPhase::Cancelling => "being taken back",
        RollbackPhase::Cancelled => "taken back",
        RollbackPhase::Confirmed => "confirmed",
    }
}

fn prepare(
    wish: &RollbackWish,
    journal: &Journal<'_>,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    if let Some(found) = journal.read()? {
        return Err(AgentError::failed(not_yet(&found)));
    }
    if let Some(stray) = stray::settle(journal, &wish.snapshot_dir)? {
        return Err(AgentError::failed(stray::unknown(&stray, wish)));
    }
    let checked = checks::check(wish)?;
    if !checked.problems.is_empty() || checked.members.is_empty() {
        return Err(AgentError::failed(checked.problems.join("; ")));
    }
    let mut now = RollbackState {
        session: wish.session.clone(),
        stamp: wish.stamp,
        to: wish.to.id(),
        phase: RollbackPhase::Preparing,
        members: checked.members,
        together: wish.together.clone(),
        records: records::read(state)?,
        trial: wish.trial.map(Trial::new),
        fallback: wish.fallback.clone(),
    };
    journal.begin(&wish.snapshot_dir)?;
    journal.write(&now)?;
    watch.after("preparing")?;
    let made = make(wish, &mut now, state, watch).and_then(|()| {
        now.phase = RollbackPhase::Prepared;
        journal.write(&now)
    });
    match made {
        Ok(()) => Ok(watch.after("prepared")?),
        Err(mut error) => {
            now.phase = RollbackPhase::Preparing;
            if let Err(left) = abort(&now, journal, state) {
                error.message.push_str(&format!("; the next boot tidies up after it: {}", left.message));
            }
            Err(error)
        }
    }
}

/// Makes the new trees.
fn make(
    wish: &RollbackWish,
    now: &mut RollbackState,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    let tops = now.members.iter().map(top_of).collect::<Result<Vec<Top>, _>>()?;
    for (at, top) in tops.iter().enumerate() {
        let member = &now.members[at];
        let failed = |error: std::io::Error| {
            AgentError::io(format!("cannot make a new tree of `{}`", member.name), &error)
        };
        let source =
            wish.to.member(&member.name).ok_or_else(|| AgentError::protocol("a member that is not there"))?;
        let live = top.look(member.name.as_str()).map_err(failed)?;
        if live.is_none_or(|(uuid, _)| uuid != member.old_uuid) {
            return Err(AgentError::failed(format!(
                "`{}` at the top level of its disk is not the tree that is mounted",
                member.name
            )));
        }
        let incoming = Names::of(now, member).incoming;
        top.snapshot(&source.path, &incoming).map_err(failed)?;
        watch.after("snapshot")?;
        let (uuid, _) =
            top.look(&incoming).map_err(failed)?.ok_or_else(|| AgentError::failed("it is gone"))?;
        now.members[at].new_uuid = uuid;
    }
    // Before the state is carried over, so that both trees know it.
    records::forget(state, &now.records)?;
    watch.after("records")?;
    carried::carry_over(now, &tops)?;
    watch.after("carried")?;
    for top in &tops {
        top.sync().map_err(|error| AgentError::io("cannot sync the new trees", &error))?;
    }
    Ok(())
}

fn commit(mut now: RollbackState, journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    if now.waits_for().is_some() {
        // It may have waited for long: keys and logins are those of now.
        let tops = now.members.iter().map(top_of).collect::<Result<Vec<Top>, _>>()?;
        carried::carry_over(&now, &tops)?;
        for top in &tops {
            top.sync().map_err(|error| AgentError::io("cannot sync the new trees", &error))?;
        }
        watch.after("carried")?;
    }
    // From here on the answer is yes, for the other machine as well.
    decide(&now, journal, watch)?;
    now.phase = RollbackPhase::Committed;
    journal.write(&now)?;
    watch.after("committed")?;
    finish(now, journal, watch)
}

/// Gives this machine's word, if it is the one to decide.
fn decide(now: &RollbackState, journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    let leads = now.together.as_ref().is_some_and(|together| together.leads);
    if leads && !journal.decided(&now.session)? {
        journal.decide(&now.session)?;
        watch.after("decided")?;
    }
    Ok(())
}

fn finish(mut now: RollbackState, journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    // One that comes again has taken its word back.
    decide(&now, journal, watch)?;
    steps::forward(&now, watch)?;
    now.phase = RollbackPhase::Done;
    journal.write(&now)?;
    watch.after("done")?;
    // It is done, whatever stays behind: a look says why.
    let _ = nested::bring(&now, journal, Ground::Running, watch);
    Ok(())
}

fn abort(now: &RollbackState, journal: &Journal<'_>, state: &StateDir) -> Result<(), AgentError> {
    steps::drop_incoming(now)?;
    records::remember(state, &now.records)?;
    journal.end()
}

/// Puts the old trees back in place; with `returned` the machine does it by itself.
fn cancel(
    mut now: RollbackState,
    mut returned: Option<Returned>,
    journal: &Journal<'_>,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    if returned.is_some() || is_live_used(&now) || away::went(journal)? {
        // Whoever works on the new trees goes on with that until the restart, whoever worked on what went at once may have unmounted
        // it since, and what nobody asked for is told until somebody confirms.
        journal.keep()?;
    }
    let tops = now.members.iter().map(top_of).collect::<Result<Vec<Top>, _>>()?;
    match (carried::carry_back(&now, &tops), &mut returned) {
        (Ok(()), _) => {}
        // Nobody is there to mend it, and the trees from before have what belongs to the machine as it was then.
        (Err(error), Some(returned)) => {
            returned.why = format!(
                "{}; what changed of its keys and users since did not come along: {error}",
                returned.why
            );
        }
        (Err(error), None) => return Err(error),
    }
    for top in &tops {
        top.sync().map_err(|error| AgentError::io("cannot sync the trees from before", &error))?;
    }
    now.records = records::at_the_end(state, &now.records)?;
    let by_itself = |trial| Some(Trial { returned: Some(returned?), failed: None, ..trial });
    now.trial = now.trial.and_then(by_itself);
    now.phase = RollbackPhase::Cancelling;
    journal.write(&now)?;
    watch.after("cancelling")?;
    put_back(now, journal, state, watch)
}

fn put_back(
    mut now: RollbackState,
    journal: &Journal<'_>,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    if now.together.as_ref().is_some_and(|together| together.leads) {
        // A machine that waits for the word would go back alone.
        journal.revoke(&now.session)?;
        watch.after("revoked")?;
    }
    steps::back(&now, watch)?;
    now.trial = now.trial.map(|trial| Trial { failed: None, ..trial });
    now.phase = RollbackPhase::Cancelled;
    journal.write(&now)?;
    watch.after("cancelled")?;
    tidy(&now, journal, state, watch)
}

/// Removes what a cancelled rollback left, unless something still works on it, or has and nobody asked for it to go. The old
/// tree may find its records of before only after a restart.
fn tidy(
    now: &RollbackState,
    journal: &Journal<'_>,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    records::remember(state, &now.records)?;
    nested::bring(now, journal, Ground::Running, watch)?;
    if !in_use(now).is_empty()
        || !reached(now).is_empty()
        || journal.keeps()?
        || nested::none_is_left(now).is_err()
    {
        return Ok(());
    }
    for member in &now.members {
        steps::remove(&top_of(member)?, member, &Names::of(now, member).cancelled, &member.new_uuid)?;
    }
    journal.end()
}

/// Removes the trees that are not in place, unless something still works on one.
fn confirm(
    stamp: UtcStamp,
    journal: &Journal<'_>,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<RollbackLook, AgentError> {
    let mut found = look(journal)?;
    let Some(now) = &mut found.state else {
        return Err(AgentError::failed("there is no rollback to confirm"));
    };
    if !found.in_use.is_empty() || !found.reached.is_empty() {
        return Ok(found);
    }
    if let Some(how) = found.moved {
        return Err(AgentError::failed(how));
    }
    if now.on_trial().is_some() {
        // Whatever stands in the way of the rest: somebody has confirmed it.
        now.trial = None;
        journal.write(now)?;
        watch.after("stays")?;
    }
    let now = &*now;
    let kept = match now.phase {
        RollbackPhase::Done | RollbackPhase::Cancelled => {
            // Once the old trees begin to go there is no way back, and none goes with another one inside.
            nested::bring(now, journal, Ground::Running, watch)?;
            nested::none_is_left(now)?;
            let tops = now.members.iter().map(top_of).collect::<Result<Vec<Top>, _>>()?;
            let trees = beside(now, &tops)?;
            keep_beside(trees, now, stamp, journal)?
        }
        RollbackPhase::Confirmed => None,
        phase => return Err(AgentError::failed(format!("the rollback is {}", word(phase)))),
    };
    watch.after("kept")?;
    if now.phase == RollbackPhase::Cancelled {
        journal.keep_no_more()?;
        tidy(now, journal, state, watch)?;
    } else {
        // From here on there is no way back: what is left of the old trees would not be all of them.
        let confirmed = RollbackState { phase: RollbackPhase::Confirmed, ..now.clone() };
        journal.write(&confirmed)?;
        watch.after("confirmed")?;
        let_go(&confirmed, journal, watch)?;
    }
    Ok(RollbackLook { kept, ..RollbackLook::default() })
}

/// Removes the old trees.
fn let_go(now: &RollbackState, journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    nested::bring(now, journal, Ground::Running, watch)?;
    for member in &now.members {
        let top = top_of(member)?;
        steps::remove(&top, member, &Names::of(now, member).replaced, &member.old_uuid)?;
        watch.after("removed")?;
    }
    journal.end()
}

/// Finds the trees that are not in place.
fn beside(now: &RollbackState, tops: &[Top]) -> Result<Vec<SubvolumeFact>, AgentError> {
    let mut trees = Vec::new();
    for (member, top) in now.members.iter().zip(tops) {
        let Names { replaced, cancelled, .. } = Names::of(now, member);
        let (name, wanted) = match now.phase {
            RollbackPhase::Cancelled => (cancelled, &member.new_uuid),
            _ => (replaced, &member.old_uuid),
        };
        let failed = |error: io::Error| AgentError::io(format!("cannot look up `{name}`"), &error);
        match top.look(&name).map_err(failed)? {
            Some((uuid, id)) if uuid == *wanted => trees.push(SubvolumeFact {
                name: member.name.clone(),
                mount_point: top.path(&name).as_path().into(),
                uuid,
                id,
                fs_uuid: member.fs_uuid.clone(),
                generation: 0,
            }),
            _ => {}
        }
    }
    Ok(trees)
}

/// Keeps what was written to the trees that are not in place, up to the restart that left them, as a set.
fn keep_beside(
    trees: Vec<SubvolumeFact>,
    now: &RollbackState,
    stamp: UtcStamp,
    journal: &Journal<'_>,
) -> Result<Option<SetId>, AgentError> {
    let request = TakeSet {
        session: now.session.clone(),
        stamp,
        kind: SnapshotKind::PreRollback,
        snapshot_dir: journal.snapshot_dir()?,
        subvolumes: Vec::new(),
    };
    let note = format!(
        "what was written to the former trees after rollback {}{}",
        now.session,
        if now.phase == RollbackPhase::Cancelled { " was taken back" } else { "" }
    );
    Ok(keep_trees(trees, &request, note)?.map(|set| set.id()))
}
