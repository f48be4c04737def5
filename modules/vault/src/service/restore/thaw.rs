//! What lies in cold storage is fetched for a restore, which goes on without it.
//!
//! Nobody is asked where something lies before a pack cannot be read for that. Then all packs are asked for that the restore needs, at
//! once: it takes the provider hours, however many they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::Serialize;

use super::place::{Target, place_of};
use super::{RestoreReport, Service};
use crate::catalogue::{CurrentFile, Directory};
use crate::engine::{Cold, Observer, workers};
use crate::error::Result;
use crate::format::Id;
use crate::repo::Repository;
use crate::service::holders::Opened;
use crate::store::{Fetching, Kind, Store, Thaw};

/// What can be restored once it was fetched from the cold storage of a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The vault.
    pub vault: String,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories of which nobody knows yet what is in them.
    pub directories: u64,
    /// Packs that are being fetched.
    pub packs: u64,
    /// How many of these were asked for now.
    pub asked: u64,
    /// Packs that are not being fetched.
    pub refused: u64,
    /// Why not, and what to do.
    pub why: Option<String>,
    /// So many seconds at most after they were asked for, if that was so, they are there.
    pub seconds: u64,
    /// How they are fetched.
    #[serde(flatten)]
    pub order: Thaw,
}

impl Waiting {
    /// Says in one line what waits.
    pub fn words(&self) -> String {
        let Self { vault, files, packs, refused, .. } = self;
        format!("{files} files wait for {} packs in cold storage of `{vault}`", packs + refused)
    }
}

/// What became of packs that were to be fetched.
#[derive(Debug, Default)]
pub(in crate::service) struct Thawed {
    packs: BTreeMap<Id, Fetching>,
    refused: BTreeSet<Id>,
    why: Option<ModuleError>,
}

impl Thawed {
    /// Has these packs fetched, but for those that were dealt with before.
    fn fetch(
        &mut self,
        store: &dyn Store,
        packs: &BTreeSet<Id>,
        order: Thaw,
        observer: &dyn Observer,
    ) -> Result<()> {
        let is_new = |pack: &&Id| !self.packs.contains_key(*pack) && !self.refused.contains(*pack);
        let new: Vec<Id> = packs.iter().filter(is_new).copied().collect();
        let (next, known) = (AtomicUsize::new(0), Mutex::new(self));
        std::thread::scope(|scope| {
            for _ in 0..workers().min(new.len()) {
                scope.spawn(|| {
                    while let Some(pack) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
                        // What is refused of one would be refused of all.
                        let ends = |why: &ModuleError| {
                            matches!(why.kind, ErrorKind::Invalid | ErrorKind::Unreachable)
                        };
                        if observer.is_cancelled() || known().why.as_ref().is_some_and(ends) {
                            return;
                        }
                        match store.thaw(Kind::Pack, &pack.hex(), order) {
                            Ok(fetching) => drop(known().packs.insert(*pack, fetching)),
                            Err(error) => {
                                let mut known = known();
                                known.refused.insert(*pack);
                                // The gravest says most.
                                if known.why.as_ref().is_none_or(|why| !ends(why)) {
                                    known.why = Some(error);
                                }
                            }
                        }
                    }
                });
            }
        });
        if observer.is_cancelled() { Err(ModuleError::cancelled()) } else { Ok(()) }
    }

    fn waiting(&self, vault: String, cold: Cold, order: Thaw) -> Waiting {
        let Cold { files, bytes, directories, packs } = cold;
        let of_these: Vec<Option<Fetching>> =
            packs.iter().map(|pack| self.packs.get(pack).copied()).collect();
        let count = |is: fn(&Option<Fetching>) -> bool| of_these.iter().filter(|one| is(one)).count() as u64;
        let asked = count(|one| matches!(one, Some(Fetching::Asked(_))));
        let under_way = count(|one| matches!(one, Some(Fetching::UnderWay(_))));
        let wait = |one: &Option<Fetching>| match one {
            Some(Fetching::Asked(depth) | Fetching::UnderWay(depth)) => depth.wait(order.tier),
            _ => Duration::ZERO,
        };
        let why = self.why.as_ref().map(|why| match why.hints.first() {
            Some(hint) => format!("{why}; {hint}"),
            None => why.to_string(),
        });
        Waiting {
            vault,
            files,
            bytes,
            directories,
            packs: asked + under_way,
            asked,
            refused: count(Option::is_none),
            why,
            seconds: of_these.iter().map(wait).max().unwrap_or_default().as_secs(),
            order,
        }
    }
}

/// Has fetched what a restore needs of one repository and cannot be read; `None` if all could be read.
pub(in crate::service) fn fetched_of(
    vault: &str,
    repo: &Repository,
    mut cold: Cold,
    order: Thaw,
    observer: &dyn Observer,
) -> Result<Option<Waiting>> {
    if cold.files == 0 && cold.directories == 0 {
        return Ok(None);
    }
    if cold.directories > 0 {
        // What is further down is named by what cannot be read: each step down would take hours.
        cold.packs.extend(repo.packs_of_trees());
    }
    let mut thawed = Thawed::default();
    thawed.fetch(repo.store(), &cold.packs, order, observer)?;
    Ok(Some(thawed.waiting(vault.to_owned(), cold, order)))
}

impl Service {
    /// Returns the vault that could not give a file since it lies in cold storage, and all packs in which it lies there.
    pub(in crate::service) fn cold_of(
        &self,
        open: &Opened,
        file: &CurrentFile,
    ) -> Option<(usize, BTreeSet<Id>)> {
        let content = file.version.content_id;
        let failed = open.failed.get(&content)?;
        open.with_cold()
            .into_iter()
            .filter(|(_, name, _)| failed.iter().any(|(other, _)| other == name))
            .find_map(|(number, name, repo)| {
                let chunks = self.catalogue.chunks(&name, content).ok()??;
                let packs = repo.packs_of(chunks.iter().map(|chunk| &chunk.blob_id));
                repo.is_cold(&packs).then_some((number, packs))
            })
    }

    /// Counts a file that is not restored: it waits until it was fetched, or there is another reason.
    pub(in crate::service) fn misses(
        &self,
        open: &mut Opened,
        directory: &Directory,
        file: &CurrentFile,
        why: String,
        report: &mut RestoreReport,
    ) {
        match self.cold_of(open, file) {
            Some((vault, packs)) => open.waits(vault, packs, file),
            None => open.misses(directory, file, why, report),
        }
    }

    /// Has fetched what is still to be restored and lies in one vault alone, once something turned out to lie in its cold storage: the
    /// provider works while the rest is restored.
    pub(super) fn thaw_ahead(
        &mut self,
        target: &Target<'_>,
        wanted: &[CurrentFile],
        open: &mut Opened,
        observer: &dyn Observer,
    ) -> Result<()> {
        let mut met = open.with_cold();
        met.retain(|(number, ..)| !open.thawed.contains_key(number));
        // What is there may be as it should be.
        if met.is_empty() || target.order.in_place {
            return Ok(());
        }
        let mut packs: BTreeMap<usize, BTreeSet<Id>> = BTreeMap::new();
        for file in wanted.iter().filter(|file| file.version.facts.is_file()) {
            if fs::symlink_metadata(place_of(target.directory, file, target.order)).is_ok() {
                continue;
            }
            let content = file.version.content_id;
            let mut holders = self.catalogue.locations(content)?;
            holders.retain(|name| self.settings.vaults.iter().any(|vault| vault.name == *name));
            let [only] = holders.as_slice() else { continue };
            let Some((number, name, repo)) = met.iter().find(|(_, name, _)| name == only) else { continue };
            if let Some(chunks) = self.catalogue.chunks(name, content)? {
                let needed = repo.packs_of(chunks.iter().map(|chunk| &chunk.blob_id));
                packs.entry(*number).or_default().extend(needed);
            }
        }
        for (number, _, repo) in met {
            let needed = packs.remove(&number).unwrap_or_default();
            open.thawed.entry(number).or_default().fetch(
                repo.store(),
                &needed,
                target.order.thaw,
                observer,
            )?;
        }
        Ok(())
    }

    /// Has fetched what could not be restored for that, and says what waits.
    pub(super) fn have_fetched(
        &mut self,
        open: &mut Opened,
        order: Thaw,
        observer: &dyn Observer,
    ) -> Result<Vec<Waiting>> {
        let mut all = Vec::new();
        for (number, name, repo) in open.with_cold() {
            let Some(cold) = open.cold.remove(&number) else { continue };
            let thawed = open.thawed.entry(number).or_default();
            thawed.fetch(repo.store(), &cold.packs, order, observer)?;
            all.push(thawed.waiting(name, cold, order));
        }
        Ok(all)
    }
}
