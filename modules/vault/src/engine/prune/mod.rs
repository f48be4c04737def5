//! Removes snapshots, and what no snapshot needs any more: in two steps, so that what somebody takes up again meanwhile stays.
//!
//! Packs that nobody needs are marked and stay in the index, where writers find what is in them; a later run removes those
//! that nobody took up until then. Packs with much unused in them are rewritten before, and many small ones put together. Each prefix of the writes is a sound
//! repository: the marks of what is unused as a whole, an index without what goes of it, then what goes; new packs, their index, and the same for
//! what they replace. So a vault that is full gets room before anything is put together, and what found no room leaves nothing behind.

mod merge;
mod plan;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};

pub use plan::When;
use plan::{Pack, Plan};

use super::{Observer, Progress, Tally, check_cancelled};
use crate::error::{Result, damaged};
use crate::format::index::{IndexFile, IndexedBlob, IndexedPack};
use crate::format::{BlobKind, Id, NodeKind};
use crate::repo::{Held, Location, Marks, Repository, Writer, blob_from_pack, marks};
use crate::store::Kind;

/// What is to be removed.
pub struct PruneOrder<'o> {
    /// These snapshots.
    pub forget: &'o HashSet<Id>,
    /// Chunks of files that stay though no snapshot needs them, as far as they are there.
    pub also_needed: &'o HashSet<Id>,
    /// When an unused pack goes.
    pub when: When,
    /// The lock; without one nothing is written.
    pub alone: Option<&'o Held>,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneSummary {
    /// Packs that are needed, and their bytes.
    pub kept: (u64, u64),
    /// Packs that were rewritten without what nobody needs, and the bytes that are needed of them.
    pub rewritten: (u64, u64),
    /// Packs that were only small and are put together, and their bytes; they are among the rewritten ones.
    pub merged: (u64, u64),
    /// Packs that nobody needs and that wait for the end of the grace, and their bytes.
    pub marked: (u64, u64),
    /// Packs that went, and their bytes.
    pub removed: (u64, u64),
    /// When the first of those that wait may go.
    pub next: Option<Timestamp>,
    /// Why nothing was rewritten: there was no room for it. All else was done.
    pub no_room: Option<String>,
}

/// Prunes, or says what it would do.
///
/// # Errors
/// If something is missing that a snapshot needs, which stays; the lock was lost, the place cannot be written, or the run was
/// cancelled. That there was no room to rewrite something is in the summary.
pub fn prune(repo: &Repository, order: &PruneOrder<'_>, observer: &dyn Observer) -> Result<PruneSummary> {
    if let Some(alone) = order.alone {
        alone.prove()?;
        // What a run rewrote that was killed is not rewritten again.
        repo.adopt_packs(alone)?;
    }
    repo.load_index()?;
    prove_snapshots(repo)?;
    let (mut needed, followed) = needed(repo, order.forget, observer)?;
    let is_there =
        |id: &&Id| repo.find(BlobKind::Data, id).is_some() || repo.lies_as_other(BlobKind::Data, id);
    let also = order.also_needed.iter().filter(is_there);
    needed.extend(also.map(|id| (BlobKind::Data, *id)));
    store_under_their_kind(repo, &mut needed, order.alone, observer)?;
    let mut files = repo.index_files()?;
    prove_named(repo, &files)?;
    let (packs, gone) = packs(repo, &files)?;
    let (marks, number) = marks::read(repo)?;
    let mut plan = plan::plan(&packs, &needed, &marks, order.when).map_err(|missing| {
        let message = format!(
            "the vault in `{}` lacks {} blobs that its snapshots need, `{}` is one of them; nothing is removed",
            repo.store().place(),
            missing.len(),
            missing.first().map(|(_, id)| *id).unwrap_or_default()
        );
        ModuleError::failed(message).hint("`bt check` names the files")
    })?;
    let mut summary = summarise(&packs, &plan, order.when);
    let Some(alone) = order.alone else { return Ok(summary) };
    alone.prove()?;
    prove_followed(repo, &followed)?;
    for snapshot in order.forget {
        alone.still_held()?;
        repo.store().delete(Kind::Snapshot, &snapshot.hex())?;
    }
    let going = Going { repo, alone, observer, packs: &packs };
    // What is rewritten takes room, which what nobody needs may have to give first.
    let is_whole = |id: &Id| !plan.rewrite.contains_key(id);
    let first: BTreeSet<Id> = plan.remove.iter().copied().filter(is_whole).collect();
    let mut number = number;
    if !plan.rewrite.is_empty() && plan.marks.keys().any(is_whole) {
        let early: Marks =
            plan.marks.iter().filter(|(id, _)| is_whole(id)).map(|(id, at)| (*id, *at)).collect();
        marks::write(repo, early, number)?;
        number += 1;
        going.remove(&mut files, &first, &gone)?;
        plan.remove.retain(|id| !first.contains(id));
    }
    let mut stays = BTreeSet::new();
    match rewrite(repo, &plan, observer) {
        Ok(left) => {
            // The index files that are known here are those of before; of what was rewritten its writer says where it is.
            let moved = plan.rewrite.values().flatten().filter_map(|blob| repo.find(blob.kind, &blob.id));
            stays.extend(moved.map(|at| at.pack));
            for pack in left {
                plan.marks.remove(&pack);
                plan.remove.remove(&pack);
            }
        }
        Err(error) if error.kind == ErrorKind::DiskSpace => {
            plan.marks.retain(|id, _| is_whole(id));
            plan.remove.retain(is_whole);
            drop_unnamed(repo, alone, &packs)?;
            summary.no_room = Some(error.to_string());
        }
        Err(error) => return Err(error),
    }
    if plan.marks != marks::read(repo)?.0 {
        marks::write(repo, plan.marks.clone(), number)?;
    }
    going.remove(&mut files, &plan.remove, &gone)?;
    stays.retain(|pack| !plan.remove.contains(pack));
    stays.extend(files.iter().flat_map(|(_, file)| &file.packs).map(|pack| pack.id));
    repo.reload_index()?;
    prove_known(repo, &stays)?;
    Ok(summary)
}

/// Index files, each with its name.
type IndexFiles = Vec<(String, IndexFile)>;

/// What removes packs.
struct Going<'g> {
    repo: &'g Repository,
    alone: &'g Held,
    observer: &'g dyn Observer,
    packs: &'g [Pack],
}

impl Going<'_> {
    /// Takes packs out of these index files, with those that are not there, and removes them then. The files are those of then: a list
    /// that is asked for again may lack one by mistake.
    fn remove(&self, files: &mut IndexFiles, packs: &BTreeSet<Id>, gone: &BTreeSet<Id>) -> Result<()> {
        let going: HashSet<Id> = packs.iter().chain(gone).copied().collect();
        self.alone.prove()?;
        let (old, fresh) = drop_from_index(self.repo, files, &going)?;
        files.retain(|(name, _)| !old.contains(name));
        files.extend(fresh);
        self.alone.prove()?;
        let sizes: BTreeMap<Id, u64> = self.packs.iter().map(|pack| (pack.id, pack.size)).collect();
        let size = |pack: &Id| sizes.get(pack).copied().unwrap_or(0);
        let tally = Tally::new(self.observer, packs.iter().map(size).sum());
        for pack in packs {
            check_cancelled(self.observer)?;
            self.alone.still_held()?;
            self.repo.store().delete(Kind::Pack, &pack.hex())?;
            tally.add(Path::new(&pack.short()), size(pack));
        }
        Ok(())
    }
}

/// Removes packs that came since these were listed and that no index names: nobody else writes here, and each try would leave more.
fn drop_unnamed(repo: &Repository, alone: &Held, packs: &[Pack]) -> Result<()> {
    let files = repo.index_files()?;
    let mut known: HashSet<Id> = packs.iter().map(|pack| pack.id).collect();
    known.extend(files.iter().flat_map(|(_, file)| &file.packs).map(|pack| pack.id));
    alone.prove()?;
    for (name, _) in repo.store().list(Kind::Pack)? {
        if name.parse().is_ok_and(|id: Id| !known.contains(&id)) {
            alone.still_held()?;
            repo.store().delete(Kind::Pack, &name)?;
        }
    }
    Ok(())
}

/// Proves that there are snapshots where there is anything: without them all of it would be what nobody needs.
fn prove_snapshots(repo: &Repository) -> Result<()> {
    if !repo.store().list(Kind::Snapshot)?.is_empty() || repo.store().list(Kind::Index)?.is_empty() {
        return Ok(());
    }
    let message =
        format!("the vault in `{}` has packs and no snapshot, so nothing is removed", repo.store().place());
    Err(ModuleError::new(ErrorKind::Unreachable, message).hint(
        "is all of it mounted? a backup that ends writes a snapshot; if all were removed on purpose, `restic prune` removes the rest",
    ))
}

/// Proves that the index names what it named when it was read first: a list may lack one of its files by mistake, and what only that
/// one names would go and leave it behind.
fn prove_named(repo: &Repository, files: &IndexFiles) -> Result<()> {
    let named = files.iter().flat_map(|(_, file)| &file.packs).map(|pack| pack.id).collect();
    let Some(pack) = repo.known_besides(&named) else { return Ok(()) };
    let message = format!(
        "the index of `{}` does not name the pack `{pack}` any more, as it did a moment ago; nothing is removed",
        repo.store().place()
    );
    Err(ModuleError::failed(message)
        .hint("somebody else works in the vault without a lock, or the disk or the network is failing"))
}

/// Proves that the index that was read again names each pack that stays: a list may lack a file that was written a moment ago, and what
/// only that one names would be taken for gone.
fn prove_known(repo: &Repository, stays: &BTreeSet<Id>) -> Result<()> {
    let Some(pack) = stays.iter().find(|pack| !repo.knows_pack(pack)) else { return Ok(()) };
    let message = format!(
        "the index of `{}` does not name the pack `{pack}`, which is there; no version is taken for gone",
        repo.store().place()
    );
    Err(ModuleError::failed(message).hint(
        "the place does not list what was written a moment ago, or somebody else works in the vault without a lock; \
         what nobody needs is gone, and the next `bt prune` does the rest",
    ))
}

/// What is needed, each as what it is.
type Needed = HashSet<(BlobKind, Id)>;

/// Proves that there is no snapshot but those that were looked at: a list may lack one by mistake.
fn prove_followed(repo: &Repository, followed: &HashSet<Id>) -> Result<()> {
    for (name, _) in repo.store().list(Kind::Snapshot)? {
        if name.parse().is_ok_and(|id: Id| !followed.contains(&id)) {
            let message = format!(
                "the snapshot `{name}` in `{}` was not listed a moment ago; nothing is removed",
                repo.store().place()
            );
            return Err(ModuleError::failed(message).hint(
                "somebody else works in the vault without a lock, or the disk or the network is failing",
            ));
        }
    }
    Ok(())
}

/// Returns what the snapshots need that stay, and all that were looked at.
fn needed(repo: &Repository, forget: &HashSet<Id>, observer: &dyn Observer) -> Result<(Needed, HashSet<Id>)> {
    let (mut needed, mut todo, mut followed) = (HashSet::new(), Vec::new(), HashSet::new());
    let tally = Tally::new(observer, repo.tree_bytes());
    for (id, snapshot) in repo.snapshots()? {
        followed.insert(id);
        if !forget.contains(&id) {
            todo.push((id, snapshot.tree));
        }
    }
    while let Some((snapshot, tree)) = todo.pop() {
        check_cancelled(observer)?;
        if !needed.insert((BlobKind::Tree, tree)) {
            continue;
        }
        let nodes = repo.tree(tree).map_err(|error| {
            let message =
                format!("snapshot `{}` cannot be followed, so nothing is removed: {error}", snapshot.short());
            ModuleError::new(error.kind, message).hint("`bt check` says what is wrong")
        })?;
        for node in nodes.nodes {
            match node.kind {
                NodeKind::Dir => todo.extend(node.subtree.map(|subtree| (snapshot, subtree))),
                _ => needed.extend(node.content.into_iter().flatten().map(|id| (BlobKind::Data, id))),
            }
        }
        let length = repo.find(BlobKind::Tree, &tree).map_or(0, |at| at.length.into());
        tally.add(Path::new(&snapshot.short()), length);
    }
    Ok((needed, followed))
}

/// Stores what is needed as a tree and lies there as a piece of a file alone, or the other way round; where nothing may be written it
/// is needed as what it is.
fn store_under_their_kind(
    repo: &Repository,
    needed: &mut HashSet<(BlobKind, Id)>,
    alone: Option<&Held>,
    observer: &dyn Observer,
) -> Result<()> {
    let odd: BTreeSet<(BlobKind, Id)> =
        needed.iter().filter(|(kind, id)| repo.lies_as_other(*kind, id)).copied().collect();
    let Some(alone) = alone.filter(|_| !odd.is_empty()) else {
        for (kind, id) in odd {
            needed.remove(&(kind, id));
            needed.insert((kind.other(), id));
        }
        return Ok(());
    };
    alone.prove()?;
    let writer = Writer::new(repo)?;
    for kind in [BlobKind::Data, BlobKind::Tree] {
        let mut packer = writer.packer(kind)?;
        for (_, id) in odd.iter().filter(|(of, _)| *of == kind) {
            check_cancelled(observer)?;
            packer.add(&repo.blob(kind, *id)?)?;
        }
        packer.flush()?;
    }
    writer.index().map(drop)
}

/// Returns the packs that are there, and those that are only in an index. What lies behind the end of a pack is not there.
fn packs(repo: &Repository, files: &[(String, IndexFile)]) -> Result<(Vec<Pack>, BTreeSet<Id>)> {
    let mut blobs: BTreeMap<Id, BTreeMap<u32, IndexedBlob>> = BTreeMap::new();
    for pack in files.iter().flat_map(|(_, file)| &file.packs) {
        let known = blobs.entry(pack.id).or_default();
        known.extend(pack.blobs.iter().map(|blob| (blob.offset, *blob)));
    }
    let mut there = Vec::new();
    for (name, size) in repo.store().list(Kind::Pack)? {
        let id = name.parse().map_err(ModuleError::failed)?;
        let known = blobs.remove(&id).unwrap_or_default().into_values();
        let is_there = |blob: &IndexedBlob| u64::from(blob.offset) + u64::from(blob.length) <= size;
        there.push(Pack { id, size, blobs: known.filter(is_there).collect() });
    }
    Ok((there, blobs.into_keys().collect()))
}

fn summarise(packs: &[Pack], plan: &Plan, when: When) -> PruneSummary {
    let mut summary = PruneSummary::default();
    for pack in packs {
        let count = match (plan.remove.contains(&pack.id), plan.marks.get(&pack.id)) {
            (true, _) => &mut summary.removed,
            (false, Some(since)) => {
                let ripe = *since + when.grace;
                summary.next = Some(summary.next.map_or(ripe, |next| next.min(ripe)));
                &mut summary.marked
            }
            (false, None) => &mut summary.kept,
        };
        count.0 += 1;
        count.1 += pack.size;
    }
    let moved = plan.rewrite.values().flatten().map(|blob| u64::from(blob.length)).sum();
    summary.rewritten = (plan.rewrite.len() as u64, moved);
    let merged = packs.iter().filter(|pack| plan.merged.contains(&pack.id));
    summary.merged = (plan.merged.len() as u64, merged.map(|pack| pack.size).sum());
    summary
}

/// Brings what is needed of packs into new ones, and those into the index. Returns small packs that stay as they are, being damaged.
fn rewrite(repo: &Repository, plan: &Plan, observer: &dyn Observer) -> Result<Vec<Id>> {
    let mut left = Vec::new();
    let writer = Writer::new(repo)?;
    let (mut data, mut trees) = (writer.packer(BlobKind::Data)?, writer.packer(BlobKind::Tree)?);
    let total_bytes = plan.rewrite.values().flatten().map(|blob| u64::from(blob.length)).sum();
    let mut bytes = 0;
    for (pack, blobs) in &plan.rewrite {
        check_cancelled(observer)?;
        let at = |blob: &IndexedBlob| {
            let IndexedBlob { kind, offset, length, uncompressed_length, .. } = *blob;
            Location { pack: *pack, kind, offset, length, uncompressed_length }
        };
        // A small one comes with one request, and waits for somebody to see to it if it is damaged.
        let whole = match plan.merged.contains(pack) {
            true => repo.store().get(Kind::Pack, &pack.hex())?,
            false => None,
        };
        if let Some(whole) = &whole
            && blobs.iter().any(|blob| {
                slice(whole, blob)
                    .is_none_or(|part| blob_from_pack(repo.key(), part, blob.id, &at(blob)).is_err())
            })
        {
            left.push(*pack);
            continue;
        }
        for blob in blobs {
            let (id, kind, at) = (blob.id, blob.kind, at(blob));
            let fetched;
            let sealed = match whole.as_deref().and_then(|whole| slice(whole, blob)) {
                Some(part) => part,
                None => {
                    let (offset, length) = (blob.offset.into(), blob.length as usize);
                    fetched = repo.store().get_range(Kind::Pack, &pack.hex(), offset, length)?;
                    // What is damaged is not carried on.
                    blob_from_pack(repo.key(), &fetched, id, &at).map_err(|why| {
                        damaged(format!("pack `{pack}` in `{}`", repo.store().place()), why)
                    })?;
                    &fetched
                }
            };
            let packer = if kind == BlobKind::Tree { &mut trees } else { &mut data };
            packer.carry(id, &at, sealed)?;
            bytes += u64::from(blob.length);
        }
        observer.progress(Progress { files: 0, bytes, total_bytes, item: pack.short().into() });
    }
    data.flush()?;
    trees.flush()?;
    writer.index().map(|_| left)
}

fn slice<'p>(pack: &'p [u8], blob: &IndexedBlob) -> Option<&'p [u8]> {
    pack.get(blob.offset as usize..)?.get(..blob.length as usize)
}

/// Writes index files without these packs in the place of those that name them, or that name what another one names, too. Returns
/// the names of those that went, and what came.
pub(super) fn drop_from_index(
    repo: &Repository,
    files: &[(String, IndexFile)],
    going: &HashSet<Id>,
) -> Result<(HashSet<String>, IndexFiles)> {
    let mut named: BTreeMap<Id, u32> = BTreeMap::new();
    for pack in files.iter().flat_map(|(_, file)| &file.packs) {
        *named.entry(pack.id).or_default() += 1;
    }
    let is_old =
        |pack: &IndexedPack| going.contains(&pack.id) || named.get(&pack.id).is_some_and(|count| *count > 1);
    let old: Vec<&(String, IndexFile)> =
        files.iter().filter(|(_, file)| file.packs.is_empty() || file.packs.iter().any(is_old)).collect();
    let mut seen = HashSet::new();
    let stays = |pack: &&IndexedPack| !going.contains(&pack.id) && seen.insert(pack.id);
    let fresh = repo.save_index(old.iter().flat_map(|(_, file)| &file.packs).filter(stays).cloned())?;
    for (name, _) in &old {
        repo.store().delete(Kind::Index, name)?;
    }
    Ok((old.into_iter().map(|(name, _)| name.clone()).collect(), fresh))
}
