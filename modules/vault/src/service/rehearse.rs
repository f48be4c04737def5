//! A rehearsal: files that are picked at random are restored and compared. Nothing but a temporary directory is written.

use std::collections::BinaryHeap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::backup::PAGE;
use super::stage::{checksum, facts_of};
use super::target::is_away;
use super::vaults::Passphrase;
use super::{Service, VaultSettings};
use crate::catalogue::{Chunk, CurrentFile, Directory};
use crate::engine::{Observer, Progress, Restorer, Swept, Trouble, Way};
use crate::error::{Result, at};
use crate::format::Id;
use crate::repo::Repository;

/// What is to be rehearsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RehearseOrder {
    /// Only from the vault of this name.
    pub only: Option<String>,
    /// What picks the files: the same number picks the same ones again, as long as these are the files that there are.
    pub seed: u64,
    /// How much is restored from each vault, at most.
    pub most_bytes: u64,
    /// How many files are restored from each vault, at most.
    pub most_files: usize,
    /// Only versions that were made then or later.
    pub since: Option<Timestamp>,
}

/// What was restored from a vault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rehearsed {
    /// Its name.
    pub name: String,
    /// Files that could have been picked.
    pub candidates: u64,
    /// Files that are larger than all that may be restored, so nobody will ever pick them.
    pub too_large: u64,
    /// Files that were restored and are what was backed up.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that did not change since and are the same on the disk.
    pub same_as_live: u64,
    /// Picked files that this vault does not hold.
    pub lacking: u64,
}

/// What a rehearsal found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RehearseReport {
    /// Vault by vault.
    pub vaults: Vec<Rehearsed>,
    /// Files that did not come back as they should.
    pub troubles: Vec<Trouble>,
    /// Vaults that were left out, or could not be locked.
    pub warnings: Vec<String>,
    /// Whether one of them is there and cannot be used.
    pub incomplete: bool,
    /// Whether that is so for want of room.
    pub is_full: bool,
}

impl RehearseReport {
    /// Whether everything went as it should.
    pub fn is_clean(&self) -> bool {
        self.troubles.is_empty() && !self.incomplete
    }

    fn tell(&self) -> (bool, String) {
        let files: u64 = self.vaults.iter().map(|vault| vault.files).sum();
        (self.is_clean(), format!("{files} files came back, {} did not", self.troubles.len()))
    }
}

/// Files of which as many as wanted were picked, and what is known of the rest.
#[derive(Default)]
struct Sample {
    picked: Vec<(usize, CurrentFile)>,
    candidates: u64,
    too_large: u64,
}

/// A file with the number that it was dealt; those with the lowest are picked.
struct Dealt(u64, usize, CurrentFile);

impl PartialEq for Dealt {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Dealt {}

impl PartialOrd for Dealt {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Dealt {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl Service {
    /// Restores files that are picked at random into a temporary directory, and compares them with the catalogue and, where these
    /// did not change since, with the files themselves.
    ///
    /// # Errors
    /// If a required vault cannot be used, the temporary directory not be written, or the run was cancelled; files that do
    /// not come back are troubles.
    pub fn rehearse(
        &mut self,
        order: &RehearseOrder,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<RehearseReport> {
        let chosen = self.chosen(order.only.as_deref())?;
        let text = format!("seed {}", order.seed);
        let work = |service: &mut Self, _| {
            let base = service.around.places.base();
            let scratch = tempfile::Builder::new().prefix("rehearsal-").tempdir_in(&base);
            let scratch = scratch.map_err(|error| at("make a directory in", &base, &error))?;
            let (mut report, mut first) = (RehearseReport::default(), None);
            for settings in chosen {
                let (required, name) = (settings.required, settings.name.clone());
                match service.open_vault(&settings, passphrase) {
                    Ok(repo) => service.rehearse_vault(
                        &settings,
                        &repo,
                        order,
                        scratch.path(),
                        &mut report,
                        observer,
                    )?,
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
                Some(error) if report.vaults.is_empty() => Err(error),
                _ => Ok(report),
            }
        };
        self.operation("rehearse", &text, work, RehearseReport::tell)
    }

    fn rehearse_vault(
        &self,
        settings: &VaultSettings,
        repo: &Repository,
        order: &RehearseOrder,
        scratch: &Path,
        report: &mut RehearseReport,
        observer: &dyn Observer,
    ) -> Result<()> {
        // Nobody may remove meanwhile what is about to be read.
        let lock = repo.lock_to_read(&self.around.who, &self.around.clock)?;
        report.warnings.extend(lock.warning(&settings.name));
        let directories = self.catalogue.directories()?;
        let Sample { picked, candidates, too_large } = self.sample(&directories, order)?;
        let total_bytes = picked.iter().map(|(_, file)| file.version.facts.size).sum();
        let mut done =
            Rehearsed { name: settings.name.clone(), candidates, too_large, ..Rehearsed::default() };
        for (at, file) in picked {
            if observer.is_cancelled() {
                return Err(ModuleError::cancelled());
            }
            let path = directories[at].path.join(&file.name);
            let Some(chunks) = self.catalogue.chunks_of(&settings.name, file.version.content)? else {
                done.lacking += 1;
                continue;
            };
            match self.rehearse_one(repo, &path, &file, &chunks, scratch, observer) {
                Ok(is_live) => {
                    done.files += 1;
                    done.bytes += file.version.facts.size;
                    done.same_as_live += u64::from(is_live);
                }
                // Where there is no room for one there may be for none, and none of them is to blame.
                Err(error) if matches!(error.kind, ErrorKind::Cancelled | ErrorKind::DiskSpace) => {
                    return Err(error);
                }
                Err(error) => {
                    let why = format!("from the vault `{}`: {error}", settings.name);
                    report.troubles.push(Trouble { path: path.clone(), why });
                }
            }
            observer.progress(Progress { files: done.files, bytes: done.bytes, total_bytes, item: path });
        }
        report.vaults.push(done);
        Ok(())
    }

    /// Picks files by the numbers that they are dealt.
    fn sample(&self, directories: &[Directory], order: &RehearseOrder) -> Result<Sample> {
        let mut sample = Sample::default();
        let mut dealt: BinaryHeap<Dealt> = BinaryHeap::new();
        for (at, directory) in directories.iter().enumerate() {
            let mut after: Option<PathBuf> = None;
            loop {
                let page = self.catalogue.current_files(directory, Path::new(""), after.as_deref(), PAGE)?;
                let Some(last) = page.last() else { break };
                after = Some(last.name.clone());
                for file in page.into_iter().filter(|file| is_candidate(file, order.since)) {
                    if file.version.facts.size > order.most_bytes {
                        sample.too_large += 1;
                        continue;
                    }
                    sample.candidates += 1;
                    let number = deal(order.seed, &directory.path.join(&file.name));
                    dealt.push(Dealt(number, at, file));
                    if dealt.len() > order.most_files {
                        dealt.pop();
                    }
                }
            }
        }
        let mut left = order.most_bytes;
        for Dealt(_, at, file) in dealt.into_sorted_vec() {
            if let Some(rest) = left.checked_sub(file.version.facts.size) {
                left = rest;
                sample.picked.push((at, file));
            }
        }
        Ok(sample)
    }

    /// Restores one file and compares it; whether the file on the disk was compared, too.
    fn rehearse_one(
        &self,
        repo: &Repository,
        path: &Path,
        file: &CurrentFile,
        chunks: &[Chunk],
        scratch: &Path,
        observer: &dyn Observer,
    ) -> Result<bool> {
        let (wanted, facts) = (file.version.content_id, &file.version.facts);
        let ids: Vec<Id> = chunks.iter().map(|chunk| chunk.blob_id).collect();
        let restorer = Restorer { repo, content_only: false, observer, swept: Swept::default() };
        let (holder, shown) = (Way::to(scratch)?, scratch.join("file"));
        let (restored, sum) = restorer.staged(&holder, &shown, &ids)?;
        let length = restored.as_file().metadata().map_err(|error| at("read", &shown, &error))?.len();
        if sum != wanted || length != facts.size {
            return Err(ModuleError::failed(format!(
                "what comes back is not what was backed up: checksum {sum}, {length} bytes instead of {wanted}, {} bytes",
                facts.size
            )));
        }
        drop(restored);
        let real = self.view.real(path);
        let Ok(listed) = fs::symlink_metadata(&real) else { return Ok(false) };
        let is_same = listed.is_file() && facts_of(&real, &listed).is_ok_and(|now| facts.same_version(&now));
        if !is_same {
            return Ok(false);
        }
        match checksum(&real, &listed, observer) {
            Ok(Some(sum)) if sum == wanted => Ok(true),
            Ok(Some(_)) => Err(ModuleError::failed(
                "the file on the disk differs from what was backed up, though neither its size nor its times changed",
            )),
            // It is being written, or may not be read: then there is nothing to compare with.
            Ok(None) | Err(_) => Ok(false),
        }
    }
}

fn is_candidate(file: &CurrentFile, since: Option<Timestamp>) -> bool {
    let is_young = |since: Timestamp| {
        file.version.created_at.parse::<Timestamp>().is_ok_and(|created_at| created_at >= since)
    };
    !file.deleted && file.version.facts.is_file() && since.is_none_or(is_young)
}

/// Deals a file its number.
fn deal(seed: u64, path: &Path) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(path.as_os_str().as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    u64::from_le_bytes(digest[..8].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::world::with_three_backups;
    use super::*;
    use crate::catalogue::{Arrived, StagedItem};
    use crate::engine::Quiet;
    use crate::store::{Kind, Store};

    fn order(seed: u64) -> RehearseOrder {
        RehearseOrder { only: None, seed, most_bytes: 40_000, most_files: 100, since: None }
    }

    fn rehearse(service: &mut Service, order: &RehearseOrder) -> RehearseReport {
        service.rehearse(order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
    }

    #[test]
    fn a_sample_comes_back_within_its_bounds_and_leaves_nothing() {
        let world = with_three_backups();
        world.now(|service| {
            let report = rehearse(service, &order(7));
            let done = &report.vaults[0];
            assert_eq!((done.candidates, done.files, done.bytes), (12, 5, 40_000));
            assert_eq!((done.same_as_live, done.too_large), (5, 0));
            let few = rehearse(service, &RehearseOrder { most_files: 2, ..order(7) });
            assert_eq!(few.vaults[0].files, 2);
            let small = rehearse(service, &RehearseOrder { most_bytes: 7_999, ..order(7) });
            assert_eq!((small.vaults[0].files, small.vaults[0].too_large), (0, 12));
            Ok(())
        });
        let left = world.state.path().join("vault").read_dir().unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().starts_with("rehearsal")), "{names:?}");
    }

    #[test]
    fn one_seed_picks_the_same_files_and_others_pick_others() {
        let world = with_three_backups();
        world.now(|service| {
            let directories = service.catalogue.directories()?;
            let names = |seed| {
                let sample = service.sample(&directories, &order(seed)).unwrap();
                sample.picked.into_iter().map(|(_, file)| file.name).collect::<Vec<_>>()
            };
            assert_eq!(names(1), names(1));
            assert!((2..20).any(|seed| names(seed) != names(1)));
            Ok(())
        });
    }

    #[test]
    fn a_file_that_rotted_on_the_disk_is_named() {
        let world = with_three_backups();
        let rotten = world.home.path().join("docs/4");
        world.now(|service| {
            let directory = service.catalogue.directories()?.remove(0);
            let file = service.catalogue.current_files(&directory, Path::new("4"), None, 1)?.remove(0);
            let mut content = fs::read(&rotten).unwrap();
            content[0] ^= 1;
            fs::write(&rotten, content).unwrap();
            // A disk that forgets leaves the times alone.
            let facts = facts_of(&rotten, &fs::metadata(&rotten).unwrap()).unwrap();
            let (directory_id, name) = (directory.id, file.name);
            let item = StagedItem { seq: -1, directory_id, name, content_id: None, facts };
            let content = file.version.content_id;
            service
                .catalogue
                .record(&[Arrived { item, content, stored: Vec::new() }], (service.around.clock)())?;
            let report = rehearse(service, &RehearseOrder { most_bytes: 1 << 30, ..order(1) });
            assert_eq!((report.vaults[0].files, report.troubles.len()), (11, 1));
            assert!(
                report.troubles[0].why.contains("differs from what was backed up"),
                "{:?}",
                report.troubles
            );
            Ok(())
        });
    }

    #[test]
    fn a_damaged_pack_is_named_with_its_vault() {
        let world = with_three_backups();
        for (name, _) in world.store.list(Kind::Pack).unwrap() {
            let mut bytes = world.store.get(Kind::Pack, &name).unwrap().unwrap();
            bytes[100] ^= 1;
            world.store.delete(Kind::Pack, &name).unwrap();
            world.store.put(Kind::Pack, &name, &bytes).unwrap();
        }
        world.now(|service| {
            let report = rehearse(service, &RehearseOrder { most_bytes: 1 << 30, ..order(1) });
            assert!(!report.troubles.is_empty());
            assert!(report.troubles[0].why.starts_with("from the vault `local`: "), "{:?}", report.troubles);
            Ok(())
        });
    }
}
