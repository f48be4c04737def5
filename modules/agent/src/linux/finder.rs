//! Where the subvolumes of this machine can be seen.
//!
//! A subvolume is never identified by its mount path: text from mountinfo proposes a path, the kernel's answer for that
//! path decides (facts/btrfs.md B25).

use std::io;

use pc_switcher_contract::{BytePath, SubvolumeName};

use super::btrfs::{Btrfs, SubvolumeInfo, SubvolumeTree, Uuid, relative};
use super::mounts::{Mount, Mounts};
use crate::proto::{AgentError, SubvolumeFact};

/// One btrfs.
#[derive(Debug, Clone)]
pub struct FileSystem {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its subvolumes.
    pub tree: SubvolumeTree,
    mounts: Vec<Mount>,
}

/// All btrfs file systems that are mounted here, in the order in which flat names are looked up.
pub struct Finder<'a> {
    btrfs: &'a dyn Btrfs,
    mounts: &'a Mounts,
    systems: Vec<FileSystem>,
}

impl<'a> Finder<'a> {
    /// Looks at all mounts. Flat names are searched on the root's file system first, as `btrfs subvolume list /` does,
    /// then on those of `near`, then on the others.
    ///
    /// # Errors
    /// Without root.
    pub fn new(btrfs: &'a dyn Btrfs, mounts: &'a Mounts, near: &[&BytePath]) -> Result<Self, AgentError> {
        let mut systems: Vec<FileSystem> = Vec::new();
        for mount in mounts.visible().filter(|mount| mount.is_btrfs() && mount.point.as_path().is_dir()) {
            // A mount that cannot be asked, for example of a device that is gone, is nobody's.
            let Ok(uuid) = btrfs.fs_uuid(mount.point.as_path()) else { continue };
            match systems.iter_mut().find(|system| system.uuid == uuid) {
                Some(system) => system.mounts.push(mount.clone()),
                None => {
                    let refs = btrfs
                        .subvolumes(mount.point.as_path())
                        .map_err(|error| privileged("list the subvolumes of", &mount.point, &error))?;
                    systems.push(FileSystem {
                        uuid,
                        tree: SubvolumeTree::new(refs),
                        mounts: vec![mount.clone()],
                    });
                }
            }
        }
        let root = BytePath::from("/");
        let order: Vec<Uuid> = std::iter::once(&root)
            .chain(near.iter().copied())
            .filter_map(|path| mounts.holding(path))
            .filter_map(|mount| systems.iter().find(|system| system.mounts.contains(mount)))
            .map(|system| system.uuid)
            .collect();
        systems
            .sort_by_key(|system| order.iter().position(|uuid| *uuid == system.uuid).unwrap_or(order.len()));
        Ok(Self { btrfs, mounts, systems })
    }

    /// Returns the file system of this uuid.
    ///
    /// # Errors
    /// If it is not mounted any more.
    pub fn system(&self, uuid: Uuid) -> Result<&FileSystem, AgentError> {
        self.systems
            .iter()
            .find(|system| system.uuid == uuid)
            .ok_or_else(|| AgentError::failed(format!("btrfs `{}` is not mounted", uuid.dashed())))
    }

    /// Returns all flat names, sorted.
    pub fn known(&self) -> Vec<SubvolumeName> {
        let mut names: Vec<_> = self.systems.iter().flat_map(|system| system.tree.flat_names()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Returns the subvolume of this name, preferring one that can be seen; `None` if there is none to be seen.
    pub fn by_name(&self, name: &SubvolumeName) -> Option<SubvolumeFact> {
        self.systems.iter().find_map(|system| self.fact(system, system.tree.by_name(name)?))
    }

    /// As [`Finder::by_name`], on one file system alone: others may have one of the same name.
    pub fn by_name_on(&self, uuid: Uuid, name: &SubvolumeName) -> Option<SubvolumeFact> {
        let system = self.system(uuid).ok()?;
        self.fact(system, system.tree.by_name(name)?)
    }

    /// Returns what is known of a subvolume that can be seen somewhere.
    pub fn fact(&self, system: &FileSystem, id: u64) -> Option<SubvolumeFact> {
        let name = system.tree.name(id)?;
        let (mount_point, info) = self.seen(system, id)?;
        Some(SubvolumeFact {
            name,
            mount_point,
            uuid: info.uuid.hex(),
            id,
            fs_uuid: system.uuid.dashed(),
            generation: info.generation,
        })
    }

    /// Returns a path that leads to the subvolume's root.
    fn seen(&self, system: &FileSystem, id: u64) -> Option<(BytePath, SubvolumeInfo)> {
        let inner = BytePath::from("/").join(system.tree.path(id)?.as_bytes());
        let mut candidates: Vec<(bool, BytePath)> = system
            .mounts
            .iter()
            .filter(|mount| inner.is_within(&mount.root))
            .map(|mount| {
                let path = mount.point.join(relative(&inner, &mount.root).as_bytes());
                (mount, path)
            })
            .filter(|(mount, path)| self.mounts.holding(path).is_some_and(|top| top.id == mount.id))
            .map(|(mount, path)| (mount.root != inner, path))
            .collect();
        candidates.sort();
        candidates.into_iter().find_map(|(_, path)| {
            let info = self.btrfs.subvolume(path.as_path()).ok().filter(|info| info.id == id)?;
            let is_root = self.btrfs.inside(path.as_path()).is_ok_and(|inside| inside.is_empty());
            is_root.then_some((path, info))
        })
    }
}

/// Words an error of a request that needs root.
pub(super) fn privileged(action: &str, path: &BytePath, error: &io::Error) -> AgentError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if !super::machine::is_elevated() => {
            AgentError::failed(format!("cannot {action} `{path}` without root"))
        }
        _ => AgentError::io(format!("cannot {action} `{path}`"), error),
    }
}
