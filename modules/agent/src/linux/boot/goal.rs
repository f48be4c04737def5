//! Where a start goes back to, and whether the machine could start there.

use std::fs;
use std::path::Path;

use pc_switcher_contract::{BytePath, SnapshotSet, SubvolumeName, UtcStamp, Vital};

use super::Early;
use crate::linux::snapshots::{self, Needs};
use crate::proto::{AgentError, BootTree, Fallback, GoodBy, RollbackWish, StoredSet};

/// Finds the newest set that is marked as good and has the tree of `/`, and which of the trees go back to it: those that start the
/// machine. What no start has tried yet, a guarded command or a sync has marked it, comes after all that one has: it may be what
/// does not start. A start that was found healthy has tried what was there at transaction `proven`.
pub(super) fn goal(
    snapshot_dir: &BytePath,
    trees: &[BootTree],
    proven: u64,
) -> Result<Option<(SnapshotSet, Vec<SubvolumeName>)>, AgentError> {
    let Some(root) = trees.first() else { return Ok(None) };
    let mut best: Option<((bool, u64), SnapshotSet)> = None;
    snapshots::list_sets(snapshot_dir.as_path(), Ok(Needs::default()), &mut |stored| {
        let fits = stored.words.good && lacks_nothing(&stored) && stored.set.member(&root.name).is_some();
        let transaction = stored.set.transaction();
        let rank = (has_started(stored.words.good_by, transaction, proven), transaction);
        if fits && best.as_ref().is_none_or(|(best, _)| *best < rank) {
            best = Some((rank, stored.set));
        }
        Ok(())
    })?;
    Ok(best.map(|(_, set)| {
        let names = going(snapshot_dir, trees).map(|tree| tree.name.clone());
        let is_held = |name: &SubvolumeName| set.member(name).is_some_and(|member| member.apart.is_none());
        let names = names.filter(is_held).collect();
        (snapshots::with_pin(snapshot_dir.as_path(), &set), names)
    }))
}

/// Whether all is there that could go back; what lay on another disk may be gone.
fn lacks_nothing(stored: &StoredSet) -> bool {
    let here = stored.set.at_home();
    !stored.lost().any(|name| here.members.iter().any(|member| member.name == *name))
}

/// Whether a start has gone well with a state, or somebody says that it is good.
fn has_started(by: GoodBy, transaction: u64, proven: u64) -> bool {
    match by {
        GoodBy::Hand | GoodBy::Boot => true,
        GoodBy::Guard | GoodBy::Sync => transaction <= proven,
    }
}

/// Returns those of the trees that go back: what starts the machine, and not what holds the snapshots.
pub(super) fn going<'a>(
    snapshot_dir: &BytePath,
    trees: &'a [BootTree],
) -> impl Iterator<Item = &'a BootTree> {
    let vital = Vital::of([]);
    let root = trees.first().map(|tree| &tree.point);
    trees.iter().filter(move |tree| {
        let is_root = Some(&tree.point) == root;
        let holds_snapshots = snapshot_dir.is_within(&tree.point) && !is_root;
        !holds_snapshots && (is_root || vital.area(&tree.point, true).is_some())
    })
}

/// Whether the state has no modules for the kernel that runs, so that its own kernel has to be started.
///
/// # Errors
/// If that one cannot be had: it does not go back with `/`.
pub(super) fn needs_another_kernel(
    early: &Early,
    to: &SnapshotSet,
    subvolumes: &[SubvolumeName],
) -> Result<bool, AgentError> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = format!("lib/modules/{}", kernel.trim());
    let root = early.trees.first().and_then(|tree| to.member(&tree.name));
    let has = |dir: &Path| dir.join(&modules).is_dir() || dir.join("usr").join(&modules).is_dir();
    let is_there = root.is_none_or(|member| has(member.path.as_path()));
    // A kernel that brings all it needs has none anywhere.
    if is_there || !has(Path::new("/")) {
        return Ok(false);
    }
    let holder = early.trees.iter().filter(|tree| BytePath::from("/boot").is_within(&tree.point));
    let holder = holder.max_by_key(|tree| tree.point.as_bytes().len());
    let comes_along = !early.boot_apart && holder.is_some_and(|tree| subvolumes.contains(&tree.name));
    match comes_along {
        true => Ok(true),
        false => Err(AgentError::failed(super::kernels::lacking(&to.id(), kernel.trim()))),
    }
}

/// Makes the wish of a fallback.
pub(super) fn wish(
    snapshot_dir: &BytePath,
    to: SnapshotSet,
    subvolumes: Vec<SubvolumeName>,
    boot_id: &str,
    stamp: UtcStamp,
    starts: u32,
) -> Result<RollbackWish, AgentError> {
    let session: String = boot_id.chars().take(8).collect();
    Ok(RollbackWish {
        session: session
            .parse()
            .map_err(|error| AgentError::failed(format!("boot id `{boot_id}`: {error}")))?,
        stamp,
        snapshot_dir: snapshot_dir.clone(),
        to,
        subvolumes,
        together: None,
        trial: None,
        fallback: Some(Fallback { at: stamp, starts, boot_id: boot_id.to_owned() }),
    })
}
