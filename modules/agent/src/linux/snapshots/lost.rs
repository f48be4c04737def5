//! Volumes that are marked as ours and that nothing here names, as after the disk of their records was lost: they are listed, and
//! removed when somebody names one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::store::Store;
use crate::data::trees::InVolume;
use crate::linux::lvm;
use crate::linux::trees;
use crate::proto::AgentError;

impl Store<'_> {
    /// Returns the volumes that are marked as ours and belong to nothing that lies here. None if LVM does not say.
    pub(super) fn lost_volumes(&self) -> Vec<String> {
        let lvm = self.btrfs.lvm();
        // Only a label that is on the disk has a volume made, and it goes after that: so the volumes are looked at first, and once
        // more in the end.
        let unnamed = || -> Option<Vec<String>> {
            let seen = lvm::Seen::ask(lvm).ok()?;
            Some(seen.unnamed(&self.labels()).into_iter().map(lvm::Volume::full_name).collect())
        };
        let mut lost = lvm.has_pools().then(unnamed).flatten().unwrap_or_default();
        if !lost.is_empty() {
            let again = unnamed().unwrap_or_default();
            lost.retain(|name| again.contains(name));
        }
        lost
    }

    /// Returns the labels of all members whose content lies in volumes, of half made ones as well.
    fn labels(&self) -> Vec<InVolume> {
        let inside = |dir: &Path| -> Vec<PathBuf> {
            fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        // From the birth place to its name is the way of each.
        let cradles = inside(&self.tmp()).into_iter().flat_map(|session| inside(&session));
        let members: Vec<PathBuf> = cradles.flat_map(|cradle| inside(&cradle)).collect();
        let is_copy = |path: &PathBuf| trees::copy_at(path).is_some();
        let all = members.into_iter().chain(inside(self.dir())).filter(is_copy);
        all.filter_map(|path| trees::volume_of(&path)).collect()
    }

    /// Removes a volume that is marked as ours and belongs to nothing that lies here, by group and name.
    ///
    /// # Errors
    /// If it is none of these, somebody has it open, or what LVM says.
    pub(super) fn delete_volume(&self, name: &str) -> Result<(), AgentError> {
        let failed = |error: io::Error| AgentError::io(format!("cannot remove volume `{name}`"), &error);
        // Nobody gives it a label meanwhile.
        let _creation = self.lock()?;
        let lvm = self.btrfs.lvm();
        let seen = lvm::Seen::ask(lvm).map_err(failed)?;
        let unnamed = seen.unnamed(&self.labels());
        let found: Vec<_> = unnamed.into_iter().filter(|volume| volume.full_name() == name).collect();
        match found[..] {
            // Ours are read-only from the beginning; the tag of one that is not was given to it by somebody.
            [volume] if !volume.is_read_only => Err(AgentError::failed(format!(
                "volume `{name}` stays: it is writable, so it is none that was taken as a snapshot; `lvremove` it yourself \
                 if nobody needs it"
            ))),
            [volume] => lvm::remove_unnamed(lvm, volume).map_err(failed),
            [] => Err(AgentError::failed(format!(
                "`{name}` is no volume of ours that nothing in `{}` names",
                self.dir().display()
            ))),
            _ => Err(AgentError::failed(format!(
                "{} volumes are called `{name}`; give their groups names of their own (`vgrename`)",
                found.len()
            ))),
        }
    }
}
