//! The vaults of a backup: opened, locked, and given a copy of the catalogue in the end.

use std::path::Path;

use pc_switcher_contract::{ErrorKind, ModuleError};

use super::copies::{self, Place};
use super::vaults::Passphrase;
use super::{BackupReport, Service, VaultReport, VaultSettings};
use crate::catalogue::VaultState;
use crate::error::{Result, at};
use crate::repo::{Held, Repository};
use crate::store::Store;

/// A vault that is open for a backup.
pub(super) struct Target {
    pub(super) settings: VaultSettings,
    pub(super) repo: Repository,
    pub(super) lock: Held,
    pub(super) report: VaultReport,
}

/// What becomes of copies of the catalogue that are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldCopies {
    /// They go, by whoever may remove things.
    Go,
    /// They go where a backup may remove things; elsewhere they wait for a prune.
    MayStay,
}

/// What became of a copy of the catalogue, and of the copies of the keys beside it.
#[derive(Default)]
pub(super) struct Uploaded {
    /// What went wrong; the next backup makes up for it.
    pub(super) failed: Vec<ModuleError>,
    /// What somebody should know.
    pub(super) warnings: Vec<String>,
}

impl Uploaded {
    fn fail(&mut self, what: &str, vault: &str, error: ModuleError) {
        let message = format!("{what} to the vault `{vault}`: {}", error.message);
        self.failed.push(ModuleError { message, ..error });
    }

    /// Whether something went wrong for want of room.
    pub(super) fn is_full(&self) -> bool {
        self.failed.iter().any(|error| error.kind == ErrorKind::DiskSpace)
    }

    /// Returns all of it in words.
    pub(super) fn said(self) -> impl Iterator<Item = String> {
        self.failed.into_iter().map(|error| error.to_string()).chain(self.warnings)
    }
}

/// Whether a vault is only not there now, as one that is not required may be. What else is wrong with it goes away by itself never.
pub(super) fn is_away(error: &ModuleError) -> bool {
    error.kind == ErrorKind::Unreachable
}

impl Service {
    pub(super) fn open_targets(
        &mut self,
        chosen: Vec<VaultSettings>,
        passphrase: &mut Passphrase<'_>,
        report: &mut BackupReport,
    ) -> Result<Vec<Target>> {
        let (mut targets, mut first) = (Vec::new(), None);
        for settings in chosen {
            let (required, name) = (settings.required, settings.name.clone());
            match self.open_target(settings, passphrase) {
                Ok(target) => targets.push(target),
                Err(error) if required || error.kind == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    report.incomplete |= !is_away(&error);
                    report.is_full |= error.kind == ErrorKind::DiskSpace;
                    report.warnings.push(format!("vault `{name}` was left out: {error}"));
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) if targets.is_empty() => Err(error),
            _ => Ok(targets),
        }
    }

    fn open_target(&mut self, settings: VaultSettings, passphrase: &mut Passphrase<'_>) -> Result<Target> {
        let repo = self.open_current(&settings, passphrase)?;
        let lock = repo.lock(&self.around.who, &self.around.clock)?;
        repo.adopt_packs(&lock)?;
        let report = VaultReport { name: settings.name.clone(), ..VaultReport::default() };
        Ok(Target { settings, repo, lock, report })
    }

    /// Opens a vault that knows nothing of this machine that the catalogue does not know.
    pub(super) fn open_current(
        &mut self,
        settings: &VaultSettings,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<Repository> {
        let repo = self.open_vault(settings, passphrase)?;
        self.check_current(settings, &repo)?;
        Ok(repo)
    }

    /// Proves that a vault knows nothing of this machine that the catalogue does not know.
    pub(super) fn check_current(&self, settings: &VaultSettings, repo: &Repository) -> Result<()> {
        self.older(settings, repo.store())?.map_or(Ok(()), Err)
    }

    /// Returns what is said of a vault that knows something of this machine that the catalogue does not know.
    pub(super) fn older(&self, settings: &VaultSettings, store: &dyn Store) -> Result<Option<ModuleError>> {
        let newest = copies::versions(store, &self.host_id)?.pop().unwrap_or(0);
        let own = self.catalogue.vault_state(&settings.name)?.map_or(0, |state| state.uploaded);
        if newest <= own {
            return Ok(None);
        }
        let message = format!(
            "the catalogue is older than the vault `{}`: that holds version {newest} of it, and it knows of {own}",
            settings.name
        );
        let error = ModuleError::new(ErrorKind::Invalid, message)
            .hint("`bt recover` puts the vault's copy in its place; nothing was changed");
        Ok(Some(match &self.catching_up.why_not {
            Some(why) => error.hint(why.clone()),
            None => error,
        }))
    }

    /// Whether a vault lacks a copy of the catalogue though nothing changed in it: one that was stored may be gone again.
    pub(super) fn is_copy_due(&self, settings: &VaultSettings, repo: &Repository) -> Result<bool> {
        let Some(state) = self.catalogue.vault_state(&settings.name)? else { return Ok(true) };
        let newest = copies::versions(repo.store(), &self.host_id)?.pop();
        let is_due = state.pending || newest != Some(state.uploaded);
        let base = self.around.places.base();
        Ok(is_due || self.place(&state, &base).lacks_its_base(repo.store())?)
    }

    fn place<'p>(&'p self, state: &'p VaultState, base: &'p Path) -> Place<'p> {
        let (now, who) = ((self.around.clock)().as_second(), &self.around.who);
        Place { host_id: &self.host_id, vault_id: &state.vault_id, state: base, now, who }
    }

    /// Proves that the newest copy of the catalogue can be read. If not, the next backup stores all of it.
    ///
    /// # Errors
    /// If it cannot be read (`Failed`), or the vault or this machine's disk keeps that from being told.
    pub(super) fn prove_copy(&mut self, repo: &Repository, settings: &VaultSettings) -> Result<()> {
        let base = self.around.places.base();
        let Some(state) = self.catalogue.vault_state(&settings.name)? else { return Ok(()) };
        let dir = tempfile::tempdir_in(&base).map_err(|error| at("make a directory in", &base, &error))?;
        let proven = copies::prove_newest(repo, &self.host_id, dir.path());
        if proven.as_ref().is_err_and(|error| error.kind == ErrorKind::Failed) {
            self.place(&state, &base).forget();
            self.catalogue.need_copy(&settings.name)?;
        }
        proven
    }

    /// Stores a copy of the catalogue; why it failed, if it did, is returned, and the next backup tries again. Then sees to the copies
    /// of the keys: what is wrong with these is no fault of the catalogue's.
    pub(super) fn upload(
        &mut self,
        repo: &Repository,
        settings: &VaultSettings,
        version: i64,
        old: OldCopies,
    ) -> Result<Uploaded> {
        let base = self.around.places.base();
        let Some(state) = self.catalogue.vault_state(&settings.name)? else { return Ok(Uploaded::default()) };
        // Noted before, so that the vault never holds a version that the catalogue does not know of.
        let state_before = state.uploaded;
        let begun = VaultState { uploaded: version, pending: true, ..state };
        self.catalogue.set_vault_state(&settings.name, &begun)?;
        let place = self.place(&begun, &base);
        let may_remove = old == OldCopies::Go || repo.store().removes_freely();
        let mut done = Uploaded::default();
        let name = &settings.name;
        if old == OldCopies::Go {
            // What makes room for the copy goes first.
            copies::drop_old(repo, settings, &self.host_id, None).ok();
        }
        let stored = copies::store(repo, &self.catalogue, &place, version);
        match stored {
            Ok(()) => {
                self.catalogue.set_vault_state(name, &VaultState { pending: false, ..begun })?;
                if may_remove
                    && let Err(error) = copies::drop_old(repo, settings, &self.host_id, Some(version))
                {
                    done.warnings.push(format!(
                        "older copies of the catalogue stay in the vault `{name}`: {}",
                        error.message
                    ));
                }
            }
            Err(error) => {
                if error.kind == ErrorKind::Invalid {
                    // It is another one's: who has it takes this machine's over, and not the other way round.
                    let uploaded = state_before;
                    self.catalogue.set_vault_state(name, &VaultState { uploaded, ..begun })?;
                }
                done.fail("the catalogue was not copied", name, error);
            }
        }
        match repo.keep_keys(&self.host_id, (self.around.clock)(), old == OldCopies::Go) {
            Ok(unreadable) => done.warnings.extend(unreadable.iter().map(|key| {
                format!(
                    "the key `{key}` of the vault `{name}` cannot be read, and this machine has no copy of it; if another one has, \
                     `bt repair` puts that in its place, and `restic key remove` removes one that nobody needs"
                )
            })),
            Err(error) => done.fail("the keys were not copied", name, error),
        }
        Ok(done)
    }
}
