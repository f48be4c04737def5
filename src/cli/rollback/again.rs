//! The same rollback once more: it was done, and waits for a restart, or that nobody uses the former trees any more.

use pc_switcher_agent::proto::{RollbackLook, RollbackOrder, RollbackPhase};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{ModuleError, SessionId, SetId, SubvolumeName};

use super::{Done, To, choose};
use crate::cli::snapshots::Found;

/// Returns the rollbacks that wait, one per machine; nobody has worked on what they put in place.
pub(super) async fn waiting(agents: &[Agent]) -> Result<Vec<Option<SessionId>>, ModuleError> {
    let mut all = Vec::new();
    for agent in agents {
        let look = agent.rollback(RollbackOrder::Look).await?;
        let waits = look.state.filter(|state| state.phase == RollbackPhase::Done && !look.in_use.is_empty());
        all.push(waits.map(|state| state.session));
    }
    Ok(all)
}

/// Returns how those that wait stand now, if what is asked for is what they have done.
pub(super) async fn of(
    agents: &[Agent],
    to: &To,
    waiting: &[Option<SessionId>],
    config: &BtrfsSnapshotsConfig,
) -> Result<Option<Vec<Done>>, ModuleError> {
    let what = to.what.as_deref().unwrap_or_default();
    let mut all = Vec::new();
    for (agent, waiting) in agents.iter().zip(waiting) {
        let Some(session) = waiting.as_ref().filter(|_| !to.plan && !to.boot_once) else { return Ok(None) };
        let sets = Found::read(agent, config).await?;
        let Ok((set, subvolumes)) = choose::choose(&sets, what, &to.subvolumes) else { return Ok(None) };
        let look = agent.rollback(RollbackOrder::Look).await?;
        if !is_it(&look, session, &set.id(), &subvolumes) {
            return Ok(None);
        }
        all.push(Done::of(agent, look));
    }
    Ok(Some(all))
}

/// Whether a rollback is the one that waited, to this set, of these subvolumes.
fn is_it(look: &RollbackLook, session: &SessionId, to: &SetId, subvolumes: &[SubvolumeName]) -> bool {
    look.state.as_ref().is_some_and(|state| {
        let mut went: Vec<&SubvolumeName> = state.members.iter().map(|member| &member.name).collect();
        let mut wanted: Vec<&SubvolumeName> = subvolumes.iter().collect();
        went.sort();
        wanted.sort();
        state.session == *session && state.to == *to && went == wanted
    })
}
