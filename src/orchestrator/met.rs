//! Two machines that meet: one that waits for the other's word about a rollback gets it.

use pc_switcher_agent::linux::rollback::POINTER;
use pc_switcher_agent::proto::{RollbackOrder, TakeSet};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ModuleError, SessionId, SnapshotKind, UtcStamp};

use crate::clock;

/// Brings a rollback of both machines to the same end on both, and returns what was done, a line each. The locks of both are
/// held, and what each could finish by itself is finished.
///
/// # Errors
/// If a machine is lost or does not let us.
pub async fn settle(one: &Agent, other: &Agent) -> Result<Vec<String>, ModuleError> {
    let mut said = Vec::new();
    for (waiting, knowing) in [(one, other), (other, one)] {
        let Some(snapshot_dir) = waiting.state_get(POINTER).await? else { continue };
        let Some(state) = waiting.rollback(RollbackOrder::Look).await?.state else { continue };
        if !state.waits_for().is_some_and(|partner| partner.same_machine(knowing.hostname())) {
            continue;
        }
        let snapshot_dir = BytePath::new(snapshot_dir);
        let question =
            RollbackOrder::Decided { snapshot_dir: snapshot_dir.clone(), session: state.session.clone() };
        // It took its word back, and may give it again: who waits goes on waiting.
        let Some(decided) = knowing.rollback(question).await?.decided else { continue };
        let (order, word) = match decided {
            true => (RollbackOrder::Commit, "carried out"),
            false => (RollbackOrder::Abort, "dropped"),
        };
        if decided {
            // What was done while it waited is in no set yet.
            let request = TakeSet {
                session: SessionId::from_uuid(uuid::Uuid::new_v4()),
                stamp: UtcStamp::new(clock::system()()),
                kind: SnapshotKind::PreRollback,
                snapshot_dir,
                subvolumes: state.members.iter().map(|member| member.name.clone()).collect(),
            };
            waiting.take_set(request).await?;
        }
        waiting.rollback(order).await?;
        let (session, host) = (&state.session, waiting.hostname());
        said.push(format!("rollback {session} is {word} on {host}, as {} decided", knowing.hostname()));
    }
    Ok(said)
}
