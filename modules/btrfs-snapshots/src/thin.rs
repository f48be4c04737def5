//! Makes room on one machine: of the sets that only `keep` wants, those that hold the most go first, until there is enough.
//!
//! What `keep_min` keeps stays, and so does all that no rule ever removes. Between two sessions the kernel is waited for: what
//! was removed is not free at once, and whoever believes old numbers removes everything (facts/archive-loop.md A44).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_agent::proto::Gain;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError, SessionId, SetId};
use tokio_util::sync::CancellationToken;

use crate::config::BtrfsSnapshotsConfig;
use crate::prune::{self, Pruned};
use crate::retention::Verdict;

/// How long the kernel may take to clear a session away.
const CLEARING: Duration = Duration::from_secs(60);

/// What became of it.
#[derive(Debug, Default)]
pub struct Thinned {
    /// What is available now where the snapshots lie, in bytes.
    pub available_bytes: u64,
    /// Whether that is enough.
    pub is_enough: bool,
    /// The sets that went, and those that did not go.
    pub pruned: Pruned,
    /// Whether it stopped because the kernel had not cleared away what was removed.
    pub is_clearing: bool,
}

/// When sessions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum If {
    /// Whatever comes of it.
    Wanted,
    /// If what each of them holds by itself is enough: nothing goes in vain.
    Enough,
}

/// Removes sessions until `wanted` bytes of a disk of so many are available. The agent must hold the machine's lock.
///
/// # Errors
/// If its agent does not answer, or cannot tell what its own records name.
pub async fn thin(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    now: Timestamp,
    (wanted, only): (impl Fn(u64) -> u64, If),
    cancel: &CancellationToken,
) -> Result<Thinned, ExecError> {
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let least = BtrfsSnapshotsConfig { keep: config.keep_min.clone(), ..config.clone() };
    let (mut thinned, mut tried) = (Thinned::default(), BTreeSet::new());
    loop {
        let space = agent.space(vec![snapshot_dir.clone()]).await?;
        let Some(space) = space.first() else { return Ok(thinned) };
        thinned.available_bytes = space.available_bytes;
        let missing = wanted(space.size_bytes).saturating_sub(space.available_bytes);
        thinned.is_enough = missing == 0;
        if thinned.is_enough || thinned.is_clearing || cancel.is_cancelled() {
            return Ok(thinned);
        }
        let judged = prune::look(agent, config, now).await?;
        let to_spare = prune::look(agent, &least, now).await?;
        let gains = agent.gains(snapshot_dir.clone()).await?;
        if only == If::Enough && tried.is_empty() && held(&to_spare.verdicts, &gains) < missing {
            return Ok(thinned);
        }
        let next = next(&judged.verdicts, &to_spare.verdicts, &gains, &tried);
        let Some(session) = next else { return Ok(thinned) };
        let of_it: Vec<Verdict> =
            to_spare.verdicts.into_iter().filter(|verdict| verdict.id.session == session).collect();
        tried.insert(session);
        let Pruned { removed, left } = prune::remove(agent, config, &of_it, cancel).await;
        thinned.pruned.removed.extend(removed);
        thinned.pruned.left.extend(left);
        thinned.is_clearing = !agent.settle(snapshot_dir.clone(), CLEARING).await?;
    }
}

/// Returns what the sessions that may go hold, each by itself: at least so much comes free.
fn held(to_spare: &[Verdict], gains: &[Gain]) -> u64 {
    let may_go =
        |gain: &&Gain| to_spare.iter().any(|verdict| verdict.id.session == gain.session && !verdict.stays);
    gains.iter().filter(may_go).map(|gain| gain.data_bytes).sum()
}

/// Returns the session that goes next: one that no rule keeps before others, then the one that holds the most, then the oldest.
fn next(
    judged: &[Verdict],
    to_spare: &[Verdict],
    gains: &[Gain],
    tried: &BTreeSet<SessionId>,
) -> Option<SessionId> {
    let is_kept = |id: &SetId| judged.iter().any(|verdict| verdict.id == *id && verdict.stays);
    let gain = |id: &SetId| {
        let gain = gains.iter().find(|gain| gain.session == id.session);
        gain.map_or(0, |gain| gain.data_bytes)
    };
    to_spare
        .iter()
        .filter(|verdict| !verdict.stays && !tried.contains(&verdict.id.session))
        .min_by_key(|verdict| (is_kept(&verdict.id), u64::MAX - gain(&verdict.id), verdict.id.clone()))
        .map(|verdict| verdict.id.session.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::Reason;

    fn verdict(n: u32, stays: bool) -> Verdict {
        let id = format!("202601{n:02}T120000Z-{n:08x}-presync").parse().unwrap();
        Verdict { id, stays, reason: if stays { Reason::Newest } else { Reason::Beyond } }
    }

    fn order(judged: &[Verdict], to_spare: &[Verdict], gains: &[(u32, u64)]) -> Vec<String> {
        let session = |n: u32| -> SessionId { format!("{n:08x}").parse().unwrap() };
        let gains: Vec<Gain> =
            gains.iter().map(|(n, bytes)| Gain { session: session(*n), data_bytes: *bytes }).collect();
        let (mut tried, mut order) = (BTreeSet::new(), Vec::new());
        while let Some(session) = next(judged, to_spare, &gains, &tried) {
            order.push(session.to_string().trim_start_matches('0').to_owned());
            tried.insert(session);
        }
        order
    }

    #[test]
    fn what_no_rule_keeps_goes_first_then_what_holds_the_most_and_what_must_stay_never() {
        let kept = |n| verdict(n, true);
        let gone = |n| verdict(n, false);
        let judged = [gone(1), kept(2), kept(3), kept(4), kept(5)];
        let to_spare = [gone(1), gone(2), gone(3), gone(4), kept(5)];
        let gains = [(2, 10), (3, 30), (4, 10), (5, 900)];
        assert_eq!(order(&judged, &to_spare, &gains), ["1", "3", "2", "4"]);
        assert_eq!(order(&judged, &[kept(1), kept(2)], &gains), [""; 0]);
        let gain = |n: u32, data_bytes| Gain { session: format!("{n:08x}").parse().unwrap(), data_bytes };
        let gains = [gain(2, 10), gain(3, 30), gain(5, 900)];
        assert_eq!(held(&to_spare, &gains), 40, "what stays does not count");
    }
}
