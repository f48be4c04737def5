//! The vaults of a backup: opened, locked, and given a copy of the catalogue in the end.

use pc_switcher_contract::{ErrorKind, ModuleError};

use super::vaults::{self, Passphrase};
use super::{BackupReport, Service, VaultReport, VaultSettings};
use crate::catalogue::VaultState;
use crate::error::Result;
use crate::repo::{Held, Repository};

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
        let newest = vaults::stored_versions(repo.store(), &self.host_id)?.pop().unwrap_or(0);
        let own = self.catalogue.vault_state(&settings.name)?.map_or(0, |state| state.uploaded);
        if newest > own {
            let message = format!(
                "the catalogue is older than the vault `{}`: that holds version {newest} of it, and it knows of {own}",
                settings.name
            );
            return Err(ModuleError::new(ErrorKind::Invalid, message)
                .hint("`bt recover` puts the vault's copy in its place; nothing was changed"));
        }
        Ok(())
    }

    /// Whether a vault lacks a copy of the catalogue though nothing changed in it.
    pub(super) fn is_copy_due(&self, settings: &VaultSettings) -> Result<bool> {
        let state = self.catalogue.vault_state(&settings.name)?;
        Ok(state.is_none_or(|state| state.pending || state.uploaded == 0))
    }

    /// Stores a copy of the catalogue; why it failed, if it did, is returned, and the next backup tries again.
    pub(super) fn upload(
        &mut self,
        repo: &Repository,
        settings: &VaultSettings,
        version: i64,
        old: OldCopies,
    ) -> Result<Option<ModuleError>> {
        let base = self.around.places.base();
        let Some(state) = self.catalogue.vault_state(&settings.name)? else { return Ok(None) };
        // Noted before, so that the vault never holds a version that the catalogue does not know of.
        let begun = VaultState { uploaded: version, pending: true, ..state };
        self.catalogue.set_vault_state(&settings.name, &begun)?;
        let mut stored = vaults::upload_catalogue(repo, &self.catalogue, &self.host_id, version, &base);
        if stored.is_ok() {
            stored = repo.keep_keys(&self.host_id, (self.around.clock)(), old == OldCopies::Go);
        }
        if stored.is_ok() && (old == OldCopies::Go || repo.store().removes_freely()) {
            stored = vaults::drop_old_copies(repo, settings, &self.host_id);
        }
        match stored {
            Ok(()) => {
                self.catalogue.set_vault_state(&settings.name, &VaultState { pending: false, ..begun })?;
                Ok(None)
            }
            Err(error) => {
                let name = &settings.name;
                let message =
                    format!("the catalogue was not copied to the vault `{name}`: {}", error.message);
                Ok(Some(ModuleError { message, ..error }))
            }
        }
    }
}
