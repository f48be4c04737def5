//! Removes from one machine the sets that no rule keeps. What goes is decided in [`crate::retention`]; the agent looks once
//! more before each.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use pc_switcher_agent::proto::{SetsRequest, StoredSet};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError, SetId};
use tokio_util::sync::CancellationToken;

use crate::config::BtrfsSnapshotsConfig;
use crate::retention::{Verdict, judge};

/// So many sets go with one commit.
const BATCH: usize = 8;
/// For so long the kernel is waited for between two batches, in all, where nobody asked for the removal.
pub(crate) const IN_ALL: Duration = Duration::from_secs(20);
/// And for so long before each batch, where somebody did.
const EACH: Duration = Duration::from_secs(60);

/// How long the kernel is given to clear a few sets away before the next ones go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// Somebody asked for it: a minute for each few.
    Each,
    /// It happens by itself: 20 seconds for all. What does not go in that time goes the next time.
    InAll,
}

/// The sets of one machine, and what becomes of them.
#[derive(Debug)]
pub struct Judged {
    /// The sets, oldest first.
    pub sets: Vec<StoredSet>,
    /// A verdict for each set, oldest first.
    pub verdicts: Vec<Verdict>,
    /// Whether the machine lives on its battery.
    pub on_battery: bool,
}

/// What became of the sets that were to go.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Those that are gone.
    pub removed: Vec<SetId>,
    /// Those that are still there, with the reason.
    pub left: Vec<(SetId, String)>,
    /// Those that go the next time, since the kernel has enough to clear away, or the machine lives on its battery.
    pub later: Vec<SetId>,
    /// Whether it does, and so nothing went.
    pub on_battery: bool,
}

/// Looks at the sets of a machine.
///
/// # Errors
/// If its agent does not answer, or cannot tell what its own records name.
pub async fn look(agent: &Agent, config: &BtrfsSnapshotsConfig, now: Timestamp) -> Result<Judged, ExecError> {
    let (sets, strays) = agent.sets(BytePath::from(config.snapshot_dir.as_path())).await?;
    if let Some(why) = strays.doubt {
        let hostname = agent.hostname().to_string();
        return Err(ExecError::Failed { hostname, what: "judging old snapshots".into(), why });
    }
    let verdicts = judge(&sets, now, &config.keep, &config.keep_min);
    Ok(Judged { sets, verdicts, on_battery: strays.on_battery })
}

/// As [`remove`] where nobody asked for it: a machine that lives on its battery has better things to do than to clear away, and
/// keeps it all for later.
pub async fn remove_by_itself(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    judged: &Judged,
    cancel: &CancellationToken,
) -> Pruned {
    if judged.on_battery {
        let going = judged.verdicts.iter().filter(|verdict| !verdict.stays);
        let later = going.map(|verdict| verdict.id.clone()).collect();
        return Pruned { later, on_battery: true, ..Pruned::default() };
    }
    remove(agent, config, &judged.verdicts, Waits::InAll, cancel).await
}

/// Removes what is to go, oldest first, until it is cancelled or the machine is lost. The agent must hold the machine's lock.
///
/// A few sets go with one commit; before the next ones the kernel gets time to clear these away, so that neither it nor whoever works
/// meanwhile is held up by all of them at once (facts/btrfs.md B5, B7); how long says `waits`.
pub async fn remove(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    verdicts: &[Verdict],
    waits: Waits,
    cancel: &CancellationToken,
) -> Pruned {
    let mut pruned = Pruned::default();
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let going: Vec<SetId> =
        verdicts.iter().filter(|verdict| !verdict.stays).map(|verdict| verdict.id.clone()).collect();
    let began = Instant::now();
    for (at, batch) in going.chunks(BATCH).enumerate() {
        if at > 0 {
            let limit = match waits {
                Waits::Each => EACH,
                Waits::InAll => IN_ALL.saturating_sub(began.elapsed()),
            };
            let is_clear = tokio::select! {
                () = cancel.cancelled() => break,
                // Where nobody can say, the next ones go all the same.
                settled = agent.settle(snapshot_dir.clone(), limit) => settled.unwrap_or(true),
            };
            if waits == Waits::InAll && !is_clear {
                pruned.later.extend_from_slice(&going[at * BATCH..]);
                break;
            }
        }
        if cancel.is_cancelled() {
            break;
        }
        let request = SetsRequest { snapshot_dir: snapshot_dir.clone(), ids: batch.to_vec() };
        match agent.delete_sets(request).await {
            Ok(done) => {
                for (id, left) in done {
                    match left {
                        None => pruned.removed.push(id),
                        Some(why) => pruned.left.push((id, why)),
                    }
                }
            }
            Err(error) => {
                let is_lost = matches!(error, ExecError::Transport { .. });
                pruned.left.extend(batch.iter().map(|id| (id.clone(), error.to_string())));
                if is_lost {
                    break;
                }
            }
        }
    }
    pruned
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pc_switcher_contract::AgentLink;

    use super::*;
    use crate::fake::{Fake, NOW};

    async fn prune(fake: &Arc<Fake>, waits: Waits) -> Pruned {
        let link: Arc<dyn AgentLink> = fake.clone();
        let agent = Agent::new(&link);
        let config = fake.config("last 2 sessions");
        let judged = look(&agent, &config, NOW.parse().unwrap()).await.unwrap();
        remove(&agent, &config, &judged.verdicts, waits, &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn the_kernel_is_waited_for_between_any_two_batches_and_what_it_cannot_clear_away_goes_the_next_time()
     {
        let fake = Fake::of_sessions(34, 1 << 20);
        let pruned = prune(&fake, Waits::Each).await;
        assert_eq!((pruned.removed.len(), pruned.later.len()), (32, 0));
        assert_eq!(
            fake.said(),
            ["delete 8", "settle", "delete 8", "settle", "delete 8", "settle", "delete 8"]
        );

        let slow = Fake { clears: false, ..Fake::sessions(34, 1 << 20) };
        let slow = Arc::new(slow);
        let pruned = prune(&slow, Waits::InAll).await;
        assert_eq!((pruned.removed.len(), pruned.later.len()), (8, 24), "nobody asked for it");
        let pruned = prune(&slow, Waits::Each).await;
        assert_eq!((pruned.removed.len(), pruned.later.len()), (24, 0), "somebody did");
        assert_eq!(slow.sessions_left(), 2);
    }

    #[tokio::test]
    async fn on_battery_nothing_goes_by_itself_and_all_of_it_when_the_machine_is_fed_again() {
        let fake = Arc::new(Fake { on_battery: true.into(), ..Fake::sessions(6, 1 << 20) });
        let link: Arc<dyn AgentLink> = fake.clone();
        let (agent, config) = (Agent::new(&link), fake.config("last 2 sessions"));
        let by_itself = async || {
            let judged = look(&agent, &config, NOW.parse().unwrap()).await.unwrap();
            remove_by_itself(&agent, &config, &judged, &CancellationToken::new()).await
        };
        let pruned = by_itself().await;
        assert!(pruned.on_battery && pruned.removed.is_empty() && pruned.later.len() == 4, "{pruned:?}");
        assert_eq!(fake.sessions_left(), 6);
        fake.on_battery.store(false, std::sync::atomic::Ordering::SeqCst);
        let pruned = by_itself().await;
        assert!(!pruned.on_battery && pruned.removed.len() == 4 && pruned.later.is_empty(), "{pruned:?}");
    }
}
