//! A rollback that nobody asked for: of a machine that does not start any more, before `/` is mounted (docs/adr/0022).
//!
//! It is the rollback that people ask for, by the same steps and with the same journal, so it is told, taken back and confirmed like
//! one. What is different: nobody is there, the tree in place is broken, and it is on no trial, since the way back from it would
//! lead to what does not start.

use pc_switcher_contract::{BytePath, SetId, SubvolumeName, UtcStamp};

use super::journal::Journal;
use super::nested::{self, Ground};
use super::top::{Top, device_of};
use super::{cancel, commit, not_yet, prepare, redo, stray, under_way};
use crate::data::apply::Watch;
use crate::linux::btrfs::KernelBtrfs;
use crate::linux::finder::Finder;
use crate::linux::mounts::Mounts;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, Fallback, Returned, RollbackPhase, RollbackState, RollbackWish};

/// How the one rollback of a machine stands, with nothing left that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stand {
    /// There is none.
    Free,
    /// One is on trial.
    OnTrial,
    /// It was cut off, and trees were exchanged just now.
    Settled(String),
    /// A fallback stands, which went to this set.
    Fallen(Fallback, SetId),
    /// One stands in the way.
    Taken(String),
}

/// Brings to its end what was cut off, and looks how a rollback stands; one that only its journal beside these snapshots knows of counts
/// if the trees in place are its own.
///
/// # Errors
/// If the journal cannot be read, or the machine does not let us.
pub(crate) fn settle(
    snapshot_dir: &BytePath,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<Stand, AgentError> {
    let journal = Journal::of(state);
    if stray::settle(&journal, snapshot_dir)?.is_some() {
        journal.begin(snapshot_dir)?;
    }
    let before = journal.read()?;
    if let Some(partner) = before.as_ref().and_then(RollbackState::waits_for) {
        return Ok(Stand::Taken(format!("a rollback waits for what {partner} decided")));
    }
    redo(state, watch)?;
    bring(&journal, watch);
    let after = journal.read()?;
    let exchanged = before.filter(|before| match before.phase {
        RollbackPhase::Committed | RollbackPhase::Cancelling => true,
        // It had been decided, and only the journal did not say so.
        RollbackPhase::Prepared => after.as_ref().is_some_and(|after| after.phase == RollbackPhase::Done),
        _ => false,
    });
    Ok(match (after, exchanged) {
        (Some(RollbackState { fallback: Some(fallback), phase: RollbackPhase::Done, to, .. }), _) => {
            Stand::Fallen(fallback, to)
        }
        (_, Some(before)) => Stand::Settled(format!("rollback {} was brought to its end", before.session)),
        (None, None) => Stand::Free,
        (Some(found), None) if found.on_trial().is_some() => Stand::OnTrial,
        (Some(found), None) => Stand::Taken(not_yet(&found)),
    })
}

/// Returns the uuids of the trees that stand under these names now, whatever is mounted.
///
/// # Errors
/// If one cannot be found.
pub(crate) fn in_place<'a>(
    names: impl Iterator<Item = &'a SubvolumeName>,
) -> Result<Vec<String>, AgentError> {
    let mounts = Mounts::read()?;
    let finder = Finder::new(&KernelBtrfs, &mounts, &[])?;
    let found = |name: &SubvolumeName| -> Result<String, AgentError> {
        let none = || AgentError::failed(format!("there is no `{name}`"));
        let device = device_of(&finder.by_name(name).ok_or_else(none)?.fs_uuid)?.ok_or_else(none)?;
        let top = Top::mount(&device).and_then(|top| top.look(name.as_str()));
        let top = top.map_err(|error| AgentError::io(format!("cannot look up `{name}`"), &error))?;
        top.map(|(uuid, _)| uuid).ok_or_else(none)
    };
    names.map(found).collect()
}

/// Puts the trees of a set in place. The state of now was kept before, as far as it could be.
///
/// # Errors
/// If something stands in the way, or the machine does not let us; then nothing is changed, or the journal says how far it came.
pub(crate) fn fall_back(wish: &RollbackWish, state: &StateDir, watch: &dyn Watch) -> Result<(), AgentError> {
    let journal = Journal::of(state);
    prepare(wish, &journal, state, watch)?;
    commit(under_way(&journal, RollbackPhase::Prepared)?, &journal, watch)?;
    bring(&journal, watch);
    Ok(())
}

/// Has subvolumes inside move along at once: nobody works on any tree yet, though we have mounted them ourselves. What fails is
/// tried again at boot.
fn bring(journal: &Journal<'_>, watch: &dyn Watch) {
    let _ =
        journal.read().map(|found| found.map(|found| nested::bring(&found, journal, Ground::Still, watch)));
}

/// Takes back a rollback on trial.
///
/// # Errors
/// If there is none, or the machine does not let us.
pub(crate) fn take_back(why: String, state: &StateDir, watch: &dyn Watch) -> Result<(), AgentError> {
    let journal = Journal::of(state);
    let found = under_way(&journal, RollbackPhase::Done)?;
    if found.on_trial().is_none() {
        return Err(AgentError::failed(not_yet(&found)));
    }
    let returned = Returned { at: UtcStamp::new(jiff::Timestamp::now()), why };
    cancel(found, Some(returned), &journal, state, watch)?;
    bring(&journal, watch);
    Ok(())
}
