//! Checks a repository: what the snapshots need is there, and on demand each byte of it is as it was written.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::unbounded;

use super::{Observer, Progress, check_cancelled, workers};
use crate::error::Result;
use crate::format::blob::decode_header;
use crate::format::{BlobKind, Id, NodeKind};
use crate::repo::{Location, Repository, blob_from_pack};
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
    /// Packs that no index knows: left over from a run that was killed, harmless.
    pub unknown_packs: u64,
    /// All that is wrong.
    pub problems: Vec<String>,
}

/// Checks a repository; with `read_data` every pack is read.
///
/// # Errors
/// If the place cannot be read or the run was cancelled; damages are in the summary.
pub fn check(repo: &Repository, read_data: bool, observer: &dyn Observer) -> Result<CheckSummary> {
    // Snapshots before the index: a snapshot that is there has its index there.
    let snapshots = repo.snapshots()?;
    repo.load_index()?;
    let packs: HashMap<String, u64> = repo.store().list(Kind::Pack)?.into_iter().collect();
    let indexed = repo.indexed();
    let mut summary = CheckSummary {
        snapshots: snapshots.len() as u64,
        packs: indexed.len() as u64,
        bytes: packs.values().sum(),
        unknown_packs: packs
            .keys()
            .filter(|name| name.parse().is_ok_and(|id: Id| !indexed.contains_key(&id)))
            .count() as u64,
        ..CheckSummary::default()
    };
    for (id, blobs) in &indexed {
        let end = blobs.iter().map(|(_, at)| u64::from(at.offset) + u64::from(at.length)).max().unwrap_or(0);
        match packs.get(&id.hex()) {
            None => {
                summary.problems.push(format!("pack `{id}` is missing, and {} blobs with it", blobs.len()))
            }
            Some(size) if *size < end => {
                summary.problems.push(format!("pack `{id}` is cut short: {size} bytes of {end}"))
            }
            Some(_) => {}
        }
    }
    let mut seen = HashSet::new();
    for (id, snapshot) in &snapshots {
        follow(
            repo,
            snapshot.tree,
            &format!("snapshot `{}`", id.short()),
            &mut seen,
            &mut summary.problems,
            observer,
        )?;
    }
    if read_data {
        read_all(repo, &indexed, &packs, &mut summary, observer)?;
    }
    summary.problems.sort();
    Ok(summary)
}

fn follow(
    repo: &Repository,
    tree: Id,
    place: &str,
    seen: &mut HashSet<Id>,
    problems: &mut Vec<String>,
    observer: &dyn Observer,
) -> Result<()> {
    check_cancelled(observer)?;
    if !seen.insert(tree) {
        return Ok(());
    }
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
    for node in nodes {
        let path = format!("{place}/{}", node.name.display());
        match (node.kind, node.subtree) {
            (NodeKind::Dir, Some(subtree)) => follow(repo, subtree, &path, seen, problems, observer)?,
            (NodeKind::Dir, None) => problems.push(format!("{path}: the directory has no tree")),
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
                    problems.push(format!(
                        "{path}: {odd} of its chunks lie in the vault as trees alone; `bt prune` stores them as content, too"
                    ));
                }
                if missing > odd {
                    let missing = missing - odd;
                    problems.push(format!("{path}: {missing} of its chunks are in no index"));
                }
            }
        }
    }
    Ok(())
}

fn read_all(
    repo: &Repository,
    indexed: &HashMap<Id, Vec<(Id, Location)>>,
    packs: &HashMap<String, u64>,
    summary: &mut CheckSummary,
    observer: &dyn Observer,
) -> Result<()> {
    let total_bytes = indexed.keys().filter_map(|id| packs.get(&id.hex())).sum();
    let (read, problems) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let (send, jobs) = unbounded();
    for pack in indexed.iter().filter(|(id, _)| packs.contains_key(&id.hex())) {
        send.send(pack).ok();
    }
    drop(send);
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            let (jobs, read, problems) = (jobs.clone(), &read, &problems);
            scope.spawn(move || {
                for (id, blobs) in jobs {
                    if observer.is_cancelled() {
                        break;
                    }
                    let found = read_pack(repo, *id, blobs);
                    let size = packs.get(&id.hex()).copied().unwrap_or(0);
                    let bytes = read.fetch_add(size, Ordering::Relaxed) + size;
                    observer.progress(Progress { files: 0, bytes, total_bytes, item: id.short().into() });
                    problems.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                }
            });
        }
    });
    check_cancelled(observer)?;
    summary.read_bytes = read.into_inner();
    summary.problems.extend(problems.into_inner().unwrap_or_else(PoisonError::into_inner));
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
    if let Err(why) = check_header(repo, &bytes) {
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
    problems
}

/// Reads the header at the end of a pack, from which the index can be made anew.
fn check_header(repo: &Repository, bytes: &[u8]) -> std::result::Result<(), String> {
    let (rest, length) = bytes.split_last_chunk::<4>().ok_or("it is cut short")?;
    let start =
        rest.len().checked_sub(u32::from_le_bytes(*length) as usize).ok_or("its header is cut short")?;
    let plain = repo.key().open(&rest[start..]).map_err(|_| "its header is not as it was written")?;
    decode_header(&plain).map(drop)
}
