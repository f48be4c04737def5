//! Looking into vaults: whether they are sound, and which snapshots they hold.

use jiff::Timestamp;
use pc_switcher_contract::ErrorKind;

use super::Service;
use super::prune::Backups;
use super::vaults::Passphrase;
use crate::engine::{CheckSummary, Lines, Observer, Part, Reading, check};
use crate::error::Result;
use crate::format::{BlobKind, Id, Snapshot};
use crate::repo::Repository;

/// What a check of a vault came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its name.
    pub name: String,
    /// What was found.
    pub summary: CheckSummary,
    /// Packs that no check of this machine ever read.
    pub unread: u64,
    /// When that of the others was read that was not read for longest.
    pub oldest: Option<Timestamp>,
    /// Versions of this machine that went with their snapshots, as this machine does not know yet.
    pub versions_gone: u64,
    /// What else is worth knowing.
    pub warnings: Vec<String>,
}

/// The name of a vault, and a snapshot in it with its id.
pub type InVault = (String, Id, Snapshot);

impl Service {
    /// Checks every vault that is set, or the one of this name, and reads that part of its packs: those that were not read for longest.
    ///
    /// # Errors
    /// If a vault cannot be opened; what is wrong in it is in its summary.
    pub fn check(
        &mut self,
        only: Option<&str>,
        part: Option<Part>,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<Vec<Checked>> {
        let mut all = Vec::new();
        for vault in self.chosen(only)? {
            let repo = self.open_vault(&vault, passphrase)?;
            let lock = repo.lock_to_read(&self.around.who, &self.around.clock)?;
            let mut warnings: Vec<String> = lock.warning(&vault.name).into_iter().collect();
            let read_at = self.catalogue.pack_reads(&vault.name)?;
            let reading = match part {
                None => Reading::Nothing,
                Some(Part::ALL) => Reading::All,
                Some(part) => Reading::Part(part, &read_at),
            };
            let mut summary = check(&repo, &reading, observer)?;
            let versions_gone = self.check_versions(&vault.name, &repo, &mut summary)?;
            // What is damaged now was read once, and is to be looked at first by the next one.
            let is_sound = |id: &&Id| !summary.unsound.contains(id);
            let known: Vec<Id> = summary.there.iter().filter(is_sound).copied().collect();
            let now = (self.around.clock)();
            let noted = match part {
                Some(_) => self.catalogue.note_pack_reads(&vault.name, &summary.read, &known, now),
                None => Ok(()),
            };
            if let Err(error) = noted {
                summary.problems.push(|| format!("which packs were read cannot be noted: {error}"));
            }
            match self.prove_copy(&repo, &vault) {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::Cancelled => return Err(error),
                Err(error) if error.kind == ErrorKind::Failed => summary
                    .problems
                    .push(|| format!("{}; the next backup stores all of the catalogue anew", error.message)),
                Err(error) => warnings.push(format!(
                    "whether the copy of the catalogue in the vault `{}` can be read is not known: {error}",
                    vault.name
                )),
            }
            let read_at = self.catalogue.pack_reads(&vault.name).unwrap_or(read_at);
            let times = summary.there.iter().map(|id| read_at.get(id).copied());
            let unread = times.clone().filter(Option::is_none).count() as u64;
            let oldest = times.flatten().min().and_then(|at| Timestamp::from_second(at).ok());
            all.push(Checked { name: vault.name, summary, unread, oldest, versions_gone, warnings });
        }
        Ok(all)
    }

    /// Names the versions that the catalogue has in a vault and that are not there, but for those of which a snapshot tells it. Those
    /// that went with their snapshots, by another machine's prune, are only counted.
    fn check_versions(&self, vault: &str, repo: &Repository, summary: &mut CheckSummary) -> Result<u64> {
        let (snapshots, _) = repo.snapshots_found()?;
        let backups = Backups::of(&self.catalogue, &self.host_id, &snapshots, |_| true)?;
        let is_there = |blob: Id| {
            let kinds = [BlobKind::Data, BlobKind::Tree];
            kinds.iter().any(|kind| repo.find(*kind, &blob).is_some()) || summary.lost_chunks.contains(&blob)
        };
        let (mut lost, mut gone) = (Lines::default(), 0);
        self.catalogue.lost_versions(vault, is_there, |path, created_at, stored_at| {
            if !backups.vouch_for(created_at) && !backups.vouch_for(stored_at) {
                gone += 1;
                return;
            }
            lost.push(|| {
                format!(
                    "`{}`: its version of {created_at} is not in the vault any more; `bt repair` notes that it is gone",
                    path.display()
                )
            });
        })?;
        summary.problems.add(lost);
        Ok(gone)
    }

    /// Returns the snapshots of each vault, those of other machines and writers too, the oldest first; and what is wrong with those that
    /// cannot be read.
    ///
    /// # Errors
    /// If the vault cannot be opened.
    pub fn snapshots(
        &mut self,
        only: Option<&str>,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<(Vec<InVault>, Vec<String>)> {
        let (mut all, mut problems) = (Vec::new(), Vec::new());
        for vault in self.chosen(only)? {
            let repo = self.open_vault(&vault, passphrase)?;
            let (found, broken) = repo.snapshots_found()?;
            let name = &vault.name;
            all.extend(found.into_iter().map(|(id, snapshot)| (name.clone(), id, snapshot)));
            problems.extend(broken.iter().map(|one| format!("{name}: snapshot `{}`: {}", one.name, one.why)));
        }
        Ok((all, problems))
    }
}
