//! A backup of all that is tracked in one go, as a sync makes it: nothing is copied before it is stored.

use std::path::{Path, PathBuf};

use pc_switcher_contract::ModuleError;

use super::source::{Looking, missed};
use super::track::What;
use super::vaults::Passphrase;
use super::{AddReport, BackupReport, Looked, Proof, Service};
use crate::catalogue::Directory;
use crate::engine::{Observer, Trouble};
use crate::error::{Result, usage};

/// What a backup of all that is tracked did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrackedReport {
    /// What was found.
    pub added: AddReport,
    /// What looks unchanged and was read again.
    pub proof: Proof,
    /// What was stored of it.
    pub backup: BackupReport,
    /// In how many of the directories only what changed was looked at.
    pub changes_alone: u64,
}

/// What a backup of all that is tracked would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// Files that would be stored, with their sizes.
    pub files: Vec<(PathBuf, u64)>,
    /// Files that the vaults hold as they are.
    pub unchanged: u64,
    /// What cannot be listed.
    pub troubles: Vec<Trouble>,
    /// Items that wait for a backup already.
    pub waiting: u64,
}

fn untracked(odd: &Path) -> ModuleError {
    usage(format!("`{}` is no tracked directory", odd.display()))
        .hint("`bt dir list` names what is, `bt dir init` in a directory tracks it")
}

impl Service {
    /// Returns the tracked directories, or those of these paths.
    ///
    /// # Errors
    /// If one of the paths is not tracked.
    pub fn tracked_paths(&self, only: &[PathBuf]) -> Result<Vec<PathBuf>> {
        Ok(self.among(only)?.into_iter().map(|directory| directory.path).collect())
    }

    /// Proves that these are paths of tracked directories, once a backup brought the catalogue up to date.
    ///
    /// # Errors
    /// If one of the paths will not be tracked.
    pub fn prove_tracked(&self, only: &[PathBuf], looked: &Looked) -> Result<()> {
        match &looked.tracked {
            Some(then) => {
                only.iter().find(|path| !then.contains(*path)).map_or(Ok(()), |odd| Err(untracked(odd)))
            }
            None => self.among(only).map(drop),
        }
    }

    /// Whether a backup of what waits reads files where they lie, since they were too large for the stage.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn has_unread(&self) -> Result<bool> {
        self.catalogue.has_unread()
    }

    fn among(&self, only: &[PathBuf]) -> Result<Vec<Directory>> {
        let mut all = self.catalogue.directories()?;
        if let Some(odd) = only.iter().find(|path| all.iter().all(|directory| directory.path != **path)) {
            return Err(untracked(odd));
        }
        all.retain(|directory| only.is_empty() || only.contains(&directory.path));
        Ok(all)
    }

    /// Says what [`Service::back_up_tracked`] would do; writes nothing.
    ///
    /// # Errors
    /// As [`Service::back_up_tracked`], but for the vaults.
    pub fn preview(&self, only: &[PathBuf], observer: &dyn Observer) -> Result<Preview> {
        let mut preview = Preview { waiting: self.catalogue.staged_count()?.0, ..Preview::default() };
        for directory in self.among(only)? {
            if !self.view.real(&directory.path).is_dir() {
                continue;
            }
            let files = &mut preview.files;
            let mut take = |path: &Path, _: PathBuf, facts: &std::fs::Metadata| {
                if !facts.is_dir() {
                    files.push((path.to_owned(), if facts.is_file() { facts.len() } else { 0 }));
                }
                Ok(())
            };
            let (unchanged, unlisted) =
                self.changed_below(&directory, &What::all_of(&directory), observer, &mut take)?;
            preview.unchanged += unchanged;
            preview.troubles.extend(unlisted.troubles);
        }
        Ok(preview)
    }

    /// Stores what changed in the tracked directories, or in those of these paths, and all that waits. Nothing is copied into
    /// the stage: whoever calls it has the files read where they do not change, or takes what they are when they are read.
    ///
    /// # Errors
    /// If a path is not tracked, as [`Service::backup`], or if the run was cancelled.
    pub fn back_up_tracked(
        &mut self,
        only: &[PathBuf],
        vault: Option<&str>,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<TrackedReport> {
        // Before anything is looked for: what is tracked, and what of it is known, is told by the catalogue.
        self.catch_up(vault, passphrase)?;
        let done = self.back_up_tracked_now(only, vault, passphrase, observer);
        self.with_said(done, |report, said| drop(report.backup.warnings.splice(..0, said)))
    }

    fn back_up_tracked_now(
        &mut self,
        only: &[PathBuf],
        vault: Option<&str>,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<TrackedReport> {
        let (mut added, mut proof) = (AddReport::default(), Proof::default());
        let mut directories = self.among(only)?;
        // The backup names those that are not there.
        directories.retain(|directory| self.view.real(&directory.path).is_dir());
        self.looking.clear();
        for directory in &directories {
            let work = |service: &mut Self, _| {
                let looking = service.looking(directory)?;
                // Whatever of it is still there is found again.
                service.catalogue.remove_unread(directory)?;
                let added = service.stage_looking(directory, &looking, observer)?;
                service.looking.insert(directory.id, looking);
                Ok(added)
            };
            let text = directory.path.display().to_string();
            let one = self.operation("add", &text, work, AddReport::tell)?;
            added.staged += one.staged;
            added.bytes += one.bytes;
            added.directories += one.directories;
            added.unchanged += one.unchanged;
            added.troubles.extend(one.troubles);
            added.sockets.extend(one.sockets);
            proof.add(self.prove_below(directory, observer)?);
        }
        let stored = self.backup(vault, passphrase, observer);
        let mut looking = std::mem::take(&mut self.looking);
        let lock = self.lock();
        // What failed or was not reached waits for nobody: it is to be read where it was read now, and the next one finds it.
        if lock.is_ok() {
            directories.iter().try_for_each(|directory| self.catalogue.remove_unread(directory))?;
        }
        let mut report = TrackedReport { added, proof, backup: stored?, changes_alone: 0 };
        let looked = directories.into_iter().map(|directory| {
            let looking = looking.remove(&directory.id).unwrap_or_default();
            (directory, looking)
        });
        let looked: Vec<(Directory, Looking)> = looked.collect();
        report.changes_alone =
            looked.iter().filter(|(_, looking)| matches!(looking, Looking::At(_))).count() as u64;
        if lock.is_ok() {
            self.record_bases(&looked, &report)?;
        }
        Ok(report)
    }

    /// Stages what changed, wherever it is looked for.
    fn stage_looking(
        &mut self,
        directory: &Directory,
        looking: &Looking,
        observer: &dyn Observer,
    ) -> Result<AddReport> {
        let what = match looking {
            Looking::At(looks) => What::Looks(looks),
            Looking::AtAll | Looking::ToProve(_) => What::all_of(directory),
        };
        let mut added = self.stage_below(directory, &what, false, observer)?;
        if let Looking::ToProve(looks) = looking {
            let staged =
                self.catalogue.staged_names(directory)?.into_iter().map(|name| directory.path.join(name));
            let beside = staged.filter(|path| !looks.cover(path));
            added.troubles.extend(beside.map(|path| missed(path, "was changed")));
        }
        Ok(added)
    }
}
