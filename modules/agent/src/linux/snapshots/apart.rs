//! Members on other file systems than that of the snapshot directory: a snapshot stays on the file system of its subvolume.
//!
//! The snapshots of another btrfs lie where its top-level subvolume `@snapshots` is mounted: beside each other as in the snapshot
//! directory, born in `.pc-switcher/tmp` there. All that is said of a set lies in the snapshot directory alone. The intent says where
//! each member goes; what lies on a disk that is not there now is neither gone nor removed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use pc_switcher_contract::{Apart, BytePath, SessionId, SnapshotMember, SubvolumeName};
use serde::{Deserialize, Serialize};

use super::nearest;
use super::store::{OWN, Store, make_lasting_dir, remove_cradles};
use crate::linux::btrfs::{Btrfs, Uuid};
use crate::linux::finder::Finder;
use crate::linux::mounts::Mounts;
use crate::proto::{AgentError, SubvolumeFact};

/// The name of the subvolume that holds the snapshots of another file system.
pub(crate) const PLACE: &str = "@snapshots";

/// Where the snapshots of one file system lie.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Home {
    /// The directory.
    pub(super) dir: BytePath,
    /// The uuid of the file system.
    pub(super) fs_uuid: String,
    /// The uuid of the subvolume that is mounted there, 32 hex digits.
    pub(super) place_uuid: String,
}

impl Home {
    /// Returns the directory of a session's birth places.
    pub(super) fn cradles(&self, session: &SessionId) -> PathBuf {
        self.tmp().join(session.as_str())
    }

    fn tmp(&self) -> PathBuf {
        self.dir.as_path().join(OWN).join("tmp")
    }

    /// Makes the directories for births, and removes what dead ones left in them.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let tmp = self.tmp();
        for dir in [&self.dir.as_path().join(OWN), &tmp] {
            make_lasting_dir(dir)?;
        }
        for entry in fs::read_dir(&tmp)?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.parse::<SessionId>().is_ok()) {
                // One that holds something is of a set whose intent says so.
                let _ = remove_cradles(&entry.path());
            }
        }
        Ok(())
    }

    /// Whether that file system is there, and its subvolume for snapshots is mounted: the mount point of that may lie on the same one.
    pub(super) fn is_at_hand(&self, btrfs: &dyn Btrfs) -> bool {
        let dir = self.dir.as_path();
        btrfs.fs_uuid(dir).is_ok_and(|uuid| uuid.dashed() == self.fs_uuid)
            && btrfs.subvolume(dir).is_ok_and(|info| info.uuid.hex() == self.place_uuid)
    }

    /// Fails unless it is.
    pub(super) fn at_hand(&self, btrfs: &dyn Btrfs) -> io::Result<()> {
        match self.is_at_hand(btrfs) {
            true => Ok(()),
            false => Err(io::Error::other(self.away(btrfs))),
        }
    }

    /// Returns where its subvolume for snapshots is mounted instead, if it is: all that is recorded is read where it was.
    fn elsewhere(&self, btrfs: &dyn Btrfs) -> Option<BytePath> {
        let root = BytePath::from("/").join(PLACE.as_bytes());
        let mounts = Mounts::read().ok()?;
        let found = mounts.visible().filter(|mount| mount.is_btrfs() && mount.root == root).find(|mount| {
            Self { dir: mount.point.clone(), ..self.clone() }.is_at_hand(btrfs) && mount.point != self.dir
        });
        found.map(|mount| mount.point.clone())
    }

    /// Says why nothing of it is to be had.
    fn away(&self, btrfs: &dyn Btrfs) -> String {
        let Self { dir, fs_uuid, .. } = self;
        match self.elsewhere(btrfs) {
            Some(other) => format!(
                "`{PLACE}` of the file system {fs_uuid} is mounted at `{other}`, and what is recorded of it was taken at `{dir}`: mount it \
                 there, too"
            ),
            None => format!("`{PLACE}` of the file system {fs_uuid} is not mounted at `{dir}`"),
        }
    }

    /// Returns the one that a member lies in.
    pub(super) fn of(member: &SnapshotMember) -> Option<Self> {
        let Apart { fs_uuid, place_uuid, .. } = member.apart.clone()?;
        Some(Self { dir: member.path.parent()?, fs_uuid, place_uuid })
    }
}

/// Says why a member is not to be had whose file system is not there.
pub(super) fn is_at_hand(btrfs: &dyn Btrfs, member: &SnapshotMember) -> Result<(), String> {
    match Home::of(member).filter(|home| !home.is_at_hand(btrfs)) {
        None => Ok(()),
        Some(home) => Err(home.away(btrfs)),
    }
}

/// Whether a member is not to be had only because its disk is mounted elsewhere than when it was taken.
pub(super) fn is_elsewhere(btrfs: &dyn Btrfs, member: &SnapshotMember) -> bool {
    Home::of(member).is_some_and(|home| !home.is_at_hand(btrfs) && home.elsewhere(btrfs).is_some())
}

/// Returns the directory that holds the snapshots of a file system: where its subvolume for them is mounted.
pub(crate) fn place(finder: &Finder<'_>, mounts: &Mounts, fs: Uuid) -> Option<BytePath> {
    let name: SubvolumeName = PLACE.parse().ok()?;
    let found = finder.by_name_on(fs, &name)?.mount_point;
    let root = BytePath::from("/").join(PLACE.as_bytes());
    mounts.visible().any(|mount| mount.point == found && mount.root == root).then_some(found)
}

impl Store<'_> {
    /// Returns where the member of each of these sources goes; `None`: into the snapshot directory.
    ///
    /// # Errors
    /// If one lies on a file system that has no place for it, or the mounts cannot be read.
    pub(super) fn homes(
        &self,
        mounts: Option<&Mounts>,
        sources: &[SubvolumeFact],
    ) -> Result<Vec<Option<Home>>, AgentError> {
        let dir = self.dir();
        let here = self.btrfs.fs_uuid(&nearest(dir));
        let here = here.map_err(|error| super::set::wrong(&error, "", dir))?.dashed();
        if sources.iter().all(|source| source.fs_uuid == here) {
            return Ok(vec![None; sources.len()]);
        }
        let read = match mounts {
            Some(mounts) => mounts.clone(),
            None => Mounts::read()?,
        };
        let finder = Finder::new(self.btrfs, &read, &[])?;
        let home = |source: &SubvolumeFact| -> Result<Option<Home>, AgentError> {
            if source.fs_uuid == here {
                return Ok(None);
            }
            let fs = self.btrfs.fs_uuid(source.mount_point.as_path()).map_err(|error| {
                AgentError::io(format!("cannot look up the file system of `{}`", source.name), &error)
            })?;
            match place(&finder, &read, fs) {
                Some(dir) => {
                    let info = self.btrfs.subvolume(dir.as_path());
                    let info =
                        info.map_err(|error| AgentError::io(format!("cannot look up `{dir}`"), &error))?;
                    Ok(Some(Home { dir, fs_uuid: fs.dashed(), place_uuid: info.uuid.hex() }))
                }
                None => Err(AgentError::failed(format!(
                    "cannot take a snapshot of `{}`: it lies on another file system than `{}`, and there no subvolume `{PLACE}` is \
                     mounted that would hold its snapshots; `pc-switcher doctor` prints the commands, or leave it out of \
                     `subvolumes` in [btrfs-snapshots]",
                    source.name.shown(),
                    dir.display()
                ))),
            }
        };
        sources.iter().map(home).collect()
    }

    /// Returns what is recorded of members on other file systems. What was written to the snapshot directory is on the disk then.
    ///
    /// # Errors
    /// If that cannot be asked.
    pub(super) fn apart(&self, homes: &[Option<Home>]) -> io::Result<Vec<Option<Apart>>> {
        if homes.iter().all(Option::is_none) {
            return Ok(vec![None; homes.len()]);
        }
        // A commit of its own: by its number two sets stand one after the other, though none of their members lies here.
        self.btrfs.sync(self.dir())?;
        let at = self.btrfs.subvolume(self.dir())?.generation;
        let one = |home: Home| Apart {
            fs_uuid: home.fs_uuid,
            place_uuid: home.place_uuid,
            dir: self.dir().into(),
            at,
        };
        Ok(homes.iter().map(|home| home.clone().map(one)).collect())
    }

    /// Has what was removed on these file systems be gone for good.
    pub(super) fn sync_homes<'h>(&self, homes: impl Iterator<Item = &'h Home>) -> io::Result<()> {
        let distinct: BTreeSet<&Home> = homes.collect();
        distinct.into_iter().try_for_each(|home| {
            home.at_hand(self.btrfs)?;
            self.btrfs.sync(home.dir.as_path())
        })
    }
}
