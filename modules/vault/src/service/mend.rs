//! A catalogue that went back, as after a rollback of the machine, is brought up to date before a command goes on, if it is certain that
//! nothing is lost by that (`successor.rs`). If not, the command refuses as it does without, and says why.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::successor::Successor;
use super::swap::{scratch_beside, swap};
use super::vaults::{self, Passphrase};
use super::{Ask, Service, VaultSettings, log};
use crate::catalogue::Catalogue;
use crate::error::{Result, at};
use crate::repo::Repository;

/// What came of bringing the catalogue up to date.
#[derive(Debug, Default)]
pub(super) struct CatchingUp {
    /// Whether the vaults were asked.
    is_done: bool,
    /// What keeps it from that, if it is needed.
    pub(super) why_not: Option<String>,
    /// What was done, as long as nobody was told.
    said: Vec<String>,
}

/// A vault that was looked at before a sync.
#[derive(Debug)]
pub struct Proven {
    /// Which one.
    pub settings: VaultSettings,
    /// What keeps a backup from it.
    pub problem: Option<ModuleError>,
    /// What a backup does beside what it always does.
    pub note: Option<String>,
}

/// What was found before a sync.
#[derive(Debug)]
pub struct Looked {
    /// The vaults.
    pub vaults: Vec<Proven>,
    /// What is tracked once the catalogue is up to date, if it is not.
    pub(super) tracked: Option<Vec<PathBuf>>,
}

impl Service {
    /// Brings the catalogue up to date if one of the vaults that are set, or the one of this name, knows more than it. Where that is left to
    /// a person, [`Service::why_behind`] says so, and so does whatever uses such a vault.
    ///
    /// # Errors
    /// If no such vault is set, or a vault or the disk fails meanwhile, others have the catalogue open (`Busy`), or the run was cancelled; then
    /// the catalogue is as it was.
    pub fn catch_up(&mut self, only: Option<&str>, passphrase: &mut Passphrase<'_>) -> Result<()> {
        if self.catching_up.is_done || self._scratch.is_some() {
            return Ok(());
        }
        let mut is_behind = false;
        for settings in self.chosen(only)? {
            let store = (self.around.stores)(&settings);
            match store.and_then(|store| self.older(&settings, &*store)) {
                Ok(older) => is_behind |= older.is_some(),
                Err(error) if error.kind == ErrorKind::Cancelled => return Err(error),
                // Whoever uses it says what is wrong with it.
                Err(_) => {}
            }
        }
        self.catching_up.is_done = true;
        if !is_behind {
            return Ok(());
        }
        let _lock = self.lock()?;
        match self.mend(passphrase) {
            Ok(said) => self.catching_up.said = said,
            Err(why) if why.kind == ErrorKind::Invalid => {
                self.catching_up.why_not = Some(not_by_itself(&why));
            }
            Err(why) => return Err(why),
        }
        Ok(())
    }

    /// Returns what is said of a catalogue that is behind a vault and was not brought up to date.
    pub fn why_behind(&self) -> Option<ModuleError> {
        let why = self.catching_up.why_not.as_ref()?;
        let error = ModuleError::new(ErrorKind::Invalid, "the catalogue is older than a vault");
        Some(
            error
                .hint("`bt recover` puts the vault's copy in its place; nothing was changed")
                .hint(why.clone()),
        )
    }

    /// Returns what was done to the catalogue, once.
    pub fn take_said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.catching_up.said)
    }

    /// Says what was done to the catalogue, however the run ended that came after it.
    pub(crate) fn with_said<T>(
        &mut self,
        done: Result<T>,
        take: impl FnOnce(&mut T, Vec<String>),
    ) -> Result<T> {
        let said = self.take_said();
        match done {
            Ok(mut done) => {
                take(&mut done, said);
                Ok(done)
            }
            Err(error) => Err(said.into_iter().fold(error, ModuleError::hint)),
        }
    }

    /// Puts what may take its place in the place of the catalogue; returns what is to be said.
    fn mend(&mut self, passphrase: &mut Passphrase<'_>) -> Result<Vec<String>> {
        // Somebody may keep it elsewhere and have a link here.
        let place = self.around.places.catalogue();
        let place = place.canonicalize().map_err(|error| at("find the catalogue", &place, &error))?;
        let scratch = scratch_beside(&place)?;
        let Successor { mut catalogue, path, vault, last, mut said } =
            self.successor(passphrase, scratch.path())?;
        let (now, versions) = ((self.around.clock)(), catalogue.count_versions()?);
        let number = catalogue.begin_operation_after(last, "recover", &self.host_id, now)?;
        let details = format!("by itself, since the vault `{vault}` knew more: {versions} versions");
        catalogue.end_operation(number, true, &details, now)?;
        catalogue.into_one_file()?;
        drop(catalogue);
        // Nobody else has it open from here on, or this ends.
        self.catalogue.into_one_file()?;
        let put_aside = self.exchange(&path, &place, scratch.path(), now)?;
        // What changed since a base that it knew says nothing of what is known now.
        self.looking.clear();
        self.sources.iter_mut().for_each(|source| source.told = None);
        let (parameters, details) = (&*self.host_id, &*details);
        let line = log::Line { at: now, number, operation: "recover", parameters, success: true, details };
        log::append(&self.around.places.log(), &line).ok();
        let aside = put_aside
            .map(|path| format!("; the one that was there is {} now", path.display()))
            .unwrap_or_default();
        said.insert(
            0,
            format!(
                "the catalogue was older than the vault `{vault}`, as after a rollback, and is up to date again: {versions} versions are \
                 known{aside}"
            ),
        );
        Ok(said)
    }

    /// Exchanges the catalogue that is open for another one. What is open afterwards is in the place, or this fails.
    fn exchange(
        &mut self,
        fresh: &Path,
        place: &Path,
        scratch: &Path,
        now: Timestamp,
    ) -> Result<Option<PathBuf>> {
        let nothing = Catalogue::open(&scratch.join("nothing.db"))?;
        let old = std::mem::replace(&mut self.catalogue, nothing);
        let swapped = swap(fresh, place, Some(old), now);
        // Never one that is made for it.
        match Catalogue::open_there(place) {
            Ok(there) => {
                self.catalogue = there;
                swapped
            }
            Err(error) => Err(swapped.err().unwrap_or(ModuleError { kind: ErrorKind::Failed, ..error })),
        }
    }

    /// Says of each vault that is set, or of the one of this name, what keeps a backup from it, if anything, as a backup would find it; writes
    /// nothing.
    ///
    /// # Errors
    /// If no such vault is set.
    pub fn prove_vaults(&self, only: Option<&str>, passphrase: &mut Passphrase<'_>) -> Result<Looked> {
        let mut looked = Looked { vaults: Vec::new(), tracked: None };
        // What keeps all of them from it is found once.
        let mut mended: Option<Result<Vec<PathBuf>>> = None;
        for settings in self.chosen(only)? {
            let (mut problem, mut note) = (None, None);
            match self.prove_vault(&settings, passphrase) {
                Ok(None) => {}
                Err(error) => problem = Some(error),
                Ok(Some(older)) => match mended.get_or_insert_with(|| self.tracked_then(passphrase)) {
                    Ok(_) => {
                        note = Some(format!(
                            "the catalogue is older than the vault `{}`, as after a rollback; the backup brings it up to date first",
                            settings.name
                        ));
                    }
                    Err(why) if why.kind == ErrorKind::Invalid => {
                        problem = Some(older.hint(not_by_itself(why)));
                    }
                    Err(why) => problem = Some(crate::error::again(why)),
                },
            }
            looked.vaults.push(Proven { settings, problem, note });
        }
        looked.tracked = mended.and_then(Result::ok);
        Ok(looked)
    }

    /// Returns what is said of a vault that knows more than the catalogue; fails if it cannot be used.
    fn prove_vault(
        &self,
        settings: &VaultSettings,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<Option<ModuleError>> {
        let store = (self.around.stores)(settings)?;
        vaults::check_marker(settings, &*store, &self.catalogue)?;
        let word = passphrase(Ask::Open(settings.name.clone()))?;
        self.older(settings, Repository::open(store, &word)?.store())
    }

    /// Returns what will be tracked once the catalogue is up to date; fails as that would. Nothing is written where the state lies.
    fn tracked_then(&self, passphrase: &mut Passphrase<'_>) -> Result<Vec<PathBuf>> {
        let scratch = tempfile::tempdir();
        let scratch = scratch.map_err(|error| at("make a directory in", &std::env::temp_dir(), &error))?;
        let then = self.successor(passphrase, scratch.path())?;
        Ok(then.catalogue.directories()?.into_iter().map(|directory| directory.path).collect())
    }
}

fn not_by_itself(why: &ModuleError) -> String {
    format!("it is not brought up to date by itself: {}", why.message)
}

#[cfg(test)]
#[path = "mend_tests.rs"]
mod tests;
