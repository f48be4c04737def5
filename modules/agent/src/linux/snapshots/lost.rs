//! Volumes that are marked as ours and that nothing here names, as after the disk of their records was lost: they are listed, and
//! removed when somebody names one.
//!
//! **Invariant: none counts as such unless all that could name it was read.** A directory that is not mounted today, or one label
//! that cannot be read, would make volumes of living sets look like these.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;

use super::store::Store;
use crate::data::trees::InVolume;
use crate::linux::lvm;
use crate::linux::rollback::unmounted;
use crate::linux::trees;
use crate::proto::AgentError;

impl Store<'_> {
    /// Returns the volumes that are marked as ours and belong to nothing that lies here; none if LVM does not say. Where nobody can
    /// tell that of volumes that are there, why.
    pub(super) fn lost_volumes(&self) -> Result<Vec<String>, String> {
        let lvm = self.btrfs.lvm();
        // Only a label that is on the disk has a volume made, and it goes after that: so the volumes are looked at first, and once
        // more in the end.
        let unnamed = || -> Result<Vec<String>, String> {
            let Ok(seen) = lvm::Seen::ask(lvm) else { return Ok(Vec::new()) };
            if seen.unnamed(&[]).is_empty() {
                return Ok(Vec::new());
            }
            Ok(seen.unnamed(&self.labels()?).into_iter().map(lvm::Volume::full_name).collect())
        };
        if !lvm.has_pools() {
            return Ok(Vec::new());
        }
        let mut lost = unnamed()?;
        if !lost.is_empty() {
            let again = unnamed()?;
            lost.retain(|name| again.contains(name));
        }
        Ok(lost)
    }

    /// Returns the labels of all members whose content lies in volumes, of half made ones as well.
    ///
    /// # Errors
    /// Why nobody can tell: what should be there is not, or cannot be read.
    fn labels(&self) -> Result<Vec<InVolume>, String> {
        self.is_at_hand()?;
        // From the birth place to its name is the way of each.
        let mut cradles = Vec::new();
        for session in inside(&self.tmp())? {
            for cradle in inside(&session)? {
                cradles.extend(inside(&cradle)?);
            }
        }
        let mut labels = labels_of(cradles)?;
        labels.extend(labels_of(inside(self.dir())?)?);
        Ok(labels)
    }

    /// Looks whether the records of the sets are here, if there are any.
    fn is_at_hand(&self) -> Result<(), String> {
        let dir = self.dir().display();
        let real = fs::canonicalize(self.dir()).map_err(|error| format!("`{dir}`: {error}"))?;
        for path in [self.dir(), &real] {
            if let Some(point) =
                unmounted(&self.root, &BytePath::from(path)).map_err(|error| error.message)?
            {
                return Err(format!("`{point}` is not mounted, where the records of sets lie"));
            }
        }
        let sets = self.sidecars();
        match fs::symlink_metadata(&sets) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
                "there are no records of sets in `{dir}`, so they lie elsewhere or are lost; if they are lost, \
                 `sudo mkdir -p {}` says so",
                sets.display()
            )),
            Err(error) => Err(format!("`{}`: {error}", sets.display())),
        }
    }

    /// Removes a volume that is marked as ours and belongs to nothing that lies here, by group and name.
    ///
    /// # Errors
    /// If it is none of these or nobody can tell, somebody has it open, or what LVM says.
    pub(super) fn delete_volume(&self, name: &str) -> Result<(), AgentError> {
        let failed = |error: io::Error| AgentError::io(format!("cannot remove volume `{name}`"), &error);
        let untold = |why: String| {
            AgentError::failed(format!("volume `{name}` stays: whether a set has it cannot be told: {why}"))
        };
        // Whoever takes the lock makes the directories.
        self.is_at_hand().map_err(untold)?;
        // Nobody gives it a label meanwhile.
        let _creation = self.lock()?;
        let lvm = self.btrfs.lvm();
        let seen = lvm::Seen::ask(lvm).map_err(failed)?;
        let unnamed = seen.unnamed(&self.labels().map_err(untold)?);
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

/// Returns what is in a directory; nothing if that went meanwhile.
fn inside(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: io::Error| format!("`{}`: {error}", dir.display());
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// Returns in which volumes the content of these lies that are members without btrfs.
fn labels_of(paths: Vec<PathBuf>) -> Result<Vec<InVolume>, String> {
    let mut labels = Vec::new();
    for path in paths.into_iter().filter(|path| trees::copy_at(path).is_some()) {
        match trees::label_at(&path) {
            Ok(Some(label)) => labels.extend(label.volume),
            Ok(None) => {
                return Err(format!("`{}` has no label that says whether it is of one", path.display()));
            }
            // It goes after its volume, or it has its name by now, which is read later.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("the label of `{}`: {error}", path.display())),
        }
    }
    Ok(labels)
}
