//! Repairing vaults, and telling the catalogue what they lost.

use super::Service;
use super::target::OldCopies;
use super::vaults::Passphrase;
use crate::engine::{self, Observer, RepairOrder, RepairSummary};
use crate::error::Result;
use crate::format::BlobKind;

/// What is to be repaired.
#[derive(Debug, Clone, Default)]
pub struct RepairWish {
    /// Only the vault of this name.
    pub only: Option<String>,
    /// Whether everything is read.
    pub read_data: bool,
    /// Whether snapshots lose what is lost.
    pub drop_lost: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// What repairing a vault came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Its name.
    pub name: String,
    /// What was found and done.
    pub summary: RepairSummary,
    /// Versions of this machine that it does not hold any more.
    pub versions_gone: u64,
    /// What somebody should know beside it.
    pub warnings: Vec<String>,
    /// Whether something went wrong beside it.
    pub incomplete: bool,
    /// Whether that is so for want of room.
    pub is_full: bool,
}

impl Repaired {
    /// Whether there was nothing to repair.
    pub fn is_sound(&self) -> bool {
        self.summary.is_sound() && self.versions_gone == 0
    }
}

impl Service {
    /// Repairs every vault that is set, or the one of this name; a dry run only says what it would do.
    ///
    /// # Errors
    /// If a vault cannot be used, or somebody works in it.
    pub fn repair(
        &mut self,
        wish: &RepairWish,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<Vec<Repaired>> {
        if !wish.dry_run {
            self.catch_up(wish.only.as_deref(), passphrase)?;
        }
        let done = self.repair_now(wish, passphrase, observer);
        self.with_said(done, |all, said| {
            if let Some(first) = all.first_mut() {
                first.warnings.splice(..0, said);
            }
        })
    }

    fn repair_now(
        &mut self,
        wish: &RepairWish,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<Vec<Repaired>> {
        let chosen = self.chosen(wish.only.as_deref())?;
        let work = |service: &mut Self, operation: i64| {
            let mut all = Vec::new();
            for settings in chosen {
                let repo = service.open_current(&settings, passphrase)?;
                let alone = match wish.dry_run {
                    true => None,
                    false => Some(repo.lock_alone(&service.around.who, &service.around.clock)?),
                };
                let order = RepairOrder {
                    read_data: wish.read_data,
                    drop_lost: wish.drop_lost,
                    alone: alone.as_ref(),
                };
                let summary = engine::repair(&repo, order, observer)?;
                let mut repaired = Repaired { name: settings.name.clone(), summary, ..Repaired::default() };
                if !wish.dry_run {
                    let is_there = |blob| {
                        repo.find(BlobKind::Data, &blob).is_some()
                            || repo.lies_as_other(BlobKind::Data, &blob)
                    };
                    repo.load_index()?;
                    repaired.versions_gone =
                        service.catalogue.forget_what_is_gone(&settings.name, is_there)?;
                }
                if !wish.dry_run && !repaired.is_sound() {
                    // What is stored again is in the next snapshot.
                    service.catalogue.need_snapshot(&settings.name)?;
                    let copied = service.upload(&repo, &settings, operation, OldCopies::MayStay)?;
                    repaired.incomplete = !copied.failed.is_empty();
                    repaired.is_full = copied.is_full();
                    repaired.warnings.extend(copied.said());
                }
                all.push(repaired);
            }
            Ok(all)
        };
        if wish.dry_run {
            return work(self, 0);
        }
        self.operation("repair", wish.only.as_deref().unwrap_or_default(), work, |all| tell(all))
    }
}

fn tell(all: &[Repaired]) -> (bool, String) {
    let lost: u64 = all.iter().map(|one| one.summary.lost.count()).sum();
    let gone: u64 = all.iter().map(|one| one.versions_gone).sum();
    (all.iter().all(|one| !one.incomplete), format!("{lost} paths lost, {gone} versions gone"))
}
