//! How folders lie on subvolumes, resolved through the mount table (rulings 2).
//!
//! Every folder falls into parts: itself and each btrfs mount below it. Anything else mounted below is left out and
//! named, and so is a second view of what another part of the same folder holds already.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use pc_switcher_contract::{BytePath, SubvolumeName};

use super::btrfs::{Btrfs, FS_TREE, KernelBtrfs, SubvolumeInfo, Uuid, relative};
use super::diagnose::swap_files;
use super::finder::{Finder, privileged};
use super::mounts::{Mount, Mounts, is_plain};
use super::snapshots::{PLACE, place};
use crate::data::HOME;
use crate::proto::{
    AgentError, FolderPart, ForeignMount, Layout, LayoutRequest, OtherPlace, Standing, SubvolumeFact,
};

/// Resolves the request on this machine.
///
/// # Errors
/// If the mounts or the file systems cannot be looked at.
pub fn layout(request: &LayoutRequest) -> Result<Layout, AgentError> {
    layout_on(&KernelBtrfs, &Mounts::read()?, request)
}

/// A part and what was found out on the way.
struct Found {
    part: FolderPart,
    /// File system and subvolume; `None` without btrfs.
    place: Option<(Uuid, SubvolumeInfo)>,
}

pub(super) fn layout_on(
    btrfs: &dyn Btrfs,
    mounts: &Mounts,
    request: &LayoutRequest,
) -> Result<Layout, AgentError> {
    let Sorted { present, missing_folders, unfit_folders } = sort_out(&request.folders);
    let mut near: Vec<&BytePath> = vec![&request.snapshot_dir];
    near.extend(present.iter().copied());
    let finder = Finder::new(btrfs, mounts, &near)?;
    let swaps = swap_files(mounts).into_iter().map(|file| file.subvolume_root).collect();
    let survey = Survey { btrfs, mounts, finder: &finder, snapshot_dir: &request.snapshot_dir, swaps };

    let (mut found, mut foreign) = (Vec::new(), Vec::new());
    for folder in present {
        survey.folder(folder, &mut found, &mut foreign)?;
        for root in request.nested.iter().filter(|root| *root != folder && root.is_within(folder)) {
            found.push(survey.wanted(folder, root)?);
        }
    }
    let (mut subvolumes, mut missing_subvolumes) = (Vec::new(), Vec::new());
    for name in &request.subvolumes {
        match finder.by_name(name) {
            Some(fact) if !subvolumes.contains(&fact) => subvolumes.push(fact),
            Some(_) => {}
            None => missing_subvolumes.push(name.clone()),
        }
    }
    for one in &found {
        let (Some(name), Some((fs, info))) = (&one.part.subvolume, &one.place) else { continue };
        match finder.fact(finder.system(*fs)?, info.id) {
            Some(fact) if !subvolumes.iter().any(|other| other.uuid == fact.uuid) => subvolumes.push(fact),
            Some(_) => {}
            None if !missing_subvolumes.contains(name) => missing_subvolumes.push(name.clone()),
            None => {}
        }
    }
    let held: Vec<SubvolumeName> = subvolumes.iter().map(|fact| fact.name.clone()).collect();
    let snapshots = survey.snapshots(&held);
    let is_meant = |fact: &SubvolumeFact| finder.by_name(&fact.name).is_none_or(|one| one.uuid == fact.uuid);
    let doubled = subvolumes.iter().filter(|fact| !is_meant(fact)).cloned().collect();
    let others = match snapshots.fs_uuid.is_empty() {
        true => Vec::new(),
        false => survey.others(&subvolumes, &snapshots.fs_uuid),
    };
    Ok(Layout {
        parts: found.into_iter().map(|one| one.part).collect(),
        missing_folders,
        unfit_folders,
        foreign,
        subvolumes,
        missing_subvolumes,
        known_subvolumes: finder.known(),
        snapshot_fs_uuid: snapshots.fs_uuid,
        snapshot_dir_exists: snapshots.exists,
        snapshot_dir_own_subvolume: snapshots.own_subvolume,
        snapshot_dir_is_open: snapshots.is_open,
        others,
        doubled,
    })
}

struct Sorted<'a> {
    present: Vec<&'a BytePath>,
    missing_folders: Vec<BytePath>,
    unfit_folders: Vec<(BytePath, String)>,
}

/// Sorts folders into those that are here, those that are not, and those that cannot be mirrored.
fn sort_out(folders: &[BytePath]) -> Sorted<'_> {
    let mut sorted = Sorted { present: Vec::new(), missing_folders: Vec::new(), unfit_folders: Vec::new() };
    for folder in folders {
        match check(folder.as_path()) {
            Ok(true) => sorted.present.push(folder),
            Ok(false) => sorted.missing_folders.push(folder.clone()),
            Err(why) => sorted.unfit_folders.push((folder.clone(), why)),
        }
    }
    sorted
}

/// Whether a folder exists; an error if it is none that could be mirrored.
fn check(folder: &Path) -> Result<bool, String> {
    if !is_plain(folder) {
        return Err("is not a plain absolute path".into());
    }
    match std::fs::canonicalize(folder) {
        Ok(real) if real != folder => {
            let real = BytePath::from(real.as_path());
            Err(format!("leads through a symbolic link; name `{real}` instead"))
        }
        Ok(_) if !folder.is_dir() => Err("is not a directory".into()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match folder.symlink_metadata() {
            Ok(_) => Err("is a symbolic link that leads nowhere".into()),
            Err(_) => Ok(false),
        },
        Err(error) => Err(format!("cannot be looked at: {error}")),
    }
}

/// Whether a directory lets others than root in.
fn is_open(dir: &Path) -> bool {
    std::fs::metadata(dir).is_ok_and(|meta| meta.uid() != 0 || meta.mode() & 0o077 != 0)
}

struct SnapshotDir {
    fs_uuid: String,
    exists: bool,
    own_subvolume: bool,
    is_open: bool,
}

struct Survey<'a> {
    btrfs: &'a dyn Btrfs,
    mounts: &'a Mounts,
    finder: &'a Finder<'a>,
    snapshot_dir: &'a BytePath,
    /// Roots of subvolumes that hold swap files in use, of which no snapshot can be taken.
    swaps: Vec<BytePath>,
}

impl Survey<'_> {
    /// Adds the parts of one folder and the mounts below it that are left out.
    fn folder(
        &self,
        folder: &BytePath,
        found: &mut Vec<Found>,
        foreign: &mut Vec<ForeignMount>,
    ) -> Result<(), AgentError> {
        let holder = self
            .mounts
            .holding(folder)
            .ok_or_else(|| AgentError::failed(format!("no mount shows `{folder}`")))?;
        let first = found.len();
        found.push(self.part(folder, folder, holder)?);
        let mut below: Vec<&Mount> = self
            .mounts
            .visible()
            .filter(|mount| mount.point != *folder && mount.point.is_within(folder))
            .collect();
        below.sort_by(|a, b| a.point.cmp(&b.point));
        for mount in below {
            let leave_out = |why: &str| ForeignMount { path: mount.point.clone(), fs_type: why.to_owned() };
            if !mount.is_btrfs() {
                foreign.push(leave_out(&mount.fs_type));
            } else if mount.point.is_within(self.snapshot_dir) || is_place(mount) {
                foreign.push(leave_out("btrfs, snapshots"));
            } else if !mount.point.as_path().is_dir() {
                foreign.push(leave_out("btrfs, a bound file"));
            } else {
                let one = self.part(folder, &mount.point, mount)?;
                if found[first..].iter().any(|other| overlap(other, &one)) {
                    foreign.push(leave_out("btrfs, bound from the same folder"));
                } else if one.place.as_ref().is_some_and(|(_, info)| info.readonly) {
                    foreign.push(leave_out("btrfs, read-only subvolume"));
                } else {
                    found.push(one);
                }
            }
        }
        Ok(())
    }

    fn part(&self, folder: &BytePath, root: &BytePath, mount: &Mount) -> Result<Found, AgentError> {
        let is_empty = std::fs::read_dir(root.as_path())
            .map(|mut entries| entries.next().is_none())
            .map_err(|error| AgentError::io(format!("cannot list `{root}`"), &error))?;
        let mut part = FolderPart { is_empty, leftovers: leftovers(root), ..bare(folder, root, mount) };
        if !mount.is_btrfs() {
            return Ok(Found { part, place: None });
        }
        let failed = |error: io::Error| privileged("look up the subvolume of", root, &error);
        let fs = self.btrfs.fs_uuid(root.as_path()).map_err(failed)?;
        let info = self.btrfs.subvolume(root.as_path()).map_err(failed)?;
        let tree = &self.finder.system(fs)?.tree;
        part.inside = BytePath::new(self.btrfs.inside(root.as_path()).map_err(failed)?);
        part.subvolume = tree.name(info.id);
        part.subvolume_uuid = info.uuid.hex();
        part.fs_uuid = fs.dashed();
        let nested = tree.nested(info.id, &part.inside);
        part.closed = nested
            .iter()
            .filter_map(|(path, id)| Some((path.clone(), self.closed(root, path, *id)?)))
            .collect();
        part.nested = nested.into_iter().map(|(path, _)| path).collect();
        Ok(Found { part, place: Some((fs, info)) })
    }

    /// Returns the part that begins where a machine has a nested subvolume.
    fn wanted(&self, folder: &BytePath, root: &BytePath) -> Result<Found, AgentError> {
        let is_dir = |path: &Path| {
            let is_real = std::fs::canonicalize(path).is_ok_and(|real| real == path);
            is_real && std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
        };
        let nearest = root.as_path().ancestors().find(|path| is_dir(path)).unwrap_or(Path::new("/"));
        let nearest = BytePath::from(nearest);
        let lost = || AgentError::failed(format!("no mount shows `{root}`"));
        let (around, mount) = (self.mounts.holding(folder), self.mounts.holding(&nearest));
        let (around, mount) = around.zip(mount).ok_or_else(lost)?;
        let here = std::fs::symlink_metadata(root.as_path());
        let standing = match &here {
            _ if mount.id != around.id => Standing::Other,
            Err(_) => Standing::Missing,
            Ok(_) if nearest == *root => Standing::Directory,
            Ok(meta) if !meta.is_dir() && root.parent().as_ref() == Some(&nearest) => Standing::File,
            Ok(_) => Standing::Other,
        };
        if standing != Standing::Directory {
            let mut part = FolderPart { standing, is_empty: true, ..bare(folder, root, mount) };
            if mount.is_btrfs() {
                let fs = self.btrfs.fs_uuid(nearest.as_path());
                let failed = |error: io::Error| privileged("look up the file system of", &nearest, &error);
                part.fs_uuid = fs.map_err(failed)?.dashed();
            }
            return Ok(Found { part, place: None });
        }
        let mut found = self.part(folder, root, mount)?;
        found.part.standing = match found.place.is_some() && found.part.inside.is_empty() {
            true => Standing::Nested,
            false => Standing::Directory,
        };
        Ok(found)
    }

    /// Returns why a nested subvolume cannot be mirrored, if it cannot.
    fn closed(&self, root: &BytePath, inside: &BytePath, id: u64) -> Option<String> {
        let path = root.join(inside.as_bytes());
        let why = match self.btrfs.subvolume(path.as_path()) {
            Ok(info) if info.id != id => "something is mounted over it; it is mirrored without that",
            Ok(info) if info.readonly && info.source_uuid != Uuid::default() => "a read-only snapshot",
            Ok(info) if info.readonly => {
                "it is read-only; `btrfs property set -ts` with `ro false` changes that"
            }
            Ok(_) if is_store(&path) => "it holds snapshots",
            Ok(_) if self.swaps.contains(&path) => "a swap file in it is in use; `swapoff` ends that",
            Ok(_) => return None,
            Err(error) => return Some(format!("it cannot be reached: {error}")),
        };
        Some(why.into())
    }

    /// Where the snapshot directory lies, or would lie. `held` are the subvolumes that a set is taken of.
    fn snapshots(&self, held: &[SubvolumeName]) -> SnapshotDir {
        let exists = self.snapshot_dir.as_path().is_dir();
        let nearest = self.snapshot_dir.as_path().ancestors().find(|path| path.is_dir());
        let place = nearest.and_then(|path| Some((path, self.btrfs.fs_uuid(path).ok()?)));
        let own = place.filter(|_| exists).is_some_and(|(path, fs)| {
            let info = self.btrfs.subvolume(path).ok();
            info.filter(|info| info.id != FS_TREE)
                .and_then(|info| self.finder.system(fs).ok()?.tree.flat_name(info.id))
                .is_some_and(|name| !held.contains(&name) && !self.is_of_the_root(path))
        });
        SnapshotDir {
            fs_uuid: place.map(|(_, uuid)| uuid.dashed()).unwrap_or_default(),
            exists,
            own_subvolume: own,
            is_open: exists && is_open(self.snapshot_dir.as_path()),
        }
    }

    /// Returns the file systems that these lie on besides that of the snapshot directory.
    fn others(&self, subvolumes: &[SubvolumeFact], here: &str) -> Vec<OtherPlace> {
        let mut all: Vec<OtherPlace> = Vec::new();
        for fact in subvolumes.iter().filter(|fact| fact.fs_uuid != here) {
            if all.iter().any(|one| one.fs_uuid == fact.fs_uuid) {
                continue;
            }
            let Ok(fs) = self.btrfs.fs_uuid(fact.mount_point.as_path()) else { continue };
            let dir = place(self.finder, self.mounts, fs);
            let tree = self.finder.system(fs).map(|system| &system.tree);
            all.push(OtherPlace {
                fs_uuid: fact.fs_uuid.clone(),
                is_open: dir.as_ref().is_some_and(|dir| is_open(dir.as_path())),
                has_subvolume: tree
                    .is_ok_and(|tree| tree.flat_names().iter().any(|name| name.as_str() == PLACE)),
                dir,
            });
        }
        all
    }

    /// Whether a path lies on the subvolume that `/` lies on, which a rollback replaces.
    fn is_of_the_root(&self, path: &Path) -> bool {
        let uuid = |path: &Path| self.btrfs.subvolume(path).map(|info| info.uuid).ok();
        uuid(path).is_some_and(|own| Some(own) == uuid(Path::new("/")))
    }
}

/// Whether the snapshots of a file system lie there.
fn is_place(mount: &Mount) -> bool {
    mount.root == BytePath::from("/").join(PLACE.as_bytes())
}

/// Returns a part of which no more is known than the mount it lies on.
fn bare(folder: &BytePath, root: &BytePath, mount: &Mount) -> FolderPart {
    FolderPart {
        folder: folder.clone(),
        root: root.clone(),
        subvolume: None,
        inside: relative(root, &mount.point),
        subvolume_uuid: String::new(),
        fs_uuid: mount.device.clone(),
        fs_type: mount.fs_type.clone(),
        mount_point: mount.point.clone(),
        nested: Vec::new(),
        closed: Vec::new(),
        standing: Standing::Folder,
        is_empty: false,
        leftovers: Vec::new(),
    }
}

/// Whether snapshots are kept in a subvolume: by snapper, or by this program.
fn is_store(path: &BytePath) -> bool {
    path.name() == b".snapshots" || path.join(b".pc-switcher/sets").as_path().is_dir()
}

/// Lists our own directory at a root; nobody but root may look into it.
fn leftovers(root: &BytePath) -> Vec<BytePath> {
    let entries = std::fs::read_dir(root.join(HOME.as_bytes()).as_path()).into_iter().flatten().flatten();
    let mut names: Vec<BytePath> =
        entries.map(|entry| BytePath::from(Path::new(&entry.file_name()))).collect();
    names.sort();
    names
}

/// Whether two parts show the same files.
fn overlap(one: &Found, other: &Found) -> bool {
    let (Some((fs, info)), Some((other_fs, other_info))) = (&one.place, &other.place) else { return false };
    let (inside, other_inside) = (&one.part.inside, &other.part.inside);
    fs == other_fs
        && info.id == other_info.id
        && (inside.is_within(other_inside) || other_inside.is_within(inside))
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
