//! Takes a set as timers and hooks want it, and removes those that no rule keeps: afterwards, and where there is no room for it
//! before as well. A machine whose sets fill its disk or its pool would otherwise never get rid of one again.

use jiff::Timestamp;
use pc_switcher_agent::proto::{CreateSet, CreatedSet};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError};
use tokio_util::sync::CancellationToken;

use crate::config::BtrfsSnapshotsConfig;
use crate::prune::{self, IN_ALL, Pruned, Waits};

/// What became of it.
#[derive(Debug)]
pub struct Taken {
    /// The set, or why there is none.
    pub created: Result<CreatedSet, ExecError>,
    /// The sets that went, and those that did not go.
    pub pruned: Pruned,
}

/// Takes a set. If there is no room for it, what no rule of `keep` keeps is removed, and it is tried once more. The agent must hold
/// the machine's lock.
///
/// # Errors
/// If the set is taken and the agent does not say which others there are.
pub async fn take_and_prune(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    now: Timestamp,
    wanted: CreateSet,
    cancel: &CancellationToken,
) -> Result<Taken, ExecError> {
    let mut pruned = Pruned::default();
    let mut created = agent.create_set(wanted.clone()).await;
    if matches!(created, Err(ExecError::NoSpace { .. })) {
        // Why there is no set says more than why nothing could be removed.
        let Ok(judged) = prune::look(agent, config, now).await else { return Ok(Taken { created, pruned }) };
        pruned = prune::remove(agent, config, &judged.verdicts, Waits::InAll, cancel).await;
        if !pruned.removed.is_empty() && !cancel.is_cancelled() {
            // Room may come late, or the set take less than is free by then.
            let _ = agent.settle(BytePath::from(config.snapshot_dir.as_path()), IN_ALL).await;
            created = agent.create_set(wanted).await;
        }
    }
    if created.is_ok() {
        let judged = prune::look(agent, config, now).await?;
        let more = prune::remove_by_itself(agent, config, &judged, cancel).await;
        pruned.removed.extend(more.removed);
        (pruned.left, pruned.later) = (more.left, more.later);
    }
    Ok(Taken { created, pruned })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pc_switcher_agent::proto::{CopyOrder, TakeSet, Words};
    use pc_switcher_contract::{AgentLink, SnapshotKind};

    use super::*;
    use crate::fake::{Fake, NOW};

    async fn take(fake: &Arc<Fake>, keep: &str) -> Taken {
        let link: Arc<dyn AgentLink> = fake.clone();
        let config = fake.config(keep);
        let set = TakeSet {
            session: "abcdef01".parse().unwrap(),
            stamp: "20260531T120000Z".parse().unwrap(),
            kind: SnapshotKind::Scheduled,
            snapshot_dir: config.snapshot_dir.as_path().into(),
            subvolumes: Vec::new(),
        };
        let wanted = CreateSet { set, words: Words::default(), pinned: false, copies: CopyOrder::default() };
        let now = NOW.parse().unwrap();
        take_and_prune(&Agent::new(&link), &config, now, wanted, &CancellationToken::new()).await.unwrap()
    }

    #[tokio::test]
    async fn where_there_is_no_room_what_no_rule_keeps_goes_first_and_it_is_tried_once_more() {
        let fake = Arc::new(Fake { room: 4, ..Fake::sessions(6, 1 << 20) });
        let taken = take(&fake, "last 3 sessions").await;
        assert_eq!(taken.created.unwrap().notes, ["the pool fills up"]);
        assert_eq!(taken.pruned.removed.len(), 3);
        assert_eq!(fake.said()[..4], ["create", "delete 3", "settle", "create"]);
        assert_eq!(fake.sessions_left(), 4, "the rules are of syncs, and this one is not");
    }

    #[tokio::test]
    async fn where_the_rules_let_nothing_go_nothing_goes_and_the_error_is_that_of_the_disk() {
        let fake = Arc::new(Fake { room: 4, ..Fake::sessions(6, 1 << 20) });
        let taken = take(&fake, "last 90 sessions").await;
        assert!(matches!(taken.created, Err(ExecError::NoSpace { .. })), "{taken:?}");
        assert_eq!((taken.pruned.removed.len(), fake.sessions_left()), (0, 6));
        assert_eq!(fake.said(), ["create"]);
    }

    #[tokio::test]
    async fn where_it_does_not_suffice_what_went_is_told_beside_the_error() {
        let fake = Arc::new(Fake { room: 1, ..Fake::sessions(6, 1 << 20) });
        let taken = take(&fake, "last 3 sessions").await;
        assert!(matches!(taken.created, Err(ExecError::NoSpace { .. })), "{taken:?}");
        assert_eq!((taken.pruned.removed.len(), fake.sessions_left()), (3, 3));
    }
}
