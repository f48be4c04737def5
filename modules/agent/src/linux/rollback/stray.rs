//! Journals beside the snapshots that the machine's own state does not name: it was lost, or somebody has put another tree in place
//! that never had it, by hand or by installing the machine anew.
//!
//! Only a journal of trees that are in place is this machine's still. One of trees that somebody has replaced can be neither carried
//! out nor taken back; it is set aside, under another name, so that it keeps nobody from going back, the fallback at boot least of all.

use std::fs;
use std::io;

use pc_switcher_contract::BytePath;

use super::journal::{self, Journal, POINTER};
use super::steps::{Names, top_of};
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::linux::state::STATE_PATH;
use crate::proto::{
    AgentError, RollbackMember, RollbackPhase, RollbackState, RollbackWish, StrayJournal, Unnamed,
};

/// Whether somebody has put another tree in the place of one that a rollback is about, or brought the journal from another disk: what
/// goes back lies where its snapshots do. `false` where that cannot be told.
fn is_replaced(state: &RollbackState, snapshot_dir: &BytePath) -> bool {
    let here = KernelBtrfs.fs_uuid(snapshot_dir.as_path()).ok().map(|uuid| uuid.dashed());
    let is_elsewhere = |member: &RollbackMember| here.as_ref().is_some_and(|here| *here != member.fs_uuid);
    state.members.iter().any(is_elsewhere) || has_another_tree(state)
}

/// Whether another tree than the two of a rollback stands under one of its names, or none; `false` where that cannot be told.
fn has_another_tree(state: &RollbackState) -> bool {
    state.members.iter().any(|member| {
        let found = top_of(member).ok().and_then(|top| top.look(member.name.as_str()).ok());
        let is_either = |uuid: &String| [&member.old_uuid, &member.new_uuid].contains(&uuid);
        found.is_some_and(|found| !found.is_some_and(|(uuid, _)| is_either(&uuid)))
    })
}

/// Whether nothing stands under the name of a member, and one of its two trees beside it.
fn is_between(state: &RollbackState, member: &RollbackMember) -> bool {
    let Ok(top) = top_of(member) else { return false };
    let Names { live, incoming, replaced, cancelled } = Names::of(state, member);
    let is_tree = |name: &String| {
        let found = top.look(name).ok().flatten();
        found.is_some_and(|(uuid, _)| [&member.old_uuid, &member.new_uuid].contains(&&uuid))
    };
    top.look(&live).is_ok_and(|found| found.is_none()) && [incoming, replaced, cancelled].iter().any(is_tree)
}

/// Finds a journal of trees in place; one of trees that were replaced is set aside before. The caller holds the machine's lock.
///
/// # Errors
/// If a journal cannot be read or moved.
pub(super) fn settle(
    journal: &Journal<'_>,
    snapshot_dir: &BytePath,
) -> Result<Option<RollbackState>, AgentError> {
    match journal.stray(snapshot_dir)? {
        Some(found) if is_replaced(&found, snapshot_dir) => {
            aside(snapshot_dir, &found)?;
            Ok(None)
        }
        found => Ok(found),
    }
}

/// Reads the rollback that this machine knows of. Where somebody has put other trees in place since, its journal is set aside: it can be
/// neither carried out nor taken back, and would be tried for ever. The caller holds the machine's lock.
///
/// # Errors
/// If the journal cannot be read or moved.
pub(super) fn known(journal: &Journal<'_>) -> Result<Option<RollbackState>, AgentError> {
    let Some(state) = journal.read()? else { return Ok(None) };
    let is_due =
        matches!(state.phase, RollbackPhase::Committed | RollbackPhase::Done | RollbackPhase::Cancelling);
    // Who was cut off between two `mv` goes on with them.
    if !is_due || !has_another_tree(&state) || state.members.iter().any(|member| is_between(&state, member)) {
        return Ok(Some(state));
    }
    // A machine that waits for the word would go back alone.
    journal.revoke(&state.session)?;
    aside(&journal.snapshot_dir()?, &state)?;
    journal.forget()?;
    Ok(None)
}

fn aside(snapshot_dir: &BytePath, state: &RollbackState) -> Result<(), AgentError> {
    journal::set_aside(snapshot_dir, &state.session).map_err(|error| {
        AgentError::io(format!("cannot set the journal of rollback {} aside", state.session), &error)
    })
}

/// As [`settle`], and changes nothing.
///
/// # Errors
/// If a journal cannot be read.
pub(super) fn look(
    journal: &Journal<'_>,
    snapshot_dir: &BytePath,
) -> Result<Option<RollbackState>, AgentError> {
    Ok(journal.stray(snapshot_dir)?.filter(|found| !is_replaced(found, snapshot_dir)))
}

/// Returns all that nothing names.
///
/// # Errors
/// If a journal cannot be read.
pub(super) fn all(journal: &Journal<'_>, snapshot_dir: &BytePath) -> Result<Vec<StrayJournal>, AgentError> {
    let mut all = Vec::new();
    if let Some(found) = journal.stray(snapshot_dir)? {
        let why = if is_replaced(&found, snapshot_dir) { Unnamed::Replaced } else { Unnamed::Lost };
        all.push(told(&found, journal::place_of(snapshot_dir), why));
    }
    for (place, found) in journal::aside(snapshot_dir)? {
        all.push(told(&found, place, Unnamed::Aside));
    }
    Ok(all)
}

fn told(state: &RollbackState, place: BytePath, why: Unnamed) -> StrayJournal {
    let mut beside = Vec::new();
    for member in &state.members {
        let Names { incoming, replaced, cancelled, .. } = Names::of(state, member);
        let Ok(top) = top_of(member) else { continue };
        beside.extend(
            [incoming, replaced, cancelled].into_iter().filter(|name| matches!(top.look(name), Ok(Some(_)))),
        );
    }
    StrayJournal { session: state.session.clone(), place, why, beside }
}

/// Gives a file another name in its directory, if it is there.
pub(super) fn rename(dir: &std::path::Path, from: &str, to: &str) -> io::Result<()> {
    match fs::rename(dir.join(from), dir.join(to)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Says that nobody knows of a rollback any more but its journal.
pub(super) fn unknown(stray: &RollbackState, wish: &RollbackWish) -> String {
    let dir = &wish.snapshot_dir;
    format!(
        "rollback {} is not over by its journal in `{dir}/.pc-switcher/rollback`, of which this machine's own state says nothing: it was lost, \
         or somebody put another tree in place. `printf %s {dir} | sudo tee {STATE_PATH}/{POINTER}` has it known again, and then \
         `pc-switcher rollback status` says how it stands",
        stray.session
    )
}
