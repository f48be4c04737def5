//! Sets of read-only snapshots: taking, listing, checking, pinning and removing them.
//!
//! A set is born writable in directories of its own, which lets its members share one transaction, then moved to the
//! flat names and made read-only (facts/btrfs.md B20, B62, B67). A set is there when its `toc` is, and then it is whole;
//! whatever fails removes what was made, and what a crash leaves behind is named by the set's intent and removed by whoever
//! takes or removes the next set.

mod adopt;
mod apart;
mod compare;
mod copies;
mod delete;
mod export;
mod gains;
mod good;
mod held;
mod holders;
mod holdings;
mod layouts;
mod listing;
mod lost;
mod moved_in;
mod needs;
mod nursery;
mod opened;
mod pins;
mod reference;
mod restore;
mod set;
mod sidecar;
mod spot;
mod store;
mod system;
mod verify;
mod versions;
mod volumes;
mod watched;

use std::io;
use std::path::Path;

use pc_switcher_contract::{Hostname, SetId, SnapshotMember, SnapshotSet};

use super::btrfs::{Btrfs, KernelBtrfs, SubvolumeInfo};
use super::machine;
use super::mounts::Mounts;
use super::power;
use super::trees::EVERY;
use crate::proto::{
    AdoptRequest, Adopted, AgentError, AnnotateSet, CreateSet, CreatedSet, DeleteRequest, DiffRequest,
    Diffed, ExportRequest, GoodMark, HeldDirectory, HeldRequest, Holdings, HoldingsRequest, ImportRequest,
    Imported, PinRequest, RestoreReply, RestoreRequest, SetRequest, SetsRequest, StoredSet, Strays,
    SubvolumeFact, TakeSet, Verified, VerifyRequest, Versions, VersionsRequest, VolumeRequest, Words,
};
use crate::server::Call;

pub(super) use apart::{PLACE, place};
pub use needs::{ATTEMPTS, Needs, PAIRS};
pub use reference::Reference;
use sidecar::Said;
use store::Store;
pub use watched::{delete_all_watched, delete_watched, mark_good_watched, pin_watched, take_watched};

/// Takes one read-only snapshot of each subvolume, at one instant if the kernel lets us. The set cannot be removed while the
/// reference is held.
///
/// # Errors
/// If a subvolume is not mounted, lies on another file system that has no place for snapshots, holds a running swap file,
/// or the disk is full. Nothing of the set is left then.
pub fn take_set(request: &TakeSet) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    set::take(&store, &Mounts::read()?, machine::hostname()?, request, &Said::default())
}

/// As [`take_set`], on a machine that has no name yet, with a note.
///
/// # Errors
/// As [`take_set`].
pub(crate) fn take_early(
    request: &TakeSet,
    hostname: Hostname,
    note: String,
) -> Result<SnapshotSet, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    let said = Said { pinned: false, words: Words { note: Some(note), ..Words::default() } };
    set::take(&store, &Mounts::read()?, hostname, request, &said).map(|(set, _)| set)
}

/// As [`take_set`], with what people say of the set: it is there together with the set, or neither is. Where there is no btrfs,
/// or copies are asked for, it is a set of copies; `stop` ends the work.
///
/// # Errors
/// As [`take_set`]; or what cannot be copied.
pub fn create_set(
    request: &CreateSet,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(CreatedSet, Option<Reference>), AgentError> {
    copies::create(&KernelBtrfs, &Mounts::read()?, request, stop)
}

/// Sends the stream of a set; items: its bytes.
///
/// # Errors
/// If it is not root who asks, the set is not what was taken, or the caller gave up.
pub fn export(request: &ExportRequest, call: &Call) -> Result<(), AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.export(&Mounts::read()?, request, call)
}

/// Takes the stream of a set in, as a set of copies; uploads: its bytes.
///
/// # Errors
/// If it is not root who asks, the stream is damaged, there is such a set, or the disk is full. Nothing is left then.
pub fn import(request: &ImportRequest, call: &Call) -> Result<Imported, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.import(request, call)
}

/// Whether sets of ours hold all of these subvolumes as they are now.
///
/// # Errors
/// If one is not mounted, or the snapshot directory cannot be read.
pub fn has_all(request: &TakeSet) -> Result<bool, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    if KernelBtrfs.fs_uuid(&nearest(request.snapshot_dir.as_path())).is_err() {
        // Only a look at every file would tell.
        return Ok(false);
    }
    let sources = set::sources(&EVERY, &Mounts::read()?, request)?;
    for source in &sources {
        if !store.has_as_it_is(source)? {
            return Ok(false);
        }
    }
    Ok(!sources.is_empty())
}

/// Takes a set of trees that no path shows, such as those beside the subvolumes in place; those that a set has as they are now
/// are left out. `None` if that is so of all.
///
/// # Errors
/// As [`take_set`].
pub fn keep_trees(
    trees: Vec<SubvolumeFact>,
    request: &TakeSet,
    note: String,
) -> Result<Option<SnapshotSet>, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    let mut new = Vec::new();
    for tree in trees {
        if !store.has_as_it_is(&tree)? {
            new.push(tree);
        }
    }
    if new.is_empty() {
        return Ok(None);
    }
    let said = Said { pinned: false, words: Words { note: Some(note), ..Words::default() } };
    set::take_of(&store, &new, machine::hostname()?, request, &said).map(|(set, _)| Some(set))
}

/// Whether every member is there, read-only, the same and never changed; the text names the first that is not.
pub fn check_set(set: &SnapshotSet) -> Result<(), String> {
    set.members.iter().try_for_each(|member| check_member(&EVERY, member))
}

/// Says why members are not to be had that lie on another disk, if so: that is not there.
pub(super) fn away(set: &SnapshotSet) -> Option<String> {
    set.members.iter().find_map(|member| apart::is_at_hand(&EVERY, member).err())
}

/// Removes a set that its session takes back. Members that are gone already are fine; one that is not ours any more stays.
///
/// # Errors
/// Names what stays, and why.
pub fn drop_set(set: &SnapshotSet) -> Result<(), AgentError> {
    drop_from(&EVERY, set)
}

fn drop_from(btrfs: &dyn Btrfs, set: &SnapshotSet) -> Result<(), AgentError> {
    let Some(dir) = set.dir() else { return Ok(()) };
    let store = Store::new(btrfs, dir.as_path());
    match store.sidecar(&set.id()).has_toc() {
        true => store.delete(&set.id(), || Ok(Vec::new())),
        false => Ok(()),
    }
}

/// Hands every whole set to `found`, oldest first, and returns what else lies in the directory. Changes nothing. Without
/// needs the answer says why.
///
/// # Errors
/// If the directory cannot be read, or what `found` says.
pub fn list_sets(
    snapshot_dir: &Path,
    needs: Result<Needs, AgentError>,
    found: &mut dyn FnMut(StoredSet) -> Result<(), AgentError>,
) -> Result<Strays, AgentError> {
    let doubt = needs.as_ref().err().map(ToString::to_string);
    let needs = needs.unwrap_or_default();
    let strays = Store::new(&EVERY, snapshot_dir).list(&|id| needs.of(id), found)?;
    Ok(Strays { doubt, on_battery: power::on_battery(Path::new(power::SUPPLIES)), ..strays })
}

/// Removes a set that nobody wants to keep. `needs` are read when nobody else takes or removes sets any more. Returns the members that
/// were given up, as the request allows: their disks are away.
///
/// # Errors
/// If there is none, it is pinned, in use or needed, or the machine does not let it go.
pub fn delete_set(
    request: &DeleteRequest,
    needs: impl FnOnce() -> Result<Needs, AgentError>,
) -> Result<Vec<SnapshotMember>, AgentError> {
    let DeleteRequest { set: SetRequest { snapshot_dir, id }, allow_loss } = request;
    let store = Store::new(&EVERY, snapshot_dir.as_path());
    store.delete_but(id, *allow_loss, || Ok(needs()?.of(id)))
}

/// Removes sets that nobody wants to keep, all with one commit, and says why those stay that do. `needs` are read when nobody else
/// takes or removes sets any more.
///
/// # Errors
/// If another process takes or removes sets, or it cannot be told which are needed: then all stay.
pub fn delete_sets(
    request: &SetsRequest,
    needs: impl FnOnce() -> Result<Needs, AgentError>,
) -> Result<Vec<(SetId, Option<String>)>, AgentError> {
    Store::new(&EVERY, request.snapshot_dir.as_path()).delete_all(&request.ids, needs)
}

/// Removes a volume of LVM that is marked as ours and that nothing in the directory names.
///
/// # Errors
/// If it is none of these, somebody has it open, or what LVM says.
pub fn delete_volume(request: &VolumeRequest) -> Result<(), AgentError> {
    Store::new(&EVERY, request.snapshot_dir.as_path()).delete_volume(&request.name)
}

/// Pins a set, or frees it again.
///
/// # Errors
/// If there is none, it cannot be pinned so, or its record cannot be written.
pub fn pin_set(request: &PinRequest) -> Result<(), AgentError> {
    let PinRequest { set, order } = request;
    Store::new(&EVERY, set.snapshot_dir.as_path()).pin_as(&set.id, order)
}

/// Returns a set as it can be read: in place of a member that is gone, or not what was taken, stands the one of its pin.
pub fn with_pin(snapshot_dir: &Path, set: &SnapshotSet) -> SnapshotSet {
    let store = Store::new(&EVERY, snapshot_dir);
    match store.published(&set.id()) {
        Ok(meta) if meta.set == *set => store.with_pin(&meta),
        _ => set.clone(),
    }
}

/// Writes what a set is for, and by which words it is found.
///
/// # Errors
/// If there is none, or its record cannot be written.
pub fn annotate_set(request: AnnotateSet) -> Result<(), AgentError> {
    let AnnotateSet { set, note, tags, untags } = request;
    let store = Store::new(&EVERY, set.snapshot_dir.as_path());
    store.say(&set.id, |meta| {
        meta.words.note = note.unwrap_or(meta.words.note.take());
        meta.words.tags.retain(|tag| !untags.contains(tag));
        meta.words.tags.extend(tags);
    })
}

/// Returns the digest of `/etc/fstab` that a set recorded, if it did.
pub(crate) fn fstab_digest(snapshot_dir: &Path, id: &SetId) -> Option<String> {
    Store::new(&EVERY, snapshot_dir).sidecar(id).meta(id).ok()?.system?.system.fstab
}

/// Marks a set as known to be good, and takes the mark from those whose place it takes; or takes marks away. Returns what is to be
/// said, a line each.
///
/// # Errors
/// If there is none, or a record cannot be written.
pub fn mark_good(snapshot_dir: &Path, mark: &GoodMark) -> Result<Vec<String>, AgentError> {
    Store::new(&EVERY, snapshot_dir).mark_good(mark)
}

/// Says what removing the sets of each session would free; items: [`crate::proto::Gain`].
///
/// # Errors
/// If a tree cannot be read, or the caller gave up.
pub fn gains(snapshot_dir: &Path, call: &Call) -> Result<(), AgentError> {
    Store::new(&EVERY, snapshot_dir).gains(&Mounts::read()?, call)
}

/// Looks what the file system of the snapshots holds.
///
/// # Errors
/// If a tree cannot be read, or the caller gave up.
pub fn holdings(request: &HoldingsRequest, call: &Call) -> Result<Holdings, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.holdings(&Mounts::read()?, &request.subvolumes, call)
}

/// Looks whether sets are what was taken; items: [`crate::proto::Finding`].
///
/// # Errors
/// If the directory cannot be read, a set that was asked for does not exist, or the caller gave up.
pub fn verify(request: &VerifyRequest, call: &Call) -> Result<Verified, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.verify(&request.ids, request.deep, call)
}

/// Takes up snapshots that are in no set.
///
/// # Errors
/// If a directory cannot be read, or the store cannot be written to.
pub fn adopt(request: &AdoptRequest) -> Result<Adopted, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.adopt(&Mounts::read()?, &machine::hostname()?, request)
}

/// Hands directories of a set over to whoever asks.
///
/// # Errors
/// If there is no such set, or the socket that was named does not take them.
pub fn hand_over(request: &HeldRequest) -> Result<Vec<HeldDirectory>, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.hand_over(&Mounts::read()?, request)
}

/// Brings paths back, all of them or none.
///
/// # Errors
/// If the set is not what was taken, or a path cannot be read or written by whoever asks.
pub fn restore(request: &RestoreRequest, call: &Call) -> Result<RestoreReply, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.restore(&Mounts::read()?, &machine::hostname()?, request, call)
}

/// Returns the versions of a file over all sets.
///
/// # Errors
/// If the path lies on no subvolume that a set could hold, or cannot be read.
pub fn versions(request: &VersionsRequest, call: &Call) -> Result<Versions, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.versions(&Mounts::read()?, request, call)
}

/// Says what differs between two sets; items: `Vec<`[`crate::proto::Change`]`>`.
///
/// # Errors
/// If a set is not there or not what was taken, or the caller gave up.
pub fn diff(request: &DiffRequest, call: &Call) -> Result<Diffed, AgentError> {
    let store = Store::new(&EVERY, request.snapshot_dir.as_path());
    store.diff(&Mounts::read()?, &machine::hostname()?, request, call)
}

fn check_member(btrfs: &dyn Btrfs, member: &SnapshotMember) -> Result<(), String> {
    apart::is_at_hand(btrfs, member)?;
    let info = btrfs
        .subvolume(member.path.as_path())
        .map_err(|error| format!("snapshot `{}` cannot be read: {error}", member.path))?;
    if info.uuid.hex() != member.uuid {
        return Err(format!("`{}` is not the snapshot that was taken", member.path));
    }
    if is_foreign(member) {
        // It may be writable, as its maker likes it.
        return Ok(());
    }
    untouched(&info).map_err(|why| format!("snapshot `{}` {why}", member.path))?;
    match matches_record(&info, member) {
        true => Ok(()),
        false => Err(format!("snapshot `{}` does not match its record", member.path)),
    }
}

/// Whether a member stands where another tool has put it: ours stand under their names.
pub(crate) fn is_foreign(member: &SnapshotMember) -> bool {
    member.path.name() != member.name.to_string().as_bytes()
}

fn matches_record(info: &SubvolumeInfo, member: &SnapshotMember) -> bool {
    info.otransid == member.otransid && info.source_uuid.hex() == member.source_uuid
}

/// The tamper check (facts/btrfs.md B29).
fn untouched(info: &SubvolumeInfo) -> Result<(), String> {
    if !info.readonly {
        return Err("is writable".into());
    }
    if info.ctransid > info.otransid {
        return Err("was changed after it was taken".into());
    }
    Ok(())
}

/// Returns the nearest directory above that is there, or the one itself.
fn nearest(dir: &Path) -> std::path::PathBuf {
    dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn stays(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "it is pinned, being sent, or root is needed".into(),
        Some(libc::ENOTEMPTY) => "a subvolume lies inside it".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod adopt_tests;
#[cfg(test)]
mod apart_tests;
#[cfg(test)]
mod away_tests;
#[cfg(test)]
mod compare_tests;
#[cfg(test)]
mod copies_tests;
#[cfg(test)]
mod elsewhere_tests;
#[cfg(test)]
mod forecast_tests;
#[cfg(test)]
mod gains_tests;
#[cfg(test)]
mod good_tests;
#[cfg(test)]
mod held_tests;
#[cfg(test)]
mod moved_in_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod pins_tests;
#[cfg(test)]
mod restore_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod system_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod verify_tests;
#[cfg(test)]
mod volumes_faults_tests;
#[cfg(test)]
mod volumes_tests;
