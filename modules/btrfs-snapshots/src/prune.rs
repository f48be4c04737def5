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
/// From the first removal on the kernel is waited for between two batches until so much time has gone by.
const CLEARING: Duration = Duration::from_secs(20);

/// The sets of one machine, and what becomes of them.
#[derive(Debug)]
pub struct Judged {
    /// The sets, oldest first.
    pub sets: Vec<StoredSet>,
    /// A verdict for each set, oldest first.
    pub verdicts: Vec<Verdict>,
}

/// What became of the sets that were to go.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Those that are gone.
    pub removed: Vec<SetId>,
    /// Those that are still there, with the reason.
    pub left: Vec<(SetId, String)>,
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
    Ok(Judged { sets, verdicts })
}

/// Removes what is to go, oldest first, until it is cancelled or the machine is lost. The agent must hold the machine's lock.
///
/// A few sets go with one commit; before the next ones the kernel gets time to clear these away, so that neither it nor whoever works
/// meanwhile is held up by all of them at once (facts/btrfs.md B5, B7).
pub async fn remove(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    verdicts: &[Verdict],
    cancel: &CancellationToken,
) -> Pruned {
    let mut pruned = Pruned::default();
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let going: Vec<SetId> =
        verdicts.iter().filter(|verdict| !verdict.stays).map(|verdict| verdict.id.clone()).collect();
    let began = Instant::now();
    for (at, batch) in going.chunks(BATCH).enumerate() {
        let left = CLEARING.saturating_sub(began.elapsed());
        if at > 0 && !left.is_zero() {
            tokio::select! {
                () = cancel.cancelled() => {}
                // Where it takes longer, or nobody can say, the next ones go all the same.
                _ = agent.settle(snapshot_dir.clone(), left) => {}
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
