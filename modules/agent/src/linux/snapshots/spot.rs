//! Where a path of the live machine lies: on which subvolume, and where in it. So it is found in a set.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use pc_switcher_contract::{BytePath, SnapshotSet, SubvolumeName};

use super::store::Store;
use crate::data::restore::Source;
use crate::linux::btrfs::{SubvolumeInfo, relative};
use crate::linux::finder::{Finder, privileged};
use crate::linux::mounts::{Mounts, is_plain};
use crate::linux::trees::is_of_copies;
use crate::proto::AgentError;

/// A path as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// The path that was asked for.
    pub(super) path: BytePath,
    /// The same without symbolic links on the way.
    pub(super) real: BytePath,
    /// The directory that holds its name, without symbolic links; it need not exist any more.
    pub(super) parent: BytePath,
    /// The subvolume.
    pub(super) subvolume: SubvolumeName,
    /// The path in the subvolume; empty for its root.
    pub(super) inside: BytePath,
    /// What cannot be replaced as a whole: mounts and subvolumes below the path.
    pub(super) holds: Vec<BytePath>,
}

impl Spot {
    /// Returns where it lies in a snapshot of its subvolume.
    pub(super) fn source<'a>(&'a self, root: &'a OwnedFd) -> Source<'a> {
        Source { root, inside: &self.inside, path: &self.path, live: &self.real }
    }
}

impl Store<'_> {
    /// Finds where these paths lie.
    ///
    /// # Errors
    /// If one is no plain absolute path, or lies on no subvolume that a set could hold, or in no directory of which `set`, or
    /// any, has a copy.
    pub(super) fn spots(
        &self,
        mounts: &Mounts,
        paths: &[BytePath],
        set: Option<&SnapshotSet>,
    ) -> Result<Vec<Spot>, AgentError> {
        let near: Vec<&BytePath> = paths.iter().collect();
        let finder = Finder::new(self.btrfs, mounts, &near)?;
        let copied = self.copied(set);
        paths.iter().map(|path| self.spot(mounts, &finder, &copied, path)).collect()
    }

    /// Returns the directories that a set has copies of; without one, that the sets have copies of if the newest is one of copies.
    fn copied(&self, set: Option<&SnapshotSet>) -> Vec<SubvolumeName> {
        let names = |set: &SnapshotSet| -> Vec<SubvolumeName> {
            let names = set.members.iter().map(|member| &member.name.subvolume);
            names.filter(|name| name.directory().is_some()).cloned().collect()
        };
        if let Some(set) = set {
            return names(set);
        }
        let ids = self.ids().unwrap_or_default();
        let mut sets: Vec<SnapshotSet> =
            ids.iter().filter_map(|id| self.published(id).ok()).map(|meta| meta.set).collect();
        sets.sort_by_key(SnapshotSet::transaction);
        if !sets.last().is_some_and(is_of_copies) {
            return Vec::new();
        }
        let mut all: Vec<SubvolumeName> = sets.iter().flat_map(names).collect();
        all.sort();
        all.dedup();
        all
    }

    fn spot(
        &self,
        mounts: &Mounts,
        finder: &Finder<'_>,
        copied: &[SubvolumeName],
        path: &BytePath,
    ) -> Result<Spot, AgentError> {
        if !is_plain(path.as_path()) {
            return Err(AgentError::failed(format!("`{path}` is not a plain absolute path")));
        }
        let failed = |error: io::Error| privileged("look up the subvolume of", path, &error);
        let real = real(path.as_path()).map_err(failed)?;
        // What was deleted lies where its nearest directory lies.
        let dir = nearest_dir(&real);
        let holder =
            mounts.holding(&dir).ok_or_else(|| AgentError::failed(format!("no mount shows `{path}`")))?;
        let places = copied.iter().filter_map(|name| Some((name, name.directory()?)));
        let nearest =
            places.filter(|(_, place)| real.is_within(place)).max_by_key(|(_, place)| place.as_bytes().len());
        if let Some((name, place)) = nearest {
            let mounted = mounts.visible().map(|mount| &mount.point).filter(|point| point.is_within(&real));
            return Ok(Spot {
                path: path.clone(),
                parent: real.parent().filter(|parent| !parent.is_empty()).unwrap_or_else(|| "/".into()),
                subvolume: name.clone(),
                inside: relative(&real, &place),
                holds: mounted.cloned().collect(),
                real,
            });
        }
        if !copied.is_empty() {
            return Err(AgentError::failed(format!(
                "`{path}` lies in no directory that the set has a copy of; `pc-switcher snapshots show` names them"
            )));
        }
        if !holder.is_btrfs() {
            return Err(AgentError::failed(format!(
                "`{path}` lies on {}, of which there are no snapshots",
                holder.fs_type
            )));
        }
        let fs = self.btrfs.fs_uuid(dir.as_path()).map_err(failed)?;
        let info: SubvolumeInfo = self.btrfs.subvolume(dir.as_path()).map_err(failed)?;
        let tree = &finder.system(fs)?.tree;
        let subvolume = tree.name(info.id).ok_or_else(|| {
            let name = tree.path(info.id).unwrap_or_default();
            AgentError::failed(format!("`{path}` lies on the subvolume `{name}`, which no set holds"))
        })?;
        let rest = relative(&real, &dir);
        let above = BytePath::new(self.btrfs.inside(dir.as_path()).map_err(failed)?);
        let inside = above.join(rest.as_bytes());
        let mounted = mounts.visible().map(|mount| &mount.point).filter(|point| point.is_within(&real));
        let nested = tree.below(info.id, &inside).into_iter().map(|below| real.join(below.as_bytes()));
        Ok(Spot {
            path: path.clone(),
            parent: real.parent().filter(|parent| !parent.is_empty()).unwrap_or_else(|| "/".into()),
            subvolume,
            inside,
            holds: mounted.cloned().chain(nested).collect(),
            real,
        })
    }
}

/// Returns the path without symbolic links on the way; the last name is not followed, and what is gone stays as it was named.
fn real(path: &Path) -> io::Result<BytePath> {
    let is_link = path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let mut rest: Vec<&std::ffi::OsStr> = Vec::new();
    let mut at = path;
    if is_link && let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
        rest.push(name);
        at = parent;
    }
    let mut found = loop {
        match std::fs::canonicalize(at) {
            Ok(real) => break real,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Err(error) };
                rest.push(name);
                at = parent;
            }
            Err(error) => return Err(error),
        }
    };
    rest.iter().rev().for_each(|name| found.push(name));
    Ok(found.as_path().into())
}

fn nearest_dir(path: &BytePath) -> BytePath {
    let is_dir = |path: &&Path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    path.as_path().ancestors().find(is_dir).unwrap_or(Path::new("/")).into()
}
