//! Which vaults hold a version, and what becomes of it if one of them cannot give it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use pc_switcher_contract::{ErrorKind, ModuleError};

use super::batch::{Batch, Done, Family, Fleet};
use super::restore::{Target, Thawed, ends};
use super::vaults::Passphrase;
use super::{RestoreReport, Service};
use crate::catalogue::{Chunk, CurrentFile, Directory};
use crate::engine::{Cold, Given, Missed, Observer, Trouble};
use crate::error::{Result, again};
use crate::format::Id;
use crate::repo::{Held, Repository};

/// The vaults that a restore has tried so far.
#[derive(Default)]
pub(super) struct Opened {
    vaults: Vec<Open>,
    refused: HashMap<String, ModuleError>,
    /// Contents that vaults hold and cannot give.
    pub(super) failed: HashMap<Id, Vec<(String, ModuleError)>>,
    /// The numbers of files that another vault may give.
    pub(super) again: Vec<usize>,
    /// The numbers of files that could not be put in their place, and why.
    pub(super) misplaced: Vec<(usize, ModuleError)>,
    /// A name of each file with several that is what it should be.
    pub(super) first_names: HashMap<Family, PathBuf>,
    /// Files that are among the troubles or wait for a provider, and their bytes.
    pub(super) failed_files: (u64, u64),
    /// What lies in cold storage, by the number of its vault.
    pub(super) cold: BTreeMap<usize, Cold>,
    /// What was done about it.
    pub(super) thawed: BTreeMap<usize, Thawed>,
}

impl Opened {
    /// Notes that a vault could not give a content. One that is away is asked for nothing more.
    fn note_failed(&mut self, vault: usize, content: Id, error: ModuleError) {
        let name = &self.vaults[vault].name;
        if error.kind == ErrorKind::Unreachable {
            self.refused.entry(name.clone()).or_insert_with(|| again(&error));
        }
        self.failed.entry(content).or_default().push((name.clone(), error));
    }

    fn count_failed(&mut self, file: &CurrentFile) {
        if !file.version.facts.is_dir() {
            self.failed_files.0 += 1;
            self.failed_files.1 += file.version.facts.size;
        }
    }

    /// Counts a file that waits until these packs of a vault were fetched.
    pub(super) fn waits(&mut self, vault: usize, packs: BTreeSet<Id>, file: &CurrentFile) {
        self.count_failed(file);
        let cold = self.cold.entry(vault).or_default();
        cold.files += 1;
        cold.bytes += file.version.facts.size;
        cold.packs.extend(packs);
    }

    /// Returns the vaults, by their numbers here, of which something turned out to lie in cold storage.
    pub(super) fn with_cold(&self) -> Vec<(usize, String, Arc<Repository>)> {
        let all = self.vaults.iter().enumerate().filter(|(_, vault)| vault.repo.store().has_cold());
        all.map(|(number, vault)| (number, vault.name.clone(), vault.repo.clone())).collect()
    }

    /// Counts a file that is not restored, and says why.
    pub(super) fn misses(
        &mut self,
        directory: &Directory,
        file: &CurrentFile,
        why: String,
        report: &mut RestoreReport,
    ) {
        self.count_failed(file);
        report.troubles.push(Trouble { path: directory.path.join(&file.name), why });
    }

    /// Returns why a vault could not give a content.
    pub(super) fn why_not(&self, content: Id) -> String {
        let first = self.failed.get(&content).and_then(|failed| failed.first());
        first.map_or_else(String::new, |(vault, error)| {
            format!("the vault `{vault}` could not give it, and no other was asked: {error}")
        })
    }

    /// Has what waits to be restored together begun, once one that is under way has ended if there are enough.
    ///
    /// # Errors
    /// If the run was cancelled, or there is no room for all; what was complete is told before.
    pub(super) fn restore(
        &mut self,
        batch: &mut Batch,
        fleet: &mut Fleet<'_, '_>,
        report: &mut RestoreReport,
    ) -> Result<()> {
        if fleet.is_full()
            && let Some(done) = fleet.wait()
        {
            self.take_in(done?, report)?;
        }
        fleet.begin(batch, self.vaults.iter().map(|vault| vault.repo.clone()).collect());
        Ok(())
    }

    /// Waits for all that is under way.
    ///
    /// # Errors
    /// As [`Opened::restore`], after all of them ended.
    pub(super) fn settle(&mut self, fleet: &mut Fleet<'_, '_>, report: &mut RestoreReport) -> Result<()> {
        let mut ended = Ok(());
        while let Some(done) = fleet.wait() {
            ended = gravest(ended, done.and_then(|done| self.take_in(done, report)));
        }
        ended
    }

    /// Notes which vaults are away, so that what comes is asked of others.
    pub(super) fn learn(&mut self, fleet: &Fleet<'_, '_>) {
        for (vault, error) in fleet.away() {
            self.refused.entry(self.vaults[vault].name.clone()).or_insert(error);
        }
    }

    /// Notes what became of files that were restored together.
    fn take_in(&mut self, all: Vec<Done>, report: &mut RestoreReport) -> Result<()> {
        let mut full = None;
        for (job, done) in all {
            match done {
                Ok(given) => {
                    if let Some(family) = job.family {
                        self.first_names.entry(family).or_insert_with(|| job.place.clone());
                    }
                    report.takes(job.place, job.node.size, given);
                }
                Err(Missed::Place(error)) if error.kind == ErrorKind::DiskSpace => {
                    full.get_or_insert(error);
                }
                Err(Missed::Content(error)) => {
                    self.note_failed(job.vault, job.content, error);
                    self.again.push(job.number);
                }
                Err(Missed::Place(error)) => self.misplaced.push((job.number, error)),
            }
        }
        full.map_or(Ok(()), Err)
    }
}

/// Of two ends the one that says more: whoever ended it themselves wants to hear of nothing else.
pub(super) fn gravest(first: Result<()>, second: Result<()>) -> Result<()> {
    match second {
        Err(error) if error.kind == ErrorKind::Cancelled => Err(error),
        second => first.and(second),
    }
}

/// A vault that is restored from: what is read stays there as long as it is locked.
struct Open {
    name: String,
    repo: Arc<Repository>,
    _lock: Option<Held>,
}

impl Service {
    /// Restores a version from the first vault that can give it. Vaults that could not are told.
    pub(super) fn restore_from_any(
        &mut self,
        file: &CurrentFile,
        target: &mut Target<'_>,
        open: &mut Opened,
        passphrase: &mut Passphrase<'_>,
        report: &mut RestoreReport,
        observer: &dyn Observer,
    ) -> Result<(PathBuf, Given)> {
        let content = file.version.content_id;
        loop {
            let (vault, chunks) = match self.source_of(file, open, passphrase) {
                Ok(found) => found,
                // Why the first could not give it says more than that there is no other.
                Err(error) => {
                    let first = open.failed.get(&content).and_then(|failed| failed.first());
                    return Err(first.map_or(error, |(_, first)| again(first)));
                }
            };
            let Open { name, repo, .. } = &open.vaults[vault];
            match self.restore_one(repo, target, file, &chunks, observer) {
                Ok((place, given)) => {
                    let failed = open.failed.get(&content).into_iter().flatten();
                    report.elsewhere.extend(failed.map(|(other, error)| Trouble {
                        path: place.clone(),
                        why: format!("the vault `{other}` could not give it, `{name}` did: {error}"),
                    }));
                    return Ok((place, given));
                }
                Err(Missed::Place(error)) => return Err(error),
                Err(Missed::Content(error)) if error.kind == ErrorKind::Cancelled => return Err(error),
                Err(Missed::Content(error)) => open.note_failed(vault, content, error),
            }
        }
    }

    /// Restores what one vault could not give from another one.
    pub(super) fn restore_again(
        &mut self,
        target: &mut Target<'_>,
        wanted: &[CurrentFile],
        passphrase: &mut Passphrase<'_>,
        open: &mut Opened,
        report: &mut RestoreReport,
        observer: &dyn Observer,
    ) -> Result<()> {
        open.again.sort_unstable_by(|a, b| b.cmp(a));
        while let Some(number) = open.again.pop() {
            let file = &wanted[number];
            match self.restore_from_any(file, target, open, passphrase, report, observer) {
                Ok((place, given)) => report.takes(place, file.version.facts.size, given),
                Err(error) if error.kind != ErrorKind::Busy && ends(&error) => return Err(error),
                Err(error) => self.misses(open, target.directory, file, error.to_string(), report),
            }
        }
        Ok(())
    }

    /// Opens a vault that holds a version, and returns its place in `open` and the chunks.
    pub(super) fn source_of(
        &mut self,
        file: &CurrentFile,
        open: &mut Opened,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<(usize, Vec<Chunk>)> {
        let content = file.version.content_id;
        let mut holders = Vec::new();
        for settings in &self.settings.vaults {
            let Some(chunks) = self.catalogue.chunks_of(&settings.name, file.version.content)? else {
                continue;
            };
            if open
                .failed
                .get(&content)
                .is_some_and(|failed| failed.iter().any(|(name, _)| *name == settings.name))
            {
                continue;
            }
            let is_away = open.refused.contains_key(&settings.name);
            if let Some(index) = open.vaults.iter().position(|other| other.name == settings.name)
                && !is_away
            {
                return Ok((index, chunks));
            }
            holders.push((settings.clone(), chunks));
        }
        let mut why = None;
        for (settings, chunks) in holders {
            let name = settings.name.clone();
            if let Some(refused) = open.refused.get(&name) {
                why = Some(again(refused));
                continue;
            }
            let opened = self.open_vault(&settings, passphrase).and_then(|repo| {
                let lock = repo.lock_to_read(&self.around.who, &self.around.clock)?;
                Ok(Open { name: name.clone(), repo: Arc::new(repo), _lock: lock.held() })
            });
            match opened {
                Ok(one) => {
                    open.vaults.push(one);
                    return Ok((open.vaults.len() - 1, chunks));
                }
                Err(error) => {
                    why = Some(again(&error));
                    open.refused.insert(name, error);
                }
            }
        }
        Err(why.unwrap_or_else(|| {
            ModuleError::failed(format!("no vault that is set holds the content `{content}`")).hint(
                "`bt log` says which vaults hold which version; what no snapshot needs any more `bt prune` removes",
            )
        }))
    }
}
