//! Checks a repository: what the snapshots need is there, and on demand each byte of it is as it was written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::reading::{self, Reading};
use super::{Observer, Tally, check_cancelled};
use crate::error::{Result, UNSTEADY};
use crate::format::{BlobKind, Id, NodeKind, Snapshot};
use crate::repo::{Broken, Harm, Location, Repository, blob_from_pack};
use crate::store::Kind;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckSummary {
    /// Snapshots that were followed.
    pub snapshots: u64,
    /// Packs that the index knows.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// The packs that were read and are as they were written.
    pub read: Vec<Id>,
    /// The packs that were read and are not.
    pub unsound: Vec<Id>,
    /// All packs that are there and in an index.
    pub there: Vec<Id>,
    /// Packs that no index knows: left over from a run that was killed, harmless.
    pub unknown_packs: u64,
    /// All that is wrong.
    pub problems: Vec<String>,
}

/// Checks a repository, and reads as many of its packs as is said.
///
/// # Errors
/// If the place cannot be read or the run was cancelled; damages are in the summary.
pub fn check(repo: &Repository, reading: &Reading<'_>, observer: &dyn Observer) -> Result<CheckSummary> {
    // Snapshots before the index: a snapshot that is there has its index there.
    let (snapshots, broken) = repo.snapshots_found()?;
    let told = |kind: Kind, broken: &Broken| format!("{} `{}`: {}", kind.noun(), broken.name, broken.why);
    let mut problems: Vec<String> = broken.iter().map(|one| told(Kind::Snapshot, one)).collect();
    let (files, lost) = repo.index_found()?;
    problems.extend(lost.iter().map(|one| match one.harm {
        Harm::Damaged => format!("{}; `bt repair` makes it anew", told(Kind::Index, one)),
        Harm::Unsteady | Harm::Foreign => told(Kind::Index, one),
    }));
    repo.know(files.iter().flat_map(|(_, file)| &file.packs));
    let packs: BTreeMap<String, u64> = repo.store().list(Kind::Pack)?.into_iter().collect();
    let indexed = repo.indexed();
    let mut summary = CheckSummary {
        snapshots: snapshots.len() as u64,
        packs: indexed.len() as u64,
        bytes: packs.values().sum(),
        unknown_packs: packs
            .keys()
            .filter(|name| name.parse().is_ok_and(|id: Id| !indexed.contains_key(&id)))
            .count() as u64,
        problems,
        ..CheckSummary::default()
    };
    let mut there = Vec::new();
    for (id, blobs) in &indexed {
        let end = blobs.iter().map(|(_, at)| u64::from(at.offset) + u64::from(at.length)).max().unwrap_or(0);
        match packs.get(&id.hex()) {
            None => {
                summary.problems.push(format!("pack `{id}` is missing, and {} blobs with it", blobs.len()));
                continue;
            }
            Some(size) if *size < end => {
                summary.problems.push(format!("pack `{id}` is cut short: {size} bytes of {end}"));
            }
            Some(_) => {}
        }
        there.push((*id, packs.get(&id.hex()).copied().unwrap_or(0)));
    }
    there.sort_unstable();
    summary.problems.extend(lost_in(repo, &snapshots, observer)?);
    read(repo, &indexed, &reading.choose(&there), &mut summary, observer)?;
    summary.there = there.into_iter().map(|(id, _)| id).collect();
    summary.problems.sort();
    Ok(summary)
}

/// Follows snapshots and names all that no index knows of what they need.
pub(super) fn lost_in(
    repo: &Repository,
    snapshots: &[(Id, Snapshot)],
    observer: &dyn Observer,
) -> Result<Vec<String>> {
    let mut following = Following {
        repo,
        seen: HashSet::new(),
        lost: Vec::new(),
        tally: Tally::new(observer, repo.tree_bytes()),
    };
    for (id, snapshot) in snapshots {
        follow(&mut following, snapshot.tree, &format!("snapshot `{}`", id.short()))?;
    }
    Ok(following.lost)
}

struct Following<'f> {
    repo: &'f Repository,
    seen: HashSet<Id>,
    lost: Vec<String>,
    tally: Tally<'f>,
}

fn follow(following: &mut Following<'_>, tree: Id, place: &str) -> Result<()> {
    let Following { repo, seen, lost: problems, tally } = following;
    check_cancelled(tally)?;
    if !seen.insert(tree) {
        return Ok(());
    }
    tally.add(Path::new(place), repo.find(BlobKind::Tree, &tree).map_or(0, |at| at.length.into()));
    if repo.lies_as_other(BlobKind::Tree, &tree) {
        problems.push(format!(
            "{place}: its tree `{tree}` lies in the vault as the content of a file alone; `bt prune` stores it as a tree, too"
        ));
    }
    let nodes = match repo.tree(tree) {
        Ok(tree) => tree.nodes,
        Err(error) => {
            problems.push(format!("{place}: {error}"));
            return Ok(());
        }
    };
    let repo = *repo;
    for node in nodes {
        let path = format!("{place}/{}", node.name.display());
        match (node.kind, node.subtree) {
            (NodeKind::Dir, Some(subtree)) => follow(following, subtree, &path)?,
            (NodeKind::Dir, None) => following.lost.push(format!("{path}: the directory has no tree")),
            _ => {
                let missing = node
                    .content
                    .iter()
                    .flatten()
                    .filter(|id| repo.find(BlobKind::Data, id).is_none())
                    .count();
                let odd =
                    node.content.iter().flatten().filter(|id| repo.lies_as_other(BlobKind::Data, id)).count();
                if odd > 0 {
                    following.lost.push(format!(
                        "{path}: {odd} of its chunks lie in the vault as trees alone; `bt prune` stores them as content, too"
                    ));
                }
                if missing > odd {
                    let missing = missing - odd;
                    following.lost.push(format!("{path}: {missing} of its chunks are in no index"));
                }
            }
        }
    }
    Ok(())
}

fn read(
    repo: &Repository,
    indexed: &HashMap<Id, Vec<(Id, Location)>>,
    packs: &[(Id, u64)],
    summary: &mut CheckSummary,
    observer: &dyn Observer,
) -> Result<()> {
    let found = reading::each_pack(packs, observer, |id| {
        Ok(read_pack(repo, id, indexed.get(&id).map_or(&[], |blobs| blobs)))
    })?;
    summary.read_bytes = packs.iter().map(|(_, size)| size).sum();
    for (id, problems) in found {
        let list = if problems.is_empty() { &mut summary.read } else { &mut summary.unsound };
        list.push(id);
        summary.problems.extend(problems);
    }
    Ok(())
}

/// Reads a pack and returns all that is wrong with it.
fn read_pack(repo: &Repository, id: Id, blobs: &[(Id, Location)]) -> Vec<String> {
    let bytes = match repo.store().get(Kind::Pack, &id.hex()) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return vec![format!("pack `{id}` is missing")],
        Err(error) => return vec![format!("pack `{id}`: {error}")],
    };
    let mut problems = Vec::new();
    if Id::of(&bytes) != id {
        problems.push(format!("pack `{id}` is not as it was written"));
    }
    if let Err(why) = repo.header_in(&bytes) {
        problems.push(format!("pack `{id}`: {why}"));
    }
    for (blob, at) in blobs {
        let start = at.offset as usize;
        let sealed = bytes.get(start..start + at.length as usize);
        let opened = sealed.ok_or_else(|| format!("blob `{blob}` is cut off"));
        if let Err(why) = opened.and_then(|sealed| blob_from_pack(repo.key(), sealed, *blob, at)) {
            problems.push(format!("pack `{id}`: {why}"));
        }
    }
    if !problems.is_empty() {
        match repo.reads_differ(Kind::Pack, &id.hex(), &bytes) {
            Ok(false) => {}
            Ok(true) => problems.push(format!("pack `{id}`: {UNSTEADY}")),
            Err(error) => problems.push(format!("pack `{id}` cannot be read a second time: {error}")),
        }
    }
    problems
}
