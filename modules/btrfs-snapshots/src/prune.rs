//! Removes from one machine the sets that no rule keeps. What goes is decided in [`crate::retention`]; the agent looks once
//! more before each.

use jiff::Timestamp;
use pc_switcher_agent::proto::{SetRequest, StoredSet};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError, SetId};
use tokio_util::sync::CancellationToken;

use crate::config::BtrfsSnapshotsConfig;
use crate::retention::{Verdict, judge};

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
pub async fn remove(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    verdicts: &[Verdict],
    cancel: &CancellationToken,
) -> Pruned {
    let mut pruned = Pruned::default();
    for verdict in verdicts.iter().filter(|verdict| !verdict.stays) {
        if cancel.is_cancelled() {
            break;
        }
        let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
        let request = SetRequest { snapshot_dir, id: verdict.id.clone() };
        match agent.delete_set(request).await {
            Ok(()) => pruned.removed.push(verdict.id.clone()),
            Err(error) => {
                let is_lost = matches!(error, ExecError::Transport { .. });
                pruned.left.push((verdict.id.clone(), error.to_string()));
                if is_lost {
                    break;
                }
            }
        }
    }
    pruned
}
