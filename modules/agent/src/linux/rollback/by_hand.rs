//! Trees that somebody moved himself, as from a live system where the machine did not start any more (docs/way-back.md): what the journal
//! says is not what stands there.
//!
//! Whoever moved all trees from before back into place has taken the rollback back. Whoever moved some of them is asked: neither of the two
//! states is wholly in place, and only a person knows which one is meant.

use super::carried;
use super::journal::Journal;
use super::records;
use super::steps::{Names, top_of};
use super::top::Top;
use crate::data::apply::Watch;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, RollbackMember, RollbackPhase, RollbackState};

/// What stands under the name of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// The tree from before.
    Before,
    /// That of the rollback.
    New,
    /// Another one, or none.
    Another,
}

/// What somebody did to the trees of a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Moved {
    /// Nothing, or it cannot be told.
    Nothing,
    /// All from before are back in place.
    Back,
    /// Some are: the text says which.
    Partly(String),
}

fn stands(member: &RollbackMember) -> Result<Stands, AgentError> {
    let found = top_of(member)?.look(member.name.as_str());
    let found = found.map_err(|error| AgentError::io(format!("cannot look up `{}`", member.name), &error))?;
    Ok(match found {
        Some((uuid, _)) if uuid == member.old_uuid => Stands::Before,
        Some((uuid, _)) if uuid == member.new_uuid => Stands::New,
        _ => Stands::Another,
    })
}

/// Whether the tree of this uuid stands under a name of its own.
fn is_at(state: &RollbackState, member: &RollbackMember, uuid: &str, name: impl Fn(Names) -> String) -> bool {
    let found = top_of(member).ok().and_then(|top| top.look(&name(Names::of(state, member))).ok().flatten());
    found.is_some_and(|(found, _)| found == uuid)
}

fn is_cancelled(state: &RollbackState, member: &RollbackMember) -> bool {
    is_at(state, member, &member.new_uuid, |names| names.cancelled)
}

fn is_incoming(state: &RollbackState, member: &RollbackMember) -> bool {
    is_at(state, member, &member.new_uuid, |names| names.incoming)
}

/// Whether the tree from before stands where the exchange puts it, or still where that left it.
fn is_kept(state: &RollbackState, member: &RollbackMember) -> bool {
    is_at(state, member, &member.old_uuid, |names| names.replaced) || was_left(state, member)
}

fn was_left(state: &RollbackState, member: &RollbackMember) -> bool {
    is_at(state, member, &member.old_uuid, |names| names.incoming)
}

/// Finds out what somebody did to the trees of a rollback that is not confirmed.
fn look(state: &RollbackState, journal: &Journal<'_>) -> Moved {
    let all: Result<Vec<Stands>, AgentError> = state.members.iter().map(stands).collect();
    let Ok(all) = all else { return Moved::Nothing };
    let is_back = !all.is_empty() && all.iter().all(|one| *one == Stands::Before);
    match state.phase {
        RollbackPhase::Done if is_back => Moved::Back,
        RollbackPhase::Done if all.contains(&Stands::Before) && all.contains(&Stands::New) => {
            Moved::Partly(explain(state, &all))
        }
        // It had begun to put the new trees in place, and one stands where nobody but a person puts it: who moved that back wants the others
        // back as well. One that comes again does so from there, too, and is noted as one that was worked on.
        RollbackPhase::Committed if journal.keeps().is_ok_and(|keeps| !keeps) => {
            let members = || state.members.iter().zip(&all);
            let by_hand = |(member, stands): (&RollbackMember, &Stands)| {
                *stands == Stands::Before && is_cancelled(state, member)
            };
            let can_go = |(member, stands): (&RollbackMember, &Stands)| match stands {
                Stands::Before => is_cancelled(state, member) || is_incoming(state, member),
                Stands::New => is_kept(state, member),
                Stands::Another => false,
            };
            if members().any(by_hand) && members().all(can_go) { Moved::Back } else { Moved::Nothing }
        }
        _ => Moved::Nothing,
    }
}

fn explain(state: &RollbackState, all: &[Stands]) -> String {
    let names = |wanted: Stands| {
        let those = state.members.iter().zip(all).filter(|(_, stands)| **stands == wanted);
        those.map(|(member, _)| format!("`{}`", member.name)).collect::<Vec<_>>().join(", ")
    };
    format!(
        "of rollback {} the tree from before was put back in place by hand for {}, and not for {}: `pc-switcher rollback cancel` puts back \
         the rest",
        state.session,
        names(Stands::Before),
        names(Stands::New)
    )
}

/// Reads a rollback as it stands: one that somebody has taken back is taken back, whatever its journal says until it is next written. With
/// it, what to do where only some of the trees are.
///
/// # Errors
/// If the journal cannot be read.
pub(super) fn read(journal: &Journal<'_>) -> Result<(Option<RollbackState>, Option<String>), AgentError> {
    let Some(state) = journal.read()? else { return Ok((None, None)) };
    Ok(match look(&state, journal) {
        Moved::Nothing => (Some(state), None),
        Moved::Partly(how) => (Some(state), Some(how)),
        Moved::Back => (Some(taken_back(state, RollbackPhase::Cancelled)), None),
    })
}

fn taken_back(state: RollbackState, phase: RollbackPhase) -> RollbackState {
    // Nobody has to confirm any more what is not in place.
    RollbackState { phase, trial: None, fallback: None, ..state }
}

/// Writes down that a rollback was taken back, if somebody has done that, and returns it as it is then: what remains is what every other
/// one takes. The caller holds the machine's lock.
///
/// # Errors
/// If the journal cannot be written, or what the machine remembers of its syncs not be read.
pub(super) fn settle(
    state: RollbackState,
    journal: &Journal<'_>,
    own: &StateDir,
    watch: &dyn Watch,
) -> Result<RollbackState, AgentError> {
    if look(&state, journal) != Moved::Back {
        return Ok(state);
    }
    for member in &state.members {
        let Names { incoming, cancelled, replaced, .. } = Names::of(&state, member);
        let to = match (is_incoming(&state, member), was_left(&state, member)) {
            (true, _) => cancelled,
            (_, true) => replaced,
            _ => continue,
        };
        let top = top_of(member)?;
        let renamed = top.rename(&incoming, &to).and_then(|()| top.sync());
        renamed.map_err(|error| AgentError::io(format!("cannot rename `{incoming}` to `{to}`"), &error))?;
        watch.after("by hand: name")?;
    }
    // Whoever comes after a crash must not take it for one that comes again.
    if state.phase == RollbackPhase::Committed {
        journal.write(&taken_back(state.clone(), RollbackPhase::Done))?;
        watch.after("by hand: done")?;
    }
    // What was done on the new trees goes when that is asked for, and never before.
    journal.keep()?;
    watch.after("by hand: kept")?;
    let records = records_of(&state, own)?;
    let now = RollbackState { records, ..taken_back(state, RollbackPhase::Cancelling) };
    journal.write(&now)?;
    watch.after("by hand")?;
    Ok(now)
}

/// Returns what the records become, by the state of the new trees, in which a sync may have come since.
fn records_of(state: &RollbackState, own: &StateDir) -> Result<Vec<(String, String)>, AgentError> {
    let tops = state.members.iter().map(top_of).collect::<Result<Vec<Top>, _>>()?;
    match carried::state_put_away(state, &tops, own.root()).filter(|place| place.is_dir()) {
        Some(place) => records::at_the_end(&StateDir::new(place), &state.records),
        None => records::at_the_end(own, &state.records),
    }
}
