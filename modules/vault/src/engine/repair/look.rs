//! What a pack is, beside what the index says of it.

use std::collections::BTreeMap;

use pc_switcher_contract::{ErrorKind, ModuleError};

use crate::error::{Result, unsteady};
use crate::format::Id;
use crate::format::index::{IndexedBlob, IndexedPack};
use crate::repo::{Location, Repository, blob_from_pack};
use crate::store::Kind;

/// What was found of a pack.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is as the index has it.
    Sound,
    /// It is sound, and not as the index has it.
    Otherwise(IndexedPack),
    /// Some of its blobs are as they were written, and so many others are not.
    Damaged { good: IndexedPack, bad: u64 },
    /// Nothing says what it held.
    Unknown,
    /// It is not there any more.
    Gone,
}

/// Looks at a pack of this size of which the index knows these blobs, by where they lie. What is damaged is read twice.
///
/// # Errors
/// If it cannot be read, or a second read is not what the first one was.
pub(super) fn at(repo: &Repository, id: Id, size: u64, known: &[IndexedBlob], reads: bool) -> Result<Look> {
    let end = known.last().map_or(0, |blob| u64::from(blob.offset) + u64::from(blob.length));
    if !reads && !known.is_empty() && end <= size {
        return Ok(Look::Sound);
    }
    // One that no index knows is read in any case: a repair that was killed may have taken it out for being damaged.
    let (bytes, is_salvaged) = match repo.store().get(Kind::Pack, &id.hex()) {
        Err(error) if error.kind == ErrorKind::Failed => (repo.store().salvage(Kind::Pack, &id.hex())?, true),
        read => (read?, false),
    };
    let Some(bytes) = bytes else { return Ok(Look::Gone) };
    let (first, look) = (Id::of(&bytes), judge(repo, id, &bytes, known));
    if matches!(look, Look::Sound | Look::Otherwise(_)) {
        return Ok(look);
    }
    // Packs are large: only one of the two is held at a time.
    drop(bytes);
    let again = match is_salvaged {
        true => repo.store().salvage(Kind::Pack, &id.hex())?,
        false => repo.store().get_afresh(Kind::Pack, &id.hex())?,
    };
    match again.map(|bytes| (Id::of(&bytes), judge(repo, id, &bytes, known))) {
        Some((second, found)) if second == first && found == look => Ok(look),
        _ => Err(unsteady(format!("pack `{id}`"), &repo.store().place())),
    }
}

/// Proves that packs are not there: neither in another list nor when they are asked for.
pub(super) fn prove_gone(repo: &Repository, packs: &[Id]) -> Result<()> {
    if packs.is_empty() {
        return Ok(());
    }
    let listed = listed(repo)?;
    for pack in packs {
        if listed.contains_key(pack) || repo.store().get_afresh(Kind::Pack, &pack.hex())?.is_some() {
            return Err(of_two_minds(repo, *pack));
        }
    }
    Ok(())
}

/// Proves by another list that there is no pack besides those that were looked at: of one that a list leaves out and that only a
/// damaged index names nobody would know, and what lies in it would count as lost.
pub(super) fn prove_all_seen(repo: &Repository, seen: &BTreeMap<Id, u64>) -> Result<()> {
    match listed(repo)?.keys().find(|pack| !seen.contains_key(pack)) {
        Some(pack) => Err(of_two_minds(repo, *pack)),
        None => Ok(()),
    }
}

/// Returns the packs that a store lists, with their sizes.
pub(super) fn listed(repo: &Repository) -> Result<BTreeMap<Id, u64>> {
    let all = repo.store().list(Kind::Pack)?;
    Ok(all.into_iter().filter_map(|(name, size)| Some((name.parse().ok()?, size))).collect())
}

fn of_two_minds(repo: &Repository, pack: Id) -> ModuleError {
    let message = format!(
        "`{}` says of the pack `{}` once that it is there, and once that it is not; nothing was changed",
        repo.store().place(),
        pack.hex()
    );
    ModuleError::failed(message)
        .hint("the disk, the server or the network is failing, or not all of the vault is mounted")
}

/// Says what the bytes of a pack are.
fn judge(repo: &Repository, id: Id, bytes: &[u8], known: &[IndexedBlob]) -> Look {
    let header = repo.header_in(bytes).ok().map(|entries| IndexedPack::of(id, &entries));
    if let Some(header) = &header
        && Id::of(bytes) == id
    {
        return if header.blobs == known { Look::Sound } else { Look::Otherwise(header.clone()) };
    }
    let said = header.map(|header| header.blobs).unwrap_or_default();
    let all: BTreeMap<u32, IndexedBlob> =
        known.iter().copied().chain(said).map(|blob| (blob.offset, blob)).collect();
    if all.is_empty() {
        return Look::Unknown;
    }
    let count = all.len();
    let is_good = |blob: &IndexedBlob| {
        let IndexedBlob { id: blob_id, kind, offset, length, uncompressed_length } = *blob;
        let place = Location { pack: id, kind, offset, length, uncompressed_length };
        let sealed = bytes.get(offset as usize..).and_then(|rest| rest.get(..length as usize));
        sealed.is_some_and(|sealed| blob_from_pack(repo.key(), sealed, blob_id, &place).is_ok())
    };
    let good = IndexedPack { id, blobs: all.into_values().filter(is_good).collect() };
    let bad = (count - good.blobs.len()) as u64;
    Look::Damaged { good, bad }
}
