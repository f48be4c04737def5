//! Makes of a damaged repository a sound one, with all that can still be read.
//!
//! What packs hold is what they say of themselves; an index that is damaged, missing or wrong is made anew from them. Of a damaged
//! pack the blobs that are as they were written move to new ones. What nothing holds any more is named by the paths that need it, and
//! stays in the snapshots unless it is to be dropped from them: a backup that finds the content where it was stores it again, and
//! makes them whole. Each prefix of the writes leaves a repository from which a second run gets just as far.
//!
//! One bad read destroys nothing: what is to be dropped, rewritten or removed as damaged or gone was read twice before the first
//! write, the second time past the caches, and where both differ the repair ends. What is written in its place is read
//! before the old goes.

mod look;
mod trees;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use look::Look;
use pc_switcher_contract::{ErrorKind, ModuleError};
pub use trees::REPAIRED;

use super::check::lost_in;
use super::prune::drop_from_index;
use super::{Lines, Observer, check_cancelled, reading};
use crate::error::{Result, unsteady};
use crate::format::index::{IndexFile, IndexedBlob, IndexedPack};
use crate::format::{BlobKind, Id};
use crate::repo::{Broken, Harm, Held, Location, Repository, Writer, blob_from_pack};
use crate::store::Kind;

/// What is to be repaired.
#[derive(Clone, Copy)]
pub struct RepairOrder<'o> {
    /// Whether each pack is read: damage inside of one shows in no other way.
    pub read_data: bool,
    /// Whether snapshots lose what is lost.
    pub drop_lost: bool,
    /// The lock; without one nothing is written.
    pub alone: Option<&'o Held>,
}

/// What a repair found and did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairSummary {
    /// Keys of which a copy took the place.
    pub keys: Vec<String>,
    /// Index files that were damaged.
    pub indexes: Vec<String>,
    /// Packs of which the index knew nothing, or what is not so.
    pub taken_up: Vec<Id>,
    /// Packs that the index knew and that are not there.
    pub missing: Vec<Id>,
    /// Damaged packs: how many of their blobs moved to new ones, and how many are not as they were written.
    pub damaged: Vec<(Id, u64, u64)>,
    /// Packs of which nobody knows what they held. They stay as they are.
    pub unknown: Vec<Id>,
    /// Snapshots that are damaged themselves.
    pub snapshots: Vec<String>,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// What the snapshots lack: a line for each path.
    pub lost: Lines,
    /// Snapshots that lost what is lost, each with the one in its place; without one where nothing is written.
    pub rewritten: Vec<(Id, Option<Id>)>,
    /// Snapshots that went: those that cannot be read, and those of which nothing is left.
    pub removed: Vec<String>,
}

impl RepairSummary {
    /// Whether there was nothing to repair.
    pub fn is_sound(&self) -> bool {
        *self == Self { read_bytes: self.read_bytes, ..Self::default() }
    }

    /// Whether snapshots lack something in the end.
    pub fn lacks(&self) -> bool {
        let is_lost = !self.lost.is_empty() || !self.snapshots.is_empty();
        is_lost && self.rewritten.is_empty() && self.removed.is_empty()
    }
}

/// Repairs, or says what it would do.
///
/// # Errors
/// If the place cannot be read or written, which says nothing of what it holds; the lock was lost, or the run was cancelled.
pub fn repair(repo: &Repository, order: RepairOrder<'_>, observer: &dyn Observer) -> Result<RepairSummary> {
    let prove = || order.alone.map_or(Ok(()), Held::prove);
    prove()?;
    let (files, broken) = repo.index_found()?;
    be_sure(repo, Kind::Index, &broken)?;
    let (snapshots, broken_snapshots) = repo.snapshots_found()?;
    be_sure(repo, Kind::Snapshot, &broken_snapshots)?;
    let named = by_pack(&files);
    let there = look::listed(repo)?;
    let is_without_packs = !named.is_empty() && !named.keys().any(|id| there.contains_key(id));
    let is_without_snapshots = !named.is_empty() && snapshots.is_empty() && broken_snapshots.is_empty();
    if !order.drop_lost && (is_without_packs || is_without_snapshots) {
        let place = repo.store().place();
        let message = match is_without_packs {
            true => format!(
                "none of the {} packs that the index of `{place}` names is there; nothing was changed",
                named.len()
            ),
            false => format!("the vault in `{place}` has packs and no snapshot; nothing was changed"),
        };
        return Err(ModuleError::new(ErrorKind::Unreachable, message).hint(
            "is all of it mounted? if they are gone for good, `bt repair --drop-lost` goes on without them",
        ));
    }
    let packs: Vec<(Id, u64)> = there.iter().map(|(id, size)| (*id, *size)).collect();
    let looks = reading::each_pack(&packs, observer, |id| {
        let known = named.get(&id).map_or(&[][..], Vec::as_slice);
        look::at(repo, id, there.get(&id).copied().unwrap_or(0), known, order.read_data)
    })?;
    let mut plan = Plan {
        going: named.keys().filter(|id| !there.contains_key(id)).copied().collect(),
        ..Plan::default()
    };
    let mut summary = RepairSummary {
        indexes: broken.iter().map(|index| index.name.clone()).collect(),
        missing: plan.going.iter().copied().collect(),
        read_bytes: (packs.iter().filter(|(id, _)| order.read_data || !named.contains_key(id)))
            .map(|(_, size)| size)
            .sum(),
        ..RepairSummary::default()
    };
    for (id, look) in looks {
        let blobs = named.get(&id).cloned().unwrap_or_default();
        plan.take(IndexedPack { id, blobs }, look, &mut summary);
    }
    look::prove_gone(repo, &summary.missing)?;
    if order.alone.is_some() {
        look::prove_all_seen(repo, &there)?;
    }
    summary.keys = repo.mend_keys(order.alone.is_some())?;
    repo.know(plan.known());
    if order.alone.is_some() {
        prove()?;
        let moved_to = write(repo, &files, &plan, order.read_data, observer, &prove)?;
        for index in &summary.indexes {
            repo.store().delete(Kind::Index, index)?;
        }
        for pack in &plan.damaged {
            check_cancelled(observer)?;
            prove()?;
            repo.store().delete(Kind::Pack, &pack.id.hex())?;
        }
        repo.reload_index()?;
        // What a list left out would count as lost.
        let stay = plan.sound.iter().chain(&plan.fresh).filter(|pack| !pack.blobs.is_empty());
        let mut named = stay.map(|pack| pack.id).chain(moved_to);
        if let Some(pack) = named.find(|id| !repo.knows_pack(id)) {
            let message =
                format!("the index in `{}` does not name the pack `{pack}`, as it did", repo.store().place());
            return Err(ModuleError::failed(message)
                .hint("the memory, the disk or the network is failing: no backup was changed; start again once it is sound"));
        }
    }
    summary.snapshots = broken_snapshots.into_iter().map(|snapshot| snapshot.name).collect();
    summary.lost = lost_in(repo, &snapshots, observer).map_err(|error| match error.kind {
        ErrorKind::Failed if !order.read_data => {
            error.hint("`bt repair --read-data` reads around what a disk does not give any more")
        }
        _ => error,
    })?;
    if order.drop_lost {
        let done = trees::drop_lost(repo, &snapshots, &summary.snapshots, order.alone, observer)?;
        (summary.rewritten, summary.removed) = (done.rewritten, done.removed);
    }
    Ok(summary)
}

/// Proves that documents are damaged: by two reads, and not only written by somebody who knows more than we do.
fn be_sure(repo: &Repository, kind: Kind, broken: &[Broken]) -> Result<()> {
    for one in broken {
        let what = format!("{} `{}`", kind.noun(), one.name);
        match one.harm {
            Harm::Damaged => {}
            Harm::Unsteady => return Err(unsteady(what, &repo.store().place())),
            Harm::Foreign => {
                let message = format!(
                    "the {what} in `{}` is whole, and not understood: {}; nothing was changed",
                    repo.store().place(),
                    one.why
                );
                return Err(ModuleError::failed(message).hint("repair with the program that wrote it"));
            }
        }
    }
    Ok(())
}

/// Returns what index files say of each pack, by where it lies.
fn by_pack(files: &[(String, IndexFile)]) -> BTreeMap<Id, Vec<IndexedBlob>> {
    let mut named: BTreeMap<Id, BTreeMap<u32, IndexedBlob>> = BTreeMap::new();
    for pack in files.iter().flat_map(|(_, file)| &file.packs) {
        named.entry(pack.id).or_default().extend(pack.blobs.iter().map(|blob| (blob.offset, *blob)));
    }
    named.into_iter().map(|(id, blobs)| (id, blobs.into_values().collect())).collect()
}

/// What becomes of the packs.
#[derive(Default)]
struct Plan {
    /// As the index has them.
    sound: Vec<IndexedPack>,
    /// As they are themselves, and the index has not.
    fresh: Vec<IndexedPack>,
    /// With what can be read of them.
    damaged: Vec<IndexedPack>,
    /// What no index is to know as it did.
    going: BTreeSet<Id>,
}

impl Plan {
    fn take(&mut self, pack: IndexedPack, look: Look, summary: &mut RepairSummary) {
        let id = pack.id;
        match look {
            Look::Sound => self.sound.push(pack),
            Look::Gone => {
                self.going.insert(id);
                summary.missing.push(id);
            }
            Look::Unknown => summary.unknown.push(id),
            Look::Otherwise(fresh) => {
                self.going.insert(id);
                summary.taken_up.push(id);
                self.fresh.push(fresh);
            }
            Look::Damaged { good, bad } => {
                self.going.insert(id);
                summary.damaged.push((id, good.blobs.len() as u64, bad));
                self.damaged.push(good);
            }
        }
    }

    fn known(&self) -> impl Iterator<Item = &IndexedPack> {
        // What lies in a sound pack as well is read there.
        self.damaged.iter().chain(&self.fresh).chain(&self.sound)
    }
}

/// Writes what can be read of damaged packs into new ones, then an index of all; returns the new ones.
fn write(
    repo: &Repository,
    files: &[(String, IndexFile)],
    plan: &Plan,
    is_all_read: bool,
    observer: &dyn Observer,
    prove: &dyn Fn() -> Result<()>,
) -> Result<BTreeSet<Id>> {
    let place = |pack: Id, blob: &IndexedBlob| {
        let IndexedBlob { kind, offset, length, uncompressed_length, .. } = *blob;
        Location { pack, kind, offset, length, uncompressed_length }
    };
    let elsewhere: HashMap<(BlobKind, Id), Location> = (plan.sound.iter().chain(&plan.fresh))
        .flat_map(|pack| pack.blobs.iter().map(|blob| ((blob.kind, blob.id), place(pack.id, blob))))
        .collect();
    let is_elsewhere = |blob: &IndexedBlob| match elsewhere.get(&(blob.kind, blob.id)) {
        // A pack that was not read may be the worse one of the two.
        Some(at) => is_all_read || repo.read_at(blob.id, at).is_ok(),
        None => false,
    };
    let mut carried = Vec::new();
    let writer = Writer::new(repo)?;
    let (mut data, mut trees) = (writer.packer(BlobKind::Data)?, writer.packer(BlobKind::Tree)?);
    for pack in &plan.damaged {
        check_cancelled(observer)?;
        for blob in pack.blobs.iter().filter(|blob| !is_elsewhere(blob)) {
            let (id, kind, at) = (blob.id, blob.kind, place(pack.id, blob));
            let (offset, length) = (at.offset.into(), at.length as usize);
            let sealed = repo.store().get_range(Kind::Pack, &pack.id.hex(), offset, length)?;
            // What was read a moment ago may be read otherwise now.
            blob_from_pack(repo.key(), &sealed, id, &at)
                .map_err(|why| crate::error::damaged(format!("pack `{}`", pack.id), why))?;
            let packer = if kind == BlobKind::Tree { &mut trees } else { &mut data };
            packer.carry(id, &at, &sealed)?;
            carried.push((kind, id));
        }
    }
    data.flush()?;
    trees.flush()?;
    writer.index()?;
    repo.save_index(plan.fresh.iter().cloned())?;
    let fresh: BTreeSet<Id> =
        carried.iter().filter_map(|(kind, id)| Some(repo.find(*kind, id)?.pack)).collect();
    for pack in &fresh {
        check_cancelled(observer)?;
        let there = repo.store().get_afresh(Kind::Pack, &pack.hex())?;
        if there.is_none_or(|bytes| Id::of(&bytes) != *pack) {
            let message = format!(
                "the pack `{pack}` was written just now and is read otherwise; the damaged ones stay"
            );
            return Err(ModuleError::failed(message)
                .hint("the memory, the disk, the cable or the network is failing: repair from another machine, or the copy of a disk"));
        }
    }
    prove()?;
    drop_from_index(repo, files, &plan.going.iter().copied().collect()).map(drop)?;
    Ok(fresh)
}
