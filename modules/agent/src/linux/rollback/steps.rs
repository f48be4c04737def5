//! The steps of a rollback. Each finds out by uuids how far it came, so all may be done again after a crash.

use std::io;

use super::top::{Top, device_of};
use crate::data::apply::Watch;
use crate::proto::{AgentError, RollbackMember, RollbackState};

/// Where the trees of one member stand.
pub(super) struct Names {
    /// In place.
    pub(super) live: String,
    /// The new tree before it is put in place.
    pub(super) incoming: String,
    /// The old tree after that.
    pub(super) replaced: String,
    /// The new tree after the old one was put back.
    pub(super) cancelled: String,
}

impl Names {
    pub(super) fn of(state: &RollbackState, member: &RollbackMember) -> Self {
        let beside = |word: &str| format!("{}.{word}-{}", member.name, state.session);
        Self {
            live: member.name.to_string(),
            incoming: beside("incoming"),
            replaced: beside("replaced"),
            cancelled: beside("cancelled"),
        }
    }
}

/// Opens the top level of a member's file system.
pub(super) fn top_of(member: &RollbackMember) -> Result<Top, AgentError> {
    let device = device_of(&member.fs_uuid)?.ok_or_else(|| {
        AgentError::failed(format!(
            "the file system of `{}` ({}) is not mounted",
            member.name, member.fs_uuid
        ))
    })?;
    Top::mount(&device)
        .map_err(|error| AgentError::io(format!("cannot reach the top level of `{device}`"), &error))
}

fn failed<'a>(what: &'a str, member: &'a RollbackMember) -> impl Fn(io::Error) -> AgentError + 'a {
    move |error| AgentError::io(format!("cannot {what} `{}`", member.name), &error)
}

/// Puts the tree `wanted`, which stands at `beside`, in the place of `there`, which then stands at `after`.
fn swap(
    top: &Top,
    member: &RollbackMember,
    (live, beside, after): (&str, &str, &str),
    (there, wanted): (&str, &str),
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    let failed = failed("put another tree in the place of", member);
    let uuid = |name: &str| top.look(name).map(|found| found.map(|(uuid, _)| uuid));
    let in_place = uuid(live).map_err(&failed)?;
    if in_place.as_deref() != Some(wanted) {
        let is_ready =
            in_place.as_deref() == Some(there) && uuid(beside).map_err(&failed)?.as_deref() == Some(wanted);
        if !is_ready {
            return Err(AgentError::failed(format!(
                "`{live}` is neither the tree from before nor the one to come: somebody has put another in its place"
            )));
        }
        top.exchange(live, beside).map_err(&failed)?;
        watch.after("exchange")?;
    }
    if uuid(beside).map_err(&failed)?.as_deref() == Some(there) {
        top.rename(beside, after).map_err(&failed)?;
        watch.after("rename")?;
    }
    top.sync().map_err(&failed)
}

/// Puts the new trees in place.
pub(super) fn forward(state: &RollbackState, watch: &dyn Watch) -> Result<(), AgentError> {
    for member in &state.members {
        let (names, top) = (Names::of(state, member), top_of(member)?);
        // One that was taken back stands there, and comes again.
        let was_back = top.look(&names.cancelled).map_err(failed("look for", member))?.is_some();
        let beside = if was_back { &names.cancelled } else { &names.incoming };
        let way = (names.live.as_str(), beside.as_str(), names.replaced.as_str());
        swap(&top, member, way, (&member.old_uuid, &member.new_uuid), watch)?;
    }
    Ok(())
}

/// Puts the old trees back in place.
pub(super) fn back(state: &RollbackState, watch: &dyn Watch) -> Result<(), AgentError> {
    for member in &state.members {
        let names = Names::of(state, member);
        let way = (names.live.as_str(), names.replaced.as_str(), names.cancelled.as_str());
        swap(&top_of(member)?, member, way, (&member.new_uuid, &member.old_uuid), watch)?;
    }
    Ok(())
}

/// Removes new trees that were never put in place.
pub(super) fn drop_incoming(state: &RollbackState) -> Result<(), AgentError> {
    for member in &state.members {
        let top = top_of(member)?;
        remove(&top, member, &Names::of(state, member).incoming, &member.new_uuid)?;
    }
    Ok(())
}

/// Removes a tree beside the live one, if it is the one of this uuid; while it is being made it has none yet.
pub(super) fn remove(top: &Top, member: &RollbackMember, name: &str, uuid: &str) -> Result<(), AgentError> {
    let failed = failed("remove a former tree of", member);
    match top.look(name).map_err(&failed)? {
        Some((found, id)) if uuid.is_empty() || found == uuid => {
            top.destroy(id).map_err(&failed)?;
            top.sync().map_err(&failed)
        }
        _ => Ok(()),
    }
}
