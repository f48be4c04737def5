//! Tracking directories and staging files.

use std::cell::Cell;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{ErrorKind, ModuleError, human_bytes};
use serde::Serialize;

use super::ignored::Rules;
use super::known::Before;
use super::scan::{self, Unlisted};
use super::source::Looks;
use super::stage::NotStaged;
use super::{Service, VaultKind, VaultSettings};
use crate::catalogue::{Directory, ONE_LEVEL, Tracked};
use crate::engine::{Observer, Progress, Trouble, kind_of};
use crate::error::{Result, at, usage};
use crate::format::{Id, NodeKind};

/// What `add` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddReport {
    /// Files that wait for the next backup now.
    pub staged: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories of which the rights, times and the like wait for the next backup now.
    pub directories: u64,
    /// Files whose current version all vaults hold already that are required or there.
    pub unchanged: u64,
    /// Files that could not be staged.
    pub troubles: Vec<Trouble>,
    /// Sockets, which are left out.
    pub sockets: Vec<PathBuf>,
}

impl AddReport {
    /// How [`AddReport::tell`] tells of files, for `LIKE`: an `add` that failed as a whole, over a slip for example, says something else.
    pub(super) const TOLD: &str = "% staged, % unchanged, % failed";

    pub(super) fn tell(&self) -> (bool, String) {
        let text =
            format!("{} staged, {} unchanged, {} failed", self.staged, self.unchanged, self.troubles.len());
        (self.troubles.is_empty(), text)
    }
}

/// A tracked directory, for `dir list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrackedLine {
    /// Where it is.
    pub path: String,
    /// Since when.
    pub since: String,
    /// Whether there is a directory of this path now.
    pub is_there: bool,
}

/// Returns the real place of a path; the path itself may be a link, and it and directories that held it may be missing.
///
/// # Errors
/// If it cannot be told where it was: `..` in a directory that is missing, or one that cannot be searched.
pub fn resolve(cwd: &Path, path: &Path) -> Result<PathBuf> {
    let whole = cwd.join(path);
    match (whole.parent(), whole.file_name()) {
        // `.` and `..` at the end name no entry: the directory itself is meant.
        (Some(parent), Some(name)) if !whole.as_os_str().as_encoded_bytes().ends_with(b"/.") => {
            Ok(real_place(parent)?.join(name))
        }
        _ => real_place(&whole),
    }
}

/// Returns the real place of a directory of which the last parts may be missing.
fn real_place(path: &Path) -> Result<PathBuf> {
    let (mut there, mut missing) = (path, Vec::new());
    loop {
        let error = match there.canonicalize() {
            Ok(real) => return Ok(missing.into_iter().rev().fold(real, |place, name| place.join(name))),
            Err(error) => error,
        };
        let is_missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        match (there.parent(), there.file_name()) {
            (Some(parent), Some(name)) if is_missing => {
                missing.push(name);
                there = parent;
            }
            _ => return Err(at("find", path, &error)),
        }
    }
}

impl Service {
    /// Tracks a directory.
    ///
    /// # Errors
    /// If it is no directory, holds our own state, or the catalogue fails.
    pub fn track(&mut self, path: &Path) -> Result<Tracked> {
        let path = path.canonicalize().map_err(|error| at("find", path, &error))?;
        if !path.is_dir() {
            return Err(usage(format!("`{}` is no directory", path.display())));
        }
        let inside = self.never().into_iter().find(|never| path.starts_with(never));
        if let Some(never) = inside {
            return Err(usage(format!(
                "`{}` lies in `{}`, which is never backed up",
                path.display(),
                never.display()
            )));
        }
        let now = (self.around.clock)();
        let text = path.display().to_string();
        let tell = |tracked: &Tracked| match tracked {
            Tracked::New(_, absorbed) => (true, format!("{} directories became part of it", absorbed.len())),
            Tracked::Already(_) => (true, "was tracked already".into()),
            Tracked::Within(holder) => (true, format!("is part of {}", holder.path.display())),
        };
        self.operation("dir init", &text, |service, _| service.catalogue.create_directory(&path, now), tell)
    }

    /// Returns the tracked directories.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn tracked_directories(&self) -> Result<Vec<TrackedLine>> {
        let line = |directory: Directory| TrackedLine {
            is_there: directory.path.is_dir(),
            path: directory.path.display().to_string(),
            since: directory.created_at,
        };
        Ok(self.catalogue.directories()?.into_iter().map(line).collect())
    }

    /// Forgets a tracked directory and its versions; the vaults keep what they hold.
    ///
    /// # Errors
    /// If it is not tracked, or the catalogue fails.
    pub fn forget_directory(&mut self, path: &Path) -> Result<()> {
        let found = self.catalogue.find_directory_by_path(path)?;
        let directory = found.ok_or_else(|| {
            usage(format!("`{}` is not tracked", path.display())).hint("`bt dir list` names what is")
        })?;
        let text = path.display().to_string();
        let forget = |service: &mut Self, _| {
            service.catalogue.delete_directory(&directory)?;
            service.stage.keep_only(&service.catalogue.staged_contents()?)
        };
        self.operation("dir forget", &text, forget, |()| (true, "its versions are forgotten here".into()))
    }

    /// What is never backed up: our own state and the vaults themselves.
    pub(super) fn never(&self) -> Vec<PathBuf> {
        let on_disk = self.settings.vaults.iter().filter(|vault| vault.kind == VaultKind::Filesystem);
        let roots = on_disk.map(|vault| vault.root.clone());
        let named = self.settings.vault.directories().map(Path::to_owned);
        let all = roots.chain(named).chain([self.around.places.state.clone()]);
        all.flat_map(|path| [path.canonicalize().ok(), Some(path)]).flatten().collect()
    }

    /// Returns the vaults that must hold what is tracked: those that are required, and those that are there now.
    pub(super) fn vaults_to_fill(&self) -> Vec<String> {
        let wanted = |vault: &&VaultSettings| vault.required || self.check_vault(vault).is_ok();
        self.settings.vaults.iter().filter(wanted).map(|vault| vault.name.clone()).collect()
    }

    pub(super) fn rules(&self, directory: &Directory) -> Result<Rules> {
        Rules::new(&directory.path, &self.settings.vault.ignore, self.never())
    }

    /// Stages a file or what is below a directory for the next backup. An `add` that fails as a whole leaves no trace.
    ///
    /// # Errors
    /// If the path is not tracked or ignored, the stage is full, or the run was cancelled.
    pub fn add(&mut self, path: &Path, deep: bool, observer: &dyn Observer) -> Result<AddReport> {
        let (directory, name) = self.tracked(path)?;
        // A name that is nowhere is a slip: nothing will be missing in the backup.
        if let Err(error) = std::fs::symlink_metadata(self.view.real(path))
            && error.kind() == io::ErrorKind::NotFound
        {
            return Err(at("add", path, &error));
        }
        let work = |service: &mut Self, _| {
            let what = What::Below { name: &name, path, deep };
            let added = service.stage_below(&directory, &what, true, observer);
            if added.is_err() {
                service.stage.keep_only(&service.catalogue.staged_contents()?)?;
            }
            added
        };
        let text = match deep {
            true => path.display().to_string(),
            false => format!("{}{ONE_LEVEL}", path.display()),
        };
        self.operation("add", &text, work, AddReport::tell)
    }

    /// Stages what changed. Without `copy` all of it is read at the backup, where it lies then.
    pub(super) fn stage_below(
        &mut self,
        directory: &Directory,
        what: &What<'_>,
        copy: bool,
        observer: &dyn Observer,
    ) -> Result<AddReport> {
        let staged_bytes = Cell::new(self.catalogue.staged_bytes()?);
        let total_bytes = match copy && observer.is_watched() {
            true => self.bytes_to_stage(directory, what, observer)?,
            false => 0,
        };
        let (most, stage, view) = (self.settings.vault.staging_max.0, &self.stage, &self.view);
        let mut report = AddReport::default();
        // The queue is one transaction; `together` cannot be used while the stage is borrowed.
        let mut queue = Vec::new();
        let mut take = |path: &Path, name: PathBuf, facts: &Metadata| {
            let real = view.real(path);
            // Others were listed meanwhile, and copying takes its time: each is taken as it is now. Of a file that is read at the backup
            // it is seen then.
            let now = match copy || kind_of(facts) != NodeKind::File {
                true => std::fs::symlink_metadata(&real),
                false => Ok(facts.clone()),
            };
            let facts = &match now {
                Ok(facts) => facts,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => {
                    report.troubles.push(Trouble { path: path.to_owned(), why: error.to_string() });
                    return Ok(());
                }
            };
            if kind_of(facts) == NodeKind::Socket {
                report.sockets.push(path.to_owned());
                return Ok(());
            }
            if kind_of(facts) != NodeKind::File {
                match super::stage::facts_of(&real, facts) {
                    // All that there is of it is in the row.
                    Ok(facts) => {
                        report.directories += u64::from(facts.is_dir());
                        report.staged += u64::from(!facts.is_dir());
                        queue.push((name, facts, Some(Id::of(b""))));
                    }
                    Err(error) => {
                        report.troubles.push(Trouble { path: path.to_owned(), why: error.to_string() })
                    }
                }
                return Ok(());
            }
            // What alone is more than the stage may hold is read at the backup, where it lies.
            let staged = match !copy || facts.len() > most {
                // What is not copied is known when it is read.
                true => Ok((None, super::stage::facts_seen(facts))),
                false => {
                    if staged_bytes.get() + facts.len() > most {
                        return Err(full(most));
                    }
                    stage.add(&real, facts, observer).map(|(id, facts)| (Some(id), facts))
                }
            };
            match staged {
                Ok((content, facts)) => {
                    staged_bytes.set(staged_bytes.get() + content.map_or(0, |_| facts.size));
                    report.staged += 1;
                    report.bytes += facts.size;
                    let progress = Progress {
                        files: report.staged,
                        bytes: report.bytes,
                        total_bytes,
                        item: path.to_owned(),
                    };
                    observer.progress(progress);
                    queue.push((name, facts, content));
                    Ok(())
                }
                Err(NotStaged::File(why)) => {
                    report.troubles.push(Trouble { path: path.to_owned(), why });
                    Ok(())
                }
                Err(NotStaged::Stage(error)) => Err(at("write the stage for", path, &error)),
            }
        };
        let (unchanged, unlisted) = self.changed_below(directory, what, observer, &mut take)?;
        report.unchanged = unchanged;
        report.troubles.extend(unlisted.troubles);
        report.sockets.extend(unlisted.sockets);
        // Before the queue: what it names must survive what it survives.
        self.stage.settle()?;
        self.catalogue.together(|catalogue| {
            queue.iter().try_for_each(|(name, facts, content)| {
                catalogue.stage_for_backup(directory, name, facts, *content)
            })
        })?;
        Ok(report)
    }

    /// Returns how much there is to stage; what goes wrong is told when it is.
    fn bytes_to_stage(&self, directory: &Directory, what: &What<'_>, observer: &dyn Observer) -> Result<u64> {
        let mut bytes = 0;
        let mut count = |_: &Path, _: PathBuf, facts: &Metadata| {
            bytes += if kind_of(facts) == NodeKind::File { facts.len() } else { 0 };
            Ok(())
        };
        self.changed_below(directory, what, observer, &mut count)?;
        Ok(bytes)
    }

    /// Hands each entry to `take` that is no version yet, or that a vault lacks which must hold it; returns how many others there
    /// are, without directories, and what could not be listed.
    pub(super) fn changed_below(
        &self,
        directory: &Directory,
        what: &What<'_>,
        observer: &dyn Observer,
        take: &mut dyn FnMut(&Path, PathBuf, &Metadata) -> Result<()>,
    ) -> Result<(u64, Unlisted)> {
        let mut rules = self.rules(directory)?;
        let mut known = match what {
            What::Below { name, path, deep } => {
                rules.enter_down_to(path, &self.view)?;
                let is_dir = self.view.real(path).is_dir();
                let is_copy = !is_dir && self.is_restored_copy(directory, name)?;
                if *path != directory.path && (is_copy || rules.ignores(path, is_dir)) {
                    return Err(usage(format!("`{}` is ignored", path.display())).hint(
                        "`ignore` in [vault] and `.btignore` files say what is; copies that `restore` made are, too",
                    ));
                }
                Before::of(&self.catalogue, directory, name, *deep)?
            }
            What::Looks(looks) => Before::of_looks(&self.catalogue, directory, looks)?,
        };
        let lacking = self.catalogue.lacking(&self.vaults_to_fill())?;
        let silent = self.told_silent(directory);
        let mut unchanged = 0;
        let mut found = |path: &Path, facts: &Metadata| {
            if observer.is_cancelled() {
                return Err(ModuleError::cancelled());
            }
            let name = path.strip_prefix(&directory.path).unwrap_or(path).to_owned();
            if !facts.is_dir() && self.is_restored_copy(directory, &name)? {
                return Ok(());
            }
            let is_silent =
                silent.contains(path) || matches!(what, What::Looks(looks) if looks.is_silent(path));
            let current = known.current_content(&name, facts)?;
            match current.filter(|content| !is_silent && !lacking.contains(content)) {
                Some(_) => {
                    unchanged += u64::from(!facts.is_dir());
                    Ok(())
                }
                None => take(path, name, facts),
            }
        };
        let view = &self.view;
        let unlisted = scan::beside(&mut found, |found| match what {
            What::Below { path, deep, .. } => {
                scan::entries(&directory.path, path, *deep, view, &mut rules, found)
            }
            What::Looks(looks) => scan::looks(&directory.path, looks, view, &mut rules, found),
        })?;
        Ok((unchanged, unlisted))
    }
}

/// What of a tracked directory is looked at.
pub(super) enum What<'w> {
    /// What is at or below a path.
    Below {
        /// Relative to the directory.
        name: &'w Path,
        /// The same, absolute.
        path: &'w Path,
        /// Whether directories in it are looked into.
        deep: bool,
    },
    /// These paths.
    Looks(&'w Looks),
}

impl<'w> What<'w> {
    /// All of a directory.
    pub(super) fn all_of(directory: &'w Directory) -> Self {
        What::Below { name: Path::new(""), path: &directory.path, deep: true }
    }
}

fn full(most: u64) -> ModuleError {
    ModuleError::new(ErrorKind::DiskSpace, format!("the stage is full: it may hold {}", human_bytes(most)))
        .hint("`bt backup` empties it; `staging_max` in [vault] allows more")
}
