//! Of which directories or volumes a set is where there is no btrfs, and how it is kept.

use std::path::Path;
use std::sync::Mutex;

use pc_switcher_contract::{BytePath, SnapshotSet, SubvolumeName};

use super::reference::Reference;
use super::sidecar::Said;
use super::store::Store;
use super::{machine, nearest, set, volumes};
use crate::data::rules::{Decision, Rules};
use crate::data::trees::Form;
use crate::linux::btrfs::Btrfs;
use crate::linux::lvm::{self, Origin, Volume};
use crate::linux::mounts::{Mount, Mounts, is_plain};
use crate::linux::trees::{self, Making, Members};
use crate::proto::{AgentError, Backend, CopyOrder, CreateSet, CreatedSet, TakeSet};

const NOTHING: &str = "none of the directories of [snapshots.components] is there, or all are excluded, so there is \
                       nothing to keep";

/// How a set of copies keeps content; `None` if the set is to be one of snapshots.
pub(super) fn form(kernel: &dyn Btrfs, order: &CopyOrder, snapshot_dir: &Path) -> Option<Form> {
    let is_btrfs = || kernel.fs_uuid(&nearest(snapshot_dir)).is_ok();
    match order.backend {
        Backend::Btrfs => None,
        Backend::Auto => (!is_btrfs()).then_some(Form::Hardlink),
        Backend::Hardlink => Some(Form::Hardlink),
        Backend::Archive => Some(Form::Archive),
        Backend::Lvm => Some(Form::Volume),
    }
}

/// Returns how a set of copies keeps content; `None` if it is one of snapshots.
pub(super) fn form_of(set: &SnapshotSet) -> Option<Form> {
    let copies = set.members.iter().filter(|member| member.name.subvolume.directory().is_some());
    copies.map(|member| trees::form_of(member.path.as_path()).unwrap_or(Form::Hardlink)).next()
}

/// Takes a set that people want, of snapshots or of copies.
///
/// # Errors
/// As [`set::take`]; or if there is nothing to copy, or the caller gave up.
pub(super) fn create(
    kernel: &dyn Btrfs,
    mounts: &Mounts,
    request: &CreateSet,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(CreatedSet, Option<Reference>), AgentError> {
    let snapshot_dir = request.set.snapshot_dir.as_path();
    let mut wanted = request.set.clone();
    if let Some(form) = form(kernel, &request.copies, snapshot_dir) {
        let mut notes = Vec::new();
        wanted.subvolumes = match form {
            Form::Volume => names_of_volumes(kernel, mounts, &request.copies, &mut notes)?,
            Form::Hardlink | Form::Archive => names(mounts, &request.copies, &request.set.snapshot_dir)?,
        };
        let (mut created, reference) = copy(kernel, mounts, (&wanted, request), form, stop)?;
        created.notes.extend(notes);
        return Ok((created, reference));
    }
    let members = Members::of(kernel);
    let store = Store::new(&members, snapshot_dir);
    let said = said(request);
    let (set, reference) = set::take(&store, mounts, machine::hostname()?, &wanted, &said)?;
    Ok((CreatedSet { set, notes: Vec::new() }, reference))
}

/// Takes a set of copies of the directories that the names in `wanted` mean.
pub(super) fn copy(
    kernel: &dyn Btrfs,
    mounts: &Mounts,
    (wanted, request): (&TakeSet, &CreateSet),
    form: Form,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(CreatedSet, Option<Reference>), AgentError> {
    let members = Members::making(kernel, making(kernel, mounts, (wanted, request), form, stop)?);
    let taken = {
        let store = Store::new(&members, request.set.snapshot_dir.as_path());
        set::take(&store, mounts, machine::hostname()?, wanted, &said(request))
    };
    let (set, reference): (SnapshotSet, Option<Reference>) = taken?;
    Ok((CreatedSet { set, notes: members.notes() }, reference))
}

/// Returns how members of these names are made; of volumes it is looked at before whether that can be.
pub(super) fn making<'a>(
    kernel: &dyn Btrfs,
    mounts: &Mounts,
    (wanted, request): (&TakeSet, &'a CreateSet),
    form: Form,
    stop: &'a (dyn Fn() -> bool + Sync),
) -> Result<Making<'a>, AgentError> {
    let order = &request.copies;
    let (origins, notes) = match form {
        Form::Volume => {
            let (origins, notes) = origins(kernel, mounts, &wanted.subvolumes)?;
            volumes::apart(mounts, &origins, &wanted.snapshot_dir)?;
            (origins, notes)
        }
        Form::Hardlink | Form::Archive => Default::default(),
    };
    let notes = Mutex::new(notes);
    Ok(Making { form, level: order.level, rules: &order.rules, stop, origins, notes })
}

fn said(request: &CreateSet) -> Said {
    Said { pinned: request.pinned, words: request.words.clone() }
}

/// Returns how the members of a set are kept.
pub(super) fn backend_of(set: &SnapshotSet) -> Backend {
    match form_of(set) {
        None => Backend::Btrfs,
        Some(Form::Hardlink) => Backend::Hardlink,
        Some(Form::Archive) => Backend::Archive,
        Some(Form::Volume) => Backend::Lvm,
    }
}

pub(super) fn volumes(kernel: &dyn Btrfs) -> Result<Vec<Volume>, AgentError> {
    lvm::all(kernel.lvm(), &lvm::never)
        .map_err(|error| AgentError::io("cannot look at the volumes of LVM", &error))
}

/// Returns the volumes that are mounted where these names say, and what is to be told of them. Their pools have room.
fn origins(
    kernel: &dyn Btrfs,
    mounts: &Mounts,
    names: &[SubvolumeName],
) -> Result<(Vec<Origin>, Vec<String>), AgentError> {
    let volumes = volumes(kernel)?;
    let places = names.iter().filter_map(SubvolumeName::directory);
    let origins: Vec<Origin> =
        places.map(|place| lvm::origin_at(mounts, &volumes, &place)).collect::<Result<_, _>>()?;
    let notes = lvm::room(&volumes, &origins)?;
    Ok((origins, notes))
}

/// Returns the names of all volumes that hold the directories asked for, and adds what is left out.
fn names_of_volumes(
    kernel: &dyn Btrfs,
    mounts: &Mounts,
    order: &CopyOrder,
    notes: &mut Vec<String>,
) -> Result<Vec<SubvolumeName>, AgentError> {
    if order.folders.is_empty() {
        return Err(AgentError::failed(NOTHING));
    }
    order.folders.iter().try_for_each(volumes::check_folder)?;
    // Without a table nothing is to be mounted.
    let fstab = std::fs::read("/etc/fstab").unwrap_or_default();
    notes.extend(volumes::unmounted(&fstab, mounts, &order.folders)?);
    let (origins, told) = lvm::origins(mounts, &volumes(kernel)?, &order.folders)?;
    notes.extend(told);
    origins.iter().map(|origin| name_of(&origin.place)).collect()
}

fn name_of(path: &BytePath) -> Result<SubvolumeName, AgentError> {
    SubvolumeName::of_directory(path).map_err(|error| AgentError::failed(error.to_string()))
}

/// Whether a directory is there, under its own name.
fn is_there(path: &BytePath) -> bool {
    let real = || std::fs::canonicalize(path.as_path());
    is_plain(path.as_path()) && real().is_ok_and(|real| real == path.as_path() && real.is_dir())
}

/// Returns the names of all directories that are to be copied: those that are asked for and are there, and what is mounted
/// below them from disks.
fn names(
    mounts: &Mounts,
    order: &CopyOrder,
    snapshot_dir: &BytePath,
) -> Result<Vec<SubvolumeName>, AgentError> {
    let mut places: Vec<BytePath> = Vec::new();
    for folder in order.folders.iter().filter(|path| is_there(path)) {
        let Some(holder) = mounts.holding(folder) else { continue };
        // One that shows a part of the same file system once more is left out, as it is within a copy.
        let is_wanted = |mount: &&Mount| {
            // What is no disk, as memory and networks, is left out.
            mount.is_disk()
                && mount.device != holder.device
                && mount.point != *folder
                && mount.point.is_within(folder)
                && mount.point.as_path().is_dir()
        };
        let below = mounts.visible().filter(is_wanted).map(|mount| mount.point.clone());
        places.extend(std::iter::once(folder.clone()).chain(below));
    }
    places.sort();
    places.dedup();
    // What lies in another directory of the same mount is copied with that.
    let all = places.clone();
    let mount = |path: &BytePath| mounts.holding(path).map(|mount| mount.id);
    places.retain(|path| {
        let is_above = |other: &&BytePath| *other != path && path.is_within(other);
        let nearest = all.iter().filter(is_above).max_by_key(|other| other.as_bytes().len());
        let is_copied = nearest.is_some_and(|other| mount(other) == mount(path));
        !is_copied && !path.is_within(snapshot_dir) && is_kept(order, path)
    });
    if places.is_empty() {
        return Err(AgentError::failed(NOTHING));
    }
    places.iter().map(name_of).collect()
}

fn is_kept(order: &CopyOrder, path: &BytePath) -> bool {
    let prefix = BytePath::new(path.as_bytes().strip_prefix(b"/").unwrap_or_default());
    // A pattern that is none is told of when the copy is made.
    Rules::compile(&order.rules, &prefix).map_or(true, |rules| rules.decide_root() == Decision::Keep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Rule, RuleSet};

    #[test]
    fn a_set_is_of_directories_that_are_there_once_each_and_of_disks_mounted_below() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        for name in ["home/ann/data", "home/tmp", "home/bob", "etc", "snaps", "cache"] {
            std::fs::create_dir_all(top.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(top.join("etc"), top.join("link")).unwrap();
        let at = |name: &str| BytePath::from(top.join(name).as_path());
        let table = format!(
            "20 1 8:1 / / rw - ext4 x rw\n21 20 8:2 / {} rw - xfs x rw\n22 20 0:9 / {} rw - tmpfs x rw\n\
             23 20 8:1 /etc {} rw - ext4 x rw\n",
            at("home/ann/data"),
            at("home/tmp"),
            at("home/bob"),
        );
        let order = CopyOrder {
            folders: ["home", "home/ann", "etc", "nowhere", "link", "snaps", "cache"].map(at).to_vec(),
            rules: RuleSet {
                forced: Vec::new(),
                layered: vec![Rule { pattern: at("cache").to_string(), reason: String::new() }],
            },
            ..CopyOrder::default()
        };
        let names = names(&Mounts::parse(table.as_bytes()), &order, &at("snaps")).unwrap();
        let places: Vec<BytePath> = names.iter().filter_map(SubvolumeName::directory).collect();
        assert_eq!(places, [at("etc"), at("home"), at("home/ann/data")]);
    }
}
