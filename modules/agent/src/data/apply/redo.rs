//! Brings sessions that were cut off to their end.
//!
//! A journal with its commit record is finished: each step finds out how far it came and goes on, so a redo that is cut off
//! is simply done again. Without the record nothing had changed, and staging is dropped. Only the holder of the machine's
//! lock may do this: a session that is under way has an entry, too.

use std::collections::HashMap;

use super::commit::{Committed, Committer};
use super::entry::{self, Entry, Phase};
use super::finish::{drop_all, finish, settled, tidying};
use super::journal::{Record, read_journal};
use super::part::Part;
use super::plan::Step;
use super::planner::Planner;
use super::retire::{expected, expected_of, rescue, staged_of};
use super::watch::Watch;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, ApplyReport, Patience, Redone, RedoneHow};

/// Brings all sessions that were cut off to their end, and returns what nobody has been told yet. The caller holds the
/// machine's lock.
///
/// # Errors
/// If the machine state cannot be read or written.
pub fn redo(state: &StateDir, patience: Patience, watch: &dyn Watch) -> Result<Vec<Redone>, AgentError> {
    state.sweep();
    let mut pending = Vec::new();
    for entry in Entry::all(state)? {
        match entry {
            Ok(mut entry) => pending.extend(redo_one(state, &mut entry, patience, watch)?),
            Err(key) => forget(state, &key)?,
        }
    }
    let mut all = entry::results(state)?;
    all.extend(pending);
    Ok(all)
}

/// Gives up a session whose entry this program cannot read, and notes it; staging without an entry is swept by the next
/// session.
fn forget(state: &StateDir, key: &str) -> Result<(), AgentError> {
    // No version names an entry by anything but its session.
    if let Some(Ok(session)) = key.rsplit('/').next().map(str::parse) {
        let why = format!(
            "`{}` was written by another version of pc-switcher and cannot be read by this one; what it had staged is \
             swept by the next sync, which plans anew",
            state.root().join(key).display()
        );
        let (how, report) = (RedoneHow::GivenUp(why), ApplyReport::default());
        entry::put_result(state, &Redone { session, how, report })?;
    }
    state.put(key, None)
}

/// Drops what an older session left in the way of a new one whose plan replaces it.
pub(super) fn make_way(state: &StateDir) -> Result<(), AgentError> {
    for mut entry in Entry::all(state)?.into_iter().flatten() {
        give_up(state, &mut entry, "a new sync came first".into())?;
    }
    Ok(())
}

/// Returns the result if the session is still pending.
fn redo_one(
    state: &StateDir,
    entry: &mut Entry,
    patience: Patience,
    watch: &dyn Watch,
) -> Result<Option<Redone>, AgentError> {
    let why = match settle(state, entry, watch) {
        Ok(()) => return Ok(None),
        Err(error) => error.message,
    };
    match patience {
        Patience::GiveUp => give_up(state, entry, why).map(|()| None),
        Patience::TryAgainLater => Ok(Some(Redone {
            session: entry.session.clone(),
            how: RedoneHow::Pending(why),
            report: ApplyReport::default(),
        })),
    }
}

fn settle(state: &StateDir, entry: &mut Entry, watch: &dyn Watch) -> Result<(), AgentError> {
    let found = entry.parts.iter().map(|(root, mtime)| Part::reopen(root, *mtime, &entry.session));
    let found = found.collect::<Result<Vec<_>, _>>()?;
    // A commit may be half done, and who removes staging says so before: nothing is to be forgotten, or set where a disk is missing.
    // Only who drops a session on a full disk removes its journal first.
    let is_dropped = match found.first() {
        Some(Some(first)) => {
            read_journal(&first.stage).map_err(|error| AgentError::io("journal", &error))?.is_none()
        }
        _ => false,
    };
    if entry.phase == Phase::Open
        && !is_dropped
        && let Some(gone) = found.iter().position(Option::is_none)
    {
        let root = &entry.parts[gone].0.root;
        return Err(AgentError::failed(format!("what it staged below `{root}` is gone; is that mounted?")));
    }
    let parts: Vec<(usize, &Part)> =
        found.iter().enumerate().filter_map(|(index, part)| Some((index, part.as_ref()?))).collect();
    let journal = match found.first() {
        Some(Some(first)) if entry.phase != Phase::Staging => read(first, entry.parts.len())?,
        _ => None,
    };
    for (index, (root, mtime)) in entry.parts.iter().enumerate().filter(|(index, _)| found[*index].is_none())
    {
        let meta = match &entry.phase {
            Phase::Done(roots) => roots.iter().find(|root| root.part == index),
            Phase::Open | Phase::Dropping | Phase::Staging => None,
        };
        Part::end_root(root, *mtime, meta)?;
    }
    if let Phase::Done(roots) = entry.phase.clone() {
        let mut report =
            entry::result_of(state, &entry.session)?.map_or_else(ApplyReport::default, |old| old.report);
        let expected = journal.map(|journal| expected(&journal.steps)).unwrap_or_default();
        entry::put_result(state, &finished(entry, &report))?;
        finish(&parts, &expected, entry, roots, state, watch, &mut report)?;
        return entry::put_result(state, &finished(entry, &report));
    }
    let Some(journal) = journal.filter(|_| entry.phase == Phase::Open) else {
        drop_all(&parts, &HashMap::new(), entry, state)?;
        let (session, how) = (entry.session.clone(), RedoneHow::Dropped);
        entry::put_result(state, &Redone { session, how, report: ApplyReport::default() })?;
        return entry.remove(state);
    };
    let whole: Vec<Part> = found.into_iter().flatten().collect();
    let Committed { mut report, roots } =
        Committer::new(&whole, &journal.staged, true, watch).run(&journal.steps, &|_| ());
    if let Some(error) = report.failed {
        return Err(error);
    }
    let expected = expected(&journal.steps);
    let parts: Vec<(usize, &Part)> = whole.iter().enumerate().collect();
    entry::put_result(state, &finished(entry, &report))?;
    watch.after("result")?;
    finish(&parts, &expected, entry, roots, state, watch, &mut report)?;
    entry::put_result(state, &finished(entry, &report))
}

fn finished(entry: &Entry, report: &ApplyReport) -> Redone {
    Redone { session: entry.session.clone(), how: RedoneHow::Finished, report: report.clone() }
}

/// Removes what can be reached of a session that cannot be finished.
fn give_up(state: &StateDir, entry: &mut Entry, why: String) -> Result<(), AgentError> {
    let found: Vec<Option<Part>> = entry
        .parts
        .iter()
        .map(|(root, mtime)| Part::reopen(root, *mtime, &entry.session).ok().flatten())
        .collect();
    let parts: Vec<(usize, &Part)> =
        found.iter().enumerate().filter_map(|(index, part)| Some((index, part.as_ref()?))).collect();
    let first = found.first().and_then(Option::as_ref);
    let expected = first.map(|first| expected_of(&first.stage)).unwrap_or_default();
    let staged = match entry.phase {
        Phase::Staging => None,
        _ => first.map_or_else(|| Some(HashMap::new()), |first| staged_of(&first.stage)),
    };
    let mut report = ApplyReport::default();
    let rescued =
        staged.iter().flat_map(|staged| parts.iter().map(move |(_, part)| (part, staged))).try_for_each(
            |(part, staged)| rescue(&part.stage, &part.undo, staged).map_err(|error| tidying(part, error)),
        );
    // Before anything says that this is being dropped: a power cut must not bring back what was in staging.
    let rescued = rescued.and_then(|()| settled(&parts));
    match rescued.and_then(|()| drop_all(&parts, &expected, entry, state)) {
        Ok(kept) => report.conflicts = kept,
        // The next session sweeps it when it opens its parts.
        Err(error) => report.warnings.push(error.message),
    }
    let how = RedoneHow::GivenUp(why);
    entry::put_result(state, &Redone { session: entry.session.clone(), how, report })?;
    entry.remove(state)
}

/// A journal that was committed.
pub(super) struct Journal {
    pub(super) steps: Vec<Step>,
    staged: HashMap<u64, u64>,
}

/// Reads the journal in the first part's staging; `None` if the session was not committed.
fn read(first: &Part, parts: usize) -> Result<Option<Journal>, AgentError> {
    let failed = |error: std::io::Error| AgentError::io("journal", &error);
    let records = read_journal(&first.stage).map_err(failed)?;
    records.map_or(Ok(None), |records| follow(records, parts))
}

/// Follows the records of a journal; `None` if the session was not committed.
pub(super) fn follow(
    records: impl Iterator<Item = std::io::Result<Record>>,
    parts: usize,
) -> Result<Option<Journal>, AgentError> {
    let (mut planner, mut staged, mut committed) = (Planner::new(parts), HashMap::new(), None);
    for record in records {
        match record.map_err(|error| AgentError::io("journal", &error))? {
            Record::Ops { part, ops, .. } => {
                for op in ops {
                    planner.step(part.into(), op)?;
                }
            }
            Record::Staged(inodes) => staged.extend(inodes),
            Record::Commit { ops } => committed = Some(ops),
            Record::Begin { .. } | Record::Left(_) => {}
        }
    }
    match committed {
        Some(ops) if ops == planner.ops => Ok(Some(Journal { steps: planner.into_steps(), staged })),
        _ => Ok(None),
    }
}
