//! Pruning: snapshots that no rule keeps go, then what no snapshot and no version needs, and the catalogue learns what is gone.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_contract::keep::Keep;
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::copies;
use super::forget::{self, Verdict};
use super::target::{OldCopies, is_away};
use super::vaults::Passphrase;
use super::{Service, VaultSettings};
use crate::catalogue::Catalogue;
use crate::engine::{self, Observer, PruneSummary, When};
use crate::error::{Result, at};
use crate::format::{BlobKind, Id, Snapshot};
use crate::repo::{Held, Repository};

/// An unused pack goes when it was found unused that long ago; a prune each day finds what the one before it marked.
const GRACE: Duration = Duration::from_secs(23 * 3600);

/// What is to be pruned.
#[derive(Debug, Clone, Default)]
pub struct PruneOrder {
    /// Only the vault of this name.
    pub only: Option<String>,
    /// Other rules than those of the settings.
    pub keep: Option<Keep>,
    /// Whether what nobody needs goes at once.
    pub at_once: bool,
    /// Whether what is gone is gone for good, so that backups from before it may go as well.
    pub accept_losses: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// What pruning came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Each vault.
    pub vaults: Vec<VaultPruned>,
    /// What went wrong beside it.
    pub warnings: Vec<String>,
    /// Whether a warning means that something was left undone.
    pub incomplete: bool,
    /// Whether that is so for want of room.
    pub is_full: bool,
}

/// What pruning a vault came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultPruned {
    /// Its name.
    pub name: String,
    /// What became of the snapshots, the oldest first.
    pub verdicts: Vec<Verdict>,
    /// What became of the packs.
    pub summary: PruneSummary,
    /// Versions of this machine that the vault does not hold any more.
    pub versions_gone: u64,
}

impl PruneReport {
    fn tell(&self) -> (bool, String) {
        let forgotten = self.vaults.iter().flat_map(|vault| &vault.verdicts).filter(|verdict| !verdict.stays);
        let bytes: u64 = self.vaults.iter().map(|vault| vault.summary.removed.1).sum();
        let gone: u64 = self.vaults.iter().map(|vault| vault.versions_gone).sum();
        let text =
            format!("{} snapshots forgotten, {bytes} bytes removed, {gone} versions gone", forgotten.count());
        (!self.incomplete, text)
    }
}

impl Service {
    /// Removes snapshots that no rule keeps, and what nobody needs any more; a dry run only says what it would do.
    ///
    /// # Errors
    /// If a required vault cannot be used, somebody works in one, something is missing in it, or the run was cancelled.
    pub fn prune(
        &mut self,
        order: &PruneOrder,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<PruneReport> {
        if !order.dry_run {
            self.catch_up(order.only.as_deref(), passphrase)?;
        }
        let done = self.prune_now(order, passphrase, observer);
        self.with_said(done, |report, said| drop(report.warnings.splice(..0, said)))
    }

    fn prune_now(
        &mut self,
        order: &PruneOrder,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<PruneReport> {
        let chosen = self.chosen(order.only.as_deref())?;
        let work = |service: &mut Self, id: i64| {
            let (mut report, mut first) = (PruneReport::default(), None);
            if !order.dry_run {
                // Before copies of it are stored.
                service.catalogue.tidy((service.around.clock)())?;
            }
            let mut left_out = Vec::new();
            for settings in chosen {
                let (required, name) = (settings.required, settings.name.clone());
                match service.prune_vault(settings, id, order, passphrase, observer, &mut report) {
                    Ok(pruned) => report.vaults.push(pruned),
                    Err(error) if is_away(&error) && !required => {
                        report.warnings.push(format!("vault `{name}` was left out: {error}"));
                        first.get_or_insert(error);
                        left_out.push(name);
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(error) = first.filter(|_| report.vaults.is_empty()) {
                return Err(error);
            }
            if order.accept_losses && !order.dry_run && !service.catalogue.losses()?.is_empty() {
                let all = &service.settings.vaults;
                match all.iter().all(|vault| order.only.as_ref().is_none_or(|only| *only == vault.name)) {
                    // What was said of the files holds for a vault that is away now, too, as soon as it is back.
                    true => {
                        service.catalogue.accept_losses()?;
                        report.warnings.extend(left_out.iter().map(|name| {
                            format!(
                                "what was lost is accepted for the vault `{name}` as well: its backups from before go by the rules with \
                                 the next `bt prune` that finds it there"
                            )
                        }));
                    }
                    false => report.warnings.push(
                        "with --vault, --accept-losses holds for that vault and for this run; without it, for all vaults from now on".into(),
                    ),
                }
            }
            Ok(report)
        };
        if order.dry_run {
            return work(self, 0);
        }
        self.operation("prune", order.only.as_deref().unwrap_or_default(), work, PruneReport::tell)
    }

    fn prune_vault(
        &mut self,
        settings: VaultSettings,
        id: i64,
        order: &PruneOrder,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
        report: &mut PruneReport,
    ) -> Result<VaultPruned> {
        let repo = self.open_current(&settings, passphrase)?;
        let alone: Option<Held> = match order.dry_run {
            true => None,
            false => Some(repo.lock_alone(&self.around.who, &self.around.clock)?),
        };
        let now = (self.around.clock)();
        let snapshots = repo.snapshots()?;
        let own = &self.settings.vault;
        let keep = order.keep.as_ref().or(own.keep.0.as_ref());
        let losses = if order.accept_losses { Vec::new() } else { self.catalogue.losses()? };
        let keep_min = own.keep_min.0.as_ref();
        let verdicts = forget::judge(&snapshots, &self.host_id, now, keep, keep_min, &losses);
        let forget: HashSet<Id> =
            verdicts.iter().filter(|verdict| !verdict.stays).map(|verdict| verdict.snapshot).collect();
        let also_needed = self.needed_by_versions(&settings, &repo, &snapshots, &forget)?;
        let grace = if order.at_once { Duration::ZERO } else { GRACE };
        let what = engine::PruneOrder {
            forget: &forget,
            also_needed: &also_needed,
            when: When { now, grace },
            alone: alone.as_ref(),
        };
        let summary = engine::prune(&repo, &what, observer)?;
        let mut versions_gone = 0;
        if !order.dry_run {
            versions_gone = self
                .catalogue
                .forget_what_is_gone(&settings.name, |blob| repo.find(BlobKind::Data, &blob).is_some())?;
            let copied = self.upload(&repo, &settings, id, OldCopies::Go)?;
            report.incomplete |= !copied.failed.is_empty();
            report.is_full |= copied.is_full();
            report.warnings.extend(copied.said());
        }
        if let Some(why) = &summary.no_room {
            let message = format!("what nobody needs beside what is needed in the same pack stays: {why}");
            return Err(ModuleError::new(ErrorKind::DiskSpace, message).hint(
                "what else nobody needs is gone, or is marked and goes once its time has come; `bt prune --at-once` does not wait for that",
            ));
        }
        Ok(VaultPruned { name: settings.name, verdicts, summary, versions_gone })
    }

    /// Returns the chunks of versions that stay though no snapshot has them: those that were replaced before the backup that
    /// stored them ended. They go with its snapshot.
    ///
    /// # Errors
    /// If a catalogue or the copy of one cannot be read: what only that knows of would go.
    fn needed_by_versions(
        &self,
        settings: &VaultSettings,
        repo: &Repository,
        snapshots: &[(Id, Snapshot)],
        forget: &HashSet<Id>,
    ) -> Result<HashSet<Id>> {
        let mut needed = HashSet::new();
        let vault_id = self.check_vault(settings)?;
        // A list may lack something by mistake, and what only that knows of would go.
        let mut hosts = copies::hosts(repo.store())?;
        hosts.extend(copies::hosts(repo.store())?);
        hosts.insert(self.host_id.clone());
        for host in hosts {
            let is_own = host == self.host_id;
            let chunks = |catalogue: &Catalogue, vault: &str| {
                let backups = Backups::of(catalogue, &host, snapshots, |id| !forget.contains(id))?;
                catalogue.chunks_of_versions(vault, |made| backups.keep(made))
            };
            let collected = match is_own {
                true => chunks(&self.catalogue, &settings.name),
                false => self.copy_of(repo, &host).and_then(|(_dir, copy)| {
                    chunks(&copy, &copy.vault_called(&vault_id)?.unwrap_or_default())
                }),
            };
            needed.extend(collected.map_err(|error| match is_own {
                true => error,
                false => unknown(&settings.name, &host, error),
            })?);
        }
        Ok(needed)
    }

    /// Opens the newest copy of a machine's catalogue in a vault, in a directory that goes with the guard.
    pub(super) fn copy_of(&self, repo: &Repository, host: &str) -> Result<(tempfile::TempDir, Catalogue)> {
        let base = self.around.places.base();
        // Of two lists, the one that lacks less.
        let newest = || Ok::<_, ModuleError>(copies::versions(repo.store(), host)?.pop().unwrap_or_default());
        let newest = newest()?.max(newest()?);
        let dir = tempfile::tempdir_in(&base).map_err(|error| at("make a directory in", &base, &error))?;
        let path = dir.path().join("copy.db");
        copies::fetch(repo, host, newest, &path)?;
        let copy = Catalogue::open(&path)?;
        Ok((dir, copy))
    }
}

/// Says that nobody knows what a machine needs in a vault, and that nothing was removed.
fn unknown(vault: &str, host: &str, error: ModuleError) -> ModuleError {
    let message = format!(
        "what the machine {host} stored in the vault `{vault}` between its snapshots is not known, so nothing is removed: {}",
        error.message
    );
    ModuleError { message, ..error }.hint(format!(
        "`bt prune` on that machine stores a new copy of its catalogue, and a newer pc-switcher here reads what a newer one wrote; if the \
         machine is gone for good, remove its copies `pc-switcher/hosts/{host}/db.*` and `pc-switcher/hosts/{host}/base.*` from the \
         vault"
    ))
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_default()
}

/// The backups of a machine, by which is told what of theirs stays.
pub(super) struct Backups {
    /// When they began, and whether they ended well.
    runs: Vec<(Timestamp, bool)>,
    /// When their snapshots in a vault were taken, and whether they stay.
    snapshots: Vec<(Timestamp, bool)>,
}

impl Backups {
    pub(super) fn of(
        catalogue: &Catalogue,
        host: &str,
        snapshots: &[(Id, Snapshot)],
        stays: impl Fn(&Id) -> bool,
    ) -> Result<Self> {
        let own = snapshots.iter().filter(|(_, snapshot)| forget::is_of(snapshot, host));
        let snapshots = own.map(|(id, snapshot)| (time(&snapshot.time), stays(id))).collect();
        let runs = catalogue.runs("backup")?.iter().map(|(at, good)| (time(at), *good)).collect();
        Ok(Self { runs, snapshots })
    }

    /// Whether what was stored at a moment stays.
    fn keep(&self, stored: &str) -> bool {
        is_kept(time(stored), &self.runs, &self.snapshots)
    }

    /// Whether what was stored at a moment should be there, whoever pruned: no rule takes what came after the newest snapshot.
    pub(super) fn vouch_for(&self, stored: &str) -> bool {
        self.snapshots.iter().all(|(taken, _)| *taken < time(stored)) || self.keep(stored)
    }
}

/// Whether what was stored at a moment stays: if the snapshot stays of the backup that stored it, or of the next one if that
/// backup did not come to its end; before there is one it stays. `runs` are when backups began and whether they ended well,
/// `snapshots` when they were taken and whether they stay, both the oldest first.
fn is_kept(stored: Timestamp, runs: &[(Timestamp, bool)], snapshots: &[(Timestamp, bool)]) -> bool {
    let run_of = |at: Timestamp| runs.iter().rposition(|(began, _)| *began <= at);
    let run = run_of(stored);
    let ended_well = run.is_some_and(|run| runs[run].1);
    match snapshots.iter().find(|(taken, _)| *taken >= stored) {
        Some((taken, stays)) => *stays && (!ended_well || run_of(*taken) == run),
        None => !ended_well,
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::{prune, with_three_backups};
    use super::*;
    use crate::store::{Kind, Store};

    #[test]
    fn without_a_snapshot_nothing_is_taken_for_what_nobody_needs() {
        let mut world = with_three_backups();
        world.hour += 1;
        let snapshots: Vec<_> = world.store.list(Kind::Snapshot).unwrap();
        for (name, _) in &snapshots {
            world.store.delete(Kind::Snapshot, name).unwrap();
        }
        let there = || [Kind::Index, Kind::Pack, Kind::Meta].map(|kind| world.store.list(kind).unwrap());
        let before = there();
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        let error = prune(&mut service).unwrap_err();
        assert!(format!("{error:?}").contains("mounted") && there() == before, "{error:?}");
    }

    #[test]
    fn nothing_goes_while_nobody_knows_what_another_machine_needs() {
        let mut world = with_three_backups();
        world.hour += 1;
        let there = || -> Vec<_> {
            let kinds = [Kind::Snapshot, Kind::Index, Kind::Pack, Kind::Meta];
            kinds.into_iter().flat_map(|kind| world.store.list(kind).unwrap()).collect()
        };
        world.store.put(Kind::Meta, "machine-of-bob/db.7", b"torn").unwrap();
        let before = there();
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        let error = prune(&mut service).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("machine-of-bob/db.7") && text.contains("nothing is removed"), "{text}");
        assert!(text.contains("machine-of-bob/db.*`") && text.contains("machine-of-bob/base.*`"), "{text}");
        assert_eq!(there(), before);
        world.store.delete(Kind::Meta, "machine-of-bob/db.7").unwrap();
        prune(&mut service).unwrap();
        assert_ne!(there(), before);
    }

    #[test]
    fn what_no_version_has_any_more_is_known_until_the_next_prune() {
        let mut world = with_three_backups();
        world.hour += 1;
        let docs = world.home.path().canonicalize().unwrap().join("docs");
        let content = Id::of(&std::fs::read(docs.join("0")).unwrap());
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        service.forget_directory(&docs).unwrap();
        assert_eq!(service.catalogue.locations(content).unwrap(), ["local"]);
        let dry = PruneOrder { dry_run: true, ..PruneOrder::default() };
        service.prune(&dry, &mut |_| Ok(b"x".into()), &engine::Quiet::default()).unwrap();
        assert_eq!(service.catalogue.locations(content).unwrap(), ["local"]);
        prune(&mut service).unwrap();
        assert!(service.catalogue.locations(content).unwrap().is_empty());
    }

    #[test]
    fn what_a_backup_stored_stays_as_long_as_its_snapshot() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let runs = [(at(0), true), (at(10), false), (at(20), true), (at(30), true)];
        let snapshots = |stays: [bool; 3]| [(at(5), stays[0]), (at(25), stays[1]), (at(35), stays[2])];
        assert!(is_kept(at(2), &runs, &snapshots([true, false, true])));
        assert!(!is_kept(at(2), &runs, &snapshots([false, true, true])));
        assert!(!is_kept(at(2), &runs, &snapshots([true, true, true])[1..]), "its snapshot is gone already");
        assert!(is_kept(at(12), &runs, &snapshots([false, true, true])), "a run that was cut off");
        assert!(!is_kept(at(12), &runs, &snapshots([true, false, true])));
        assert!(is_kept(at(12), &runs, &snapshots([false; 3])[..1]), "no backup came after it");
        assert!(!is_kept(at(32), &runs, &snapshots([true; 3])[..2]));
    }
}
