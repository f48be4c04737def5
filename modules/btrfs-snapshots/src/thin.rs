//! Makes room on one machine: sessions go in the order of [`crate::order`], one at a time, until there is enough.
//!
//! What `keep_min` keeps stays, and so does all that no rule ever removes. Between two sessions the kernel is waited for: what
//! was removed is not free at once, and whoever believes old numbers removes everything (facts/archive-loop.md A44). Where a
//! removal does not show, nothing more goes. Sets of volumes are left out: they give no room here.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_agent::proto::{Backend, Gain, StoredSet};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError, SessionId, Threshold};
use tokio_util::sync::CancellationToken;

use crate::config::BtrfsSnapshotsConfig;
use crate::order::{self, Expected, Preview, missing, order};
use crate::prune::{self, Judged, Pruned, Waits};
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
    /// Whether it stopped because what was removed does not show as free.
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

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// So much is to be available.
    pub wanted: Threshold,
    /// When sessions go for it.
    pub only: If,
    /// No more sessions than that.
    pub at_most: usize,
}

impl Wish {
    /// Wants so much, if it can be had.
    pub fn for_enough(wanted: Threshold) -> Self {
        Self { wanted, only: If::Enough, at_most: usize::MAX }
    }
}

/// Whether removing a set gives room where the snapshots lie. That of a volume frees blocks of its pool, and none of the file system
/// in which nothing of it lies but its label.
pub fn gives_room(stored: &StoredSet) -> bool {
    stored.backend != Backend::Lvm
}

/// Returns the verdicts over the sessions that are worth removing for space.
fn roomy(judged: Judged) -> Vec<Verdict> {
    let idle = judged.sets.iter().filter(|stored| !gives_room(stored));
    let idle: BTreeSet<&SessionId> = idle.map(|stored| &stored.set.session).collect();
    judged.verdicts.into_iter().filter(|verdict| !idle.contains(&verdict.id.session)).collect()
}

/// Says what a removal until so much is available would come to; removes nothing.
///
/// # Errors
/// If its agent does not answer, or cannot tell what its own records name.
pub async fn preview(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    now: Timestamp,
    wanted: Threshold,
    judged: &Judged,
    gains: &[Gain],
) -> Result<Preview, ExecError> {
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let Some(space) = agent.space(vec![snapshot_dir]).await?.into_iter().next() else {
        return Ok(Preview::default());
    };
    let least = BtrfsSnapshotsConfig { keep: config.keep_min.clone(), ..config.clone() };
    let to_spare = roomy(prune::look(agent, &least, now).await?);
    Ok(order::preview(&space, wanted, &judged.verdicts, &to_spare, gains))
}

/// Removes sessions until there is enough. The agent must hold the machine's lock.
///
/// # Errors
/// If its agent does not answer, or cannot tell what its own records name.
pub async fn thin(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    now: Timestamp,
    wish: Wish,
    cancel: &CancellationToken,
) -> Result<Thinned, ExecError> {
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let least = BtrfsSnapshotsConfig { keep: config.keep_min.clone(), ..config.clone() };
    let (mut thinned, mut tried) = (Thinned::default(), BTreeSet::new());
    let mut expected: Option<Expected> = None;
    loop {
        let Some(space) = agent.space(vec![snapshot_dir.clone()]).await?.into_iter().next() else {
            return Ok(thinned);
        };
        thinned.available_bytes = space.available_bytes;
        let Some(missing) = missing(&space, wish.wanted) else { return Ok(thinned) };
        thinned.is_enough = missing == 0;
        let expected = expected.get_or_insert_with(|| Expected::since(&space));
        thinned.is_clearing |= expected.is_in_vain(&space);
        let is_over = thinned.is_enough || thinned.is_clearing || tried.len() >= wish.at_most;
        if is_over || cancel.is_cancelled() {
            return Ok(thinned);
        }
        let judged = prune::look(agent, config, now).await?;
        let to_spare = roomy(prune::look(agent, &least, now).await?);
        let gains = agent.gains(snapshot_dir.clone()).await?;
        let mut candidates = order(&judged.verdicts, &to_spare, &gains);
        candidates.retain(|one| !tried.contains(&one.session));
        let held = candidates.iter().fold(0u64, |held, one| held.saturating_add(one.data_bytes));
        if wish.only == If::Enough && held < missing {
            return Ok(thinned);
        }
        let Some(next) = candidates.into_iter().next() else { return Ok(thinned) };
        let of_it: Vec<Verdict> =
            to_spare.into_iter().filter(|verdict| verdict.id.session == next.session).collect();
        tried.insert(next.session.clone());
        let Pruned { removed, left, .. } = prune::remove(agent, config, &of_it, Waits::Each, cancel).await;
        if !removed.is_empty() && left.is_empty() {
            expected.add(next.data_bytes);
        }
        thinned.pruned.removed.extend(removed);
        thinned.pruned.left.extend(left);
        thinned.is_clearing = !agent.settle(snapshot_dir.clone(), CLEARING).await?;
    }
}

#[cfg(test)]
mod tests;
