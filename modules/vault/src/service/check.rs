//! Looking into vaults: whether they are sound, and which snapshots they hold.

use super::Service;
use super::vaults::Passphrase;
use crate::engine::{CheckSummary, Observer, check};
use crate::error::Result;
use crate::format::{Id, Snapshot};

impl Service {
    /// Checks every vault that is set, or the one of this name.
    ///
    /// # Errors
    /// If a vault cannot be opened; what is wrong in it is in its summary.
    pub fn check(
        &mut self,
        only: Option<&str>,
        read_data: bool,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<Vec<(String, CheckSummary)>> {
        let mut all = Vec::new();
        for vault in self.chosen(only)? {
            let repo = self.open_vault(&vault, passphrase)?;
            let _lock = repo.lock(&self.around.who, &self.around.clock)?;
            all.push((vault.name, check(&repo, read_data, observer)?));
        }
        Ok(all)
    }

    /// Returns the snapshots of a vault, those of other machines and writers too, the oldest first.
    ///
    /// # Errors
    /// If the vault cannot be opened.
    pub fn snapshots(
        &mut self,
        only: Option<&str>,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<Vec<(String, Id, Snapshot)>> {
        let mut all = Vec::new();
        for vault in self.chosen(only)? {
            let repo = self.open_vault(&vault, passphrase)?;
            all.extend(
                repo.snapshots()?.into_iter().map(|(id, snapshot)| (vault.name.clone(), id, snapshot)),
            );
        }
        Ok(all)
    }
}
