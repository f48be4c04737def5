//! The same rollback once more: it was done, and waits for a restart, or that nobody uses the former trees any more.

use pc_switcher_agent::proto::{Patience, RollbackLook, RollbackOrder, RollbackPhase};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{ModuleError, SessionId, SetId, SubvolumeName};

use super::{Done, To, choose, finished};
use crate::cli::snapshots::Found;

/// A rollback that was done on a machine before anything else was.
pub(super) struct Waiting {
    session: SessionId,
    /// Whether something of it waits still.
    is_waiting: bool,
}

/// Returns the rollbacks that were done, one per machine.
pub(super) async fn waiting(agents: &[Agent]) -> Result<Vec<Option<Waiting>>, ModuleError> {
    let mut all = Vec::new();
    for agent in agents {
        all.push(Waiting::of(agent.rollback(RollbackOrder::Look).await?));
    }
    Ok(all)
}

impl Waiting {
    fn of(look: RollbackLook) -> Option<Self> {
        let is_waiting = !look.in_use.is_empty() || !look.not_mounted.is_empty();
        let done = look.state.filter(|state| state.phase == RollbackPhase::Done);
        done.map(|state| Self { session: state.session, is_waiting })
    }
}

/// Returns the sessions if all machines have one and something waits: on one of two it may be in place already.
fn sessions(waiting: &[Option<Waiting>]) -> Option<Vec<&SessionId>> {
    let all: Vec<&Waiting> = waiting.iter().map(Option::as_ref).collect::<Option<_>>()?;
    all.iter().any(|one| one.is_waiting).then(|| all.iter().map(|one| &one.session).collect())
}

/// Has those that wait go on if what is asked for is what they have done, and nobody uses them any more; returns how they stand then.
pub(super) async fn of(
    agents: &[Agent],
    to: &To,
    waiting: &[Option<Waiting>],
    config: &BtrfsSnapshotsConfig,
) -> Result<Option<Vec<Done>>, ModuleError> {
    let what = to.what.as_deref().unwrap_or_default();
    let Some(sessions) = sessions(waiting).filter(|_| !to.plan && !to.boot_once) else { return Ok(None) };
    let mut apart = Vec::new();
    for (agent, session) in agents.iter().zip(sessions) {
        let sets = Found::read(agent, config).await?;
        let Ok((set, subvolumes)) = choose::choose(&sets, what, &to.subvolumes) else { return Ok(None) };
        let look = agent.rollback(RollbackOrder::Look).await?;
        if !is_it(&look, session, &set.id(), &subvolumes) {
            return Ok(None);
        }
        apart.push(choose::on_another_disk(&set, &to.subvolumes, &subvolumes));
    }
    let mut all = Vec::new();
    for (agent, on_another_disk) in agents.iter().zip(apart) {
        finished(agent, &agent.redo_at_once(Patience::TryAgainLater).await?)?;
        let look = agent.rollback(RollbackOrder::Look).await?;
        all.push(Done { on_another_disk, ..Done::of(agent, look) });
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

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::RollbackState;

    use super::*;

    fn look(phase: RollbackPhase, in_use: &[&str]) -> RollbackLook {
        let state = RollbackState {
            session: "feedbeef".parse().unwrap(),
            stamp: "20251115T120000Z".parse().unwrap(),
            to: "20251115T120000Z-0a1b2c3d-presync".parse().unwrap(),
            phase,
            members: Vec::new(),
            together: None,
            records: Vec::new(),
            trial: None,
            fallback: None,
        };
        let in_use = in_use.iter().map(|name| name.parse().unwrap()).collect();
        RollbackLook { state: Some(state), in_use, ..RollbackLook::default() }
    }

    #[test]
    fn the_same_again_goes_on_where_one_of_two_machines_waits_and_not_where_none_does() {
        let done = RollbackPhase::Done;
        let (waits, is_in_place) = (|| look(done, &["@home"]), || look(done, &[]));
        for (looks, wanted) in [
            (vec![waits()], Some(1)),
            (vec![waits(), is_in_place()], Some(2)),
            (vec![is_in_place(), waits()], Some(2)),
            (vec![is_in_place(), is_in_place()], None),
            (vec![waits(), RollbackLook::default()], None),
            (vec![look(RollbackPhase::Cancelled, &["@home"]), waits()], None),
        ] {
            let waiting: Vec<Option<Waiting>> = looks.into_iter().map(Waiting::of).collect();
            assert_eq!(sessions(&waiting).map(|all| all.len()), wanted);
        }
    }
}
