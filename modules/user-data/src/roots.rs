//! Where each part is read on both machines: in snapshots, live, or in what an earlier walk has kept.

use pc_switcher_agent::proto::{FileTime, FolderPart, Standing, Tree};
use pc_switcher_agent::typed::{Agent, WalkStream};
use pc_switcher_contract::{
    BytePath, ExecError, Manifest, ModuleContext, ModuleError, PairEnd, PairRecord, Role, SnapshotKind,
    SnapshotSet, UtcStamp,
};

use crate::parts::{PartPair, has_snapshots};
use crate::survey::base_of;

/// Where listings come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// A tree.
    Tree(BytePath),
    /// A live tree; its machine keeps the listings under this key.
    Kept(BytePath, String),
    /// What a walk has kept under this key.
    Again(String),
    /// Nothing: there is no such tree.
    Nothing,
}

impl Listed {
    /// Returns the tree of which no walk keeps anything: in a snapshot, or live in a dry run.
    pub(crate) fn tree(&self) -> Option<&BytePath> {
        match self {
            Listed::Tree(root) => Some(root),
            Listed::Kept(..) | Listed::Again(_) | Listed::Nothing => None,
        }
    }

    /// Begins to list it; `None` if there is nothing to list.
    pub(crate) async fn walk(&self, agent: &Agent, part: &PartPair) -> Result<Option<WalkStream>, ExecError> {
        Ok(Some(match self {
            Listed::Tree(root) => agent.walk(tree(part, root)).await?,
            Listed::Kept(root, key) => agent.walk_kept(tree(part, root), key.clone()).await?,
            Listed::Again(key) => agent.kept(key.clone()).await?,
            Listed::Nothing => return Ok(None),
        }))
    }
}

/// Where one part is read on both machines.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Content of the source: in its pre set, or live in a dry run and without snapshots.
    pub source: BytePath,
    /// Content of the target: in its pre set (or its post set, to verify), or live in a dry run and without snapshots.
    pub target: BytePath,
    /// What the source lists.
    pub ours: Listed,
    /// What the target lists.
    pub theirs: Listed,
    /// What the target listed after the last sync: in the set that it left, if it is still there, or a manifest.
    pub base: Option<Listed>,
    /// What the source listed after the last sync, likewise.
    pub before: Option<Listed>,
    /// Files of the source that changed after this are compared by content.
    pub source_after: Option<FileTime>,
    /// Whether the times of directories do not count.
    pub ignore_dir_times: bool,
}

/// Returns where the part lies in a set; `None` if the set does not cover it.
pub(crate) fn in_set(
    set: &SnapshotSet,
    subvolume: Option<&pc_switcher_contract::SubvolumeName>,
    inside: &BytePath,
) -> Option<BytePath> {
    let member = set.member(subvolume?)?;
    Some(member.path.join(inside.as_bytes()))
}

/// Whether the target's end of the last sync holds the part.
pub fn held_by(end: &PairEnd, part: &PartPair) -> bool {
    listed_then(end, &part.target).is_some()
}

/// Returns where to read a part: `target_kind` is the set of the target to compare with.
///
/// # Errors
/// If a set that was taken does not hold the part.
pub fn roots(ctx: &ModuleContext, part: &PartPair, target_kind: SnapshotKind) -> Result<Roots, ModuleError> {
    let place = |role: Role, kind: SnapshotKind| match ctx.board.set(role, kind) {
        _ if part.is_live(role) || part.is_missing(role) => Ok(part.root.clone()),
        None if ctx.mode.is_dry() => Ok(part.root.clone()),
        None => Err(ModuleError::failed(format!(
            "{}: no snapshot of this run holds `{}`",
            ctx.hostname(role),
            part.root
        ))),
        Some(set) => {
            let end = if role == Role::Source { &part.source } else { &part.target };
            match in_set(&set, end.subvolume.as_ref(), &end.inside) {
                Some(root) => Ok(root),
                None if part.is_late && (role, kind) == (Role::Target, SnapshotKind::PreSync) => {
                    Ok(part.root.clone())
                }
                None => Err(ModuleError::failed(format!(
                    "{}: no snapshot of this run holds `{}`",
                    ctx.hostname(role),
                    part.root
                ))),
            }
        }
    };
    let pair = ctx.board.pair();
    let end = |hostname| {
        pair.as_ref().and_then(|pair| {
            [&pair.source, &pair.target].into_iter().find(|end| end.hostname.same_machine(hostname)).cloned()
        })
    };
    let target_end = end(&ctx.target.hostname);
    let source_end = end(&ctx.source.hostname);
    let is_known = pair.as_ref().is_none_or(|pair| is_of_last_sync(pair, part));
    let base = target_end.filter(|_| is_known).and_then(|end| listed_then(&end, &part.target));
    // A subvolume that came since the last sync, or that it left behind with something in it, held nothing of it.
    let base = base.or_else(|| (part.is_nested && pair.is_some()).then_some(Listed::Nothing));
    // A subvolume on one machine may be a directory on the other, and have been neither at the last sync: its past is what that
    // sync compared at the same place.
    let ours_then = source_end.as_ref().filter(|_| is_known).and_then(|end| {
        if !part.is_nested {
            return listed_then(end, &part.source);
        }
        let pair = pair.as_ref()?;
        let then = pair.parts.iter().find(|then| then.root == part.root.to_string())?;
        base_of(pair, then, &ctx.source.hostname, &part.source).map(Listed::Tree)
    });
    let now = (ctx.clock)().as_second();
    let source_after = source_end.and_then(|end| {
        let kept = part.is_live(Role::Source).then(|| end.manifest(&part.root)).flatten();
        let stamp = kept.map(|kept| kept.stamp).or_else(|| end.set.as_ref().map(|set| set.stamp))?;
        Some(before(stamp.timestamp().as_second(), now))
    });
    let (source, target) = (place(Role::Source, SnapshotKind::PreSync)?, place(Role::Target, target_kind)?);
    let is_kept = |role| part.is_live(role) && !ctx.mode.is_dry();
    let key = || Manifest::key_of(&ctx.session, &part.root);
    let verifies = target_kind == SnapshotKind::PostSync;
    Ok(Roots {
        ours: match is_kept(Role::Source) {
            _ if part.is_missing(Role::Source) => Listed::Nothing,
            // The verification holds the target against what was planned, whatever the source has become since.
            true if verifies => Listed::Again(key()),
            true => Listed::Kept(source.clone(), key()),
            false => Listed::Tree(source.clone()),
        },
        theirs: match is_kept(Role::Target) && verifies {
            _ if part.is_missing(Role::Target) => Listed::Nothing,
            true => Listed::Kept(target.clone(), key()),
            false => Listed::Tree(target.clone()),
        },
        source,
        target,
        base,
        before: ours_then,
        source_after,
        ignore_dir_times: false,
    })
}

/// Whether the last sync compared this part. What stays of a subvolume that it removed lies in its sets, and is nobody's.
fn is_of_last_sync(pair: &PairRecord, part: &PartPair) -> bool {
    let root = part.root.to_string();
    part.target.standing != Standing::Nested || pair.parts.iter().any(|then| then.root == root)
}

/// Returns what a machine listed of a part after the last sync.
fn listed_then(end: &PairEnd, part: &FolderPart) -> Option<Listed> {
    if !has_snapshots(part) {
        return end.manifest(&part.root).map(|manifest| Listed::Again(manifest.key.clone()));
    }
    let set = end.set.as_ref()?;
    in_set(set, part.subvolume.as_ref(), &part.inside).map(Listed::Tree)
}

/// Returns a moment that certainly lies before a snapshot of this stamp, in seconds. What changed after it may have changed
/// behind the snapshot.
fn before(stamp: i64, now: i64) -> FileTime {
    // A stamp of the future comes from a clock that was wrong: then every file may have changed since. The kernel's stamps
    // of files run a few milliseconds behind the clock, so the second of the stamp itself is not early enough.
    let seconds = if stamp > now { i64::MIN } else { stamp - 1 };
    FileTime { seconds, nanos: 0 }
}

/// Notes which listings the machines keep from here on, as of now.
pub(crate) fn note_kept(ctx: &ModuleContext, part: &PartPair, roots: &Roots) {
    for (role, listed) in [(Role::Source, &roots.ours), (Role::Target, &roots.theirs)] {
        if let Listed::Kept(_, key) = listed {
            let (root, stamp) = (part.root.to_string(), UtcStamp::new((ctx.clock)()));
            ctx.board.put_manifest(role, Manifest { root, stamp, key: key.clone() });
        }
    }
}

/// Returns subvolume (or the file system, if it has none) and path inside, as the record of a pair keeps them.
pub fn place_of(part: &FolderPart) -> (String, String) {
    let holder = part.subvolume.as_ref().map_or_else(|| part.fs_type.clone(), ToString::to_string);
    (holder, part.inside.to_string())
}

/// Returns the tree of a part that has its root there.
pub(crate) fn tree(part: &PartPair, root: &BytePath) -> Tree {
    Tree { root: root.clone(), prefix: part.prefix.clone(), rules: part.rules.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_in_the_second_of_a_snapshot_may_be_behind_it_and_behind_one_of_the_future_lies_everything()
     {
        let long_ago = FileTime::default();
        assert!(before(101, 100) < long_ago && long_ago < before(100, 100));
        assert!(before(100, 200) < FileTime { seconds: 99, nanos: 990_000_000 });
        assert!(before(100, 200) > FileTime { seconds: 98, nanos: 0 });
    }
}
