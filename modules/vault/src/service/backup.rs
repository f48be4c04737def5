//! Drains the queue into the vaults: contents, then the catalogue, then one snapshot of all that is tracked.
//!
//! Batches end with packs and index on disk and one transaction, so whatever is killed is simply done again, and what
//! was stored is not stored twice. A file that fails stays in the queue and stops no other.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::unbounded;
use jiff::Timestamp;
use pc_switcher_contract::ModuleError;
use rustix::fs::{Advice, fadvise};

use super::stage::{Stage, facts_of};
use super::target::{OldCopies, Target};
use super::vaults::Passphrase;
use super::{Service, View};
use crate::catalogue::{Arrived, Catalogue, Chunk, FileFacts, StagedItem};
use crate::engine::{Observer, Progress, Sparse, Stoppable, Trouble, open, same_file, workers};
use crate::error::Result;
use crate::format::{BlobKind, Id};
use crate::repo::{FileContent, FileTrouble, Packer, Repository, Stored, Writer};

/// Items of one batch, at most. Each batch writes the pages anew that its checksums come to lie in, which are nearly all of their index.
const ITEMS: usize = if cfg!(test) { 6 } else { 20_000 };
/// Bytes of one batch; one large file may be more.
const BYTES: u64 = 2 << 30;
/// Files of so many bytes are large; those below come in the order in which they were found.
const LARGE: u64 = 32 << 20;
/// Rows that are read at once.
pub(super) const PAGE: usize = 5000;

/// What a backup did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// New versions.
    pub versions: u64,
    /// Items that were stored, new versions or not.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories of which the rights, times and the like were stored.
    pub directories: u64,
    /// Files that were found gone.
    pub deleted: u64,
    /// What each vault got.
    pub vaults: Vec<VaultReport>,
    /// Files that failed; they stay in the queue.
    pub troubles: Vec<Trouble>,
    /// What else went wrong.
    pub warnings: Vec<String>,
    /// Whether a warning means that something is missing in a vault.
    pub incomplete: bool,
    /// Whether that is so for want of room.
    pub is_full: bool,
}

/// What a vault got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultReport {
    /// Its name.
    pub name: String,
    /// What it grew by.
    pub stored: Stored,
    /// The snapshot of all that is tracked; none if nothing changed.
    pub snapshot: Option<Id>,
}

impl BackupReport {
    /// Whether everything went as it should.
    pub fn is_clean(&self) -> bool {
        self.troubles.is_empty() && !self.incomplete
    }

    fn tell(&self) -> (bool, String) {
        let text = format!(
            "{} new versions, {} deleted, {} failed",
            self.versions,
            self.deleted,
            self.troubles.len()
        );
        (self.is_clean(), text)
    }
}

/// A file that is to be stored.
struct Source {
    seq: i64,
    /// For people.
    path: PathBuf,
    /// Where it is read.
    real: PathBuf,
    /// Whether nobody else reads it there.
    is_ours: bool,
    /// The checksum of what was staged.
    expected: Option<Id>,
    /// How large it was when it was found.
    size: u64,
}

/// What one file came to in one vault.
type Outcome = std::result::Result<(FileContent, FileFacts), String>;

impl Service {
    /// Stores what is staged in every vault that is set, or in the one of this name.
    ///
    /// # Errors
    /// If a required vault cannot be used, or the run was cancelled; files that fail are troubles.
    pub fn backup(
        &mut self,
        only: Option<&str>,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<BackupReport> {
        self.catch_up(only, passphrase)?;
        let done = self.backup_now(only, passphrase, observer);
        self.with_said(done, |report, said| drop(report.warnings.splice(..0, said)))
    }

    fn backup_now(
        &mut self,
        only: Option<&str>,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<BackupReport> {
        let chosen = self.chosen(only)?;
        let work = |service: &mut Self, id| {
            let mut report = BackupReport::default();
            let mut targets = service.open_targets(chosen, passphrase, &mut report)?;
            service.catalogue.shrink();
            let last_version = service.catalogue.version_before_this_run(id)?;
            service.drain(&mut targets, &mut report, observer)?;
            service.note_deleted(&mut report)?;
            service.note_changed(last_version, &mut report)?;
            for target in &mut targets {
                service.end_with_snapshot(target, &mut report)?;
            }
            let is_new = report.items + report.directories + report.deleted > 0;
            for target in &targets {
                let got_one = is_new || target.report.snapshot.is_some();
                if !got_one && !service.is_copy_due(&target.settings, &target.repo)? {
                    continue;
                }
                let copied = service.upload(&target.repo, &target.settings, id, OldCopies::MayStay)?;
                report.incomplete |= !copied.failed.is_empty();
                report.is_full |= copied.is_full();
                report.warnings.extend(copied.said());
            }
            report.vaults = targets.into_iter().map(|target| target.report).collect();
            Ok(report)
        };
        self.operation("backup", only.unwrap_or_default(), work, BackupReport::tell)
    }

    /// Stores what the queue holds, batch by batch; while one is stored, the catalogue learns of the one before.
    fn drain(
        &mut self,
        targets: &mut [Target],
        report: &mut BackupReport,
        observer: &dyn Observer,
    ) -> Result<()> {
        let names: Vec<String> = targets.iter().map(|target| target.settings.name.clone()).collect();
        let mut before = Progress {
            files: report.items,
            bytes: report.bytes,
            total_bytes: self.catalogue.staged_count()?.1,
            item: PathBuf::new(),
        };
        let (mut after, mut stored): (i64, Option<Batch>) = (0, None);
        loop {
            let mut items = self.catalogue.staged_after(after, ITEMS)?;
            cut_batch(&mut items);
            let Some(last) = items.last().map(|item| item.seq) else { break };
            after = last;
            self.drop_gone(&mut items, report)?;
            let mut batch = self.batch(items, targets)?;
            let Self { catalogue, stage, view, around, .. } = self;
            let (stage, view) = (&*stage, &*view);
            let mut vaults: Vec<Sink<'_>> = targets.iter_mut().map(Sink::of).collect();
            let failing = Failing { observer, failed: AtomicBool::new(false) };
            let (storing, recording) = std::thread::scope(|scope| {
                let storing = scope.spawn(|| batch.store(&mut vaults, (stage, view), &before, &failing));
                let recording = match stored.take() {
                    Some(batch) => batch.record(&names, catalogue, stage, (around.clock)(), report),
                    None => Ok(()),
                };
                failing.failed.store(recording.is_err(), Ordering::Relaxed);
                (storing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), recording)
            });
            recording?;
            storing?;
            let (items, bytes) = batch.counted();
            before.files += items;
            before.bytes += bytes;
            stored = Some(batch);
        }
        match stored {
            Some(batch) => {
                batch.record(&names, &mut self.catalogue, &self.stage, (self.around.clock)(), report)
            }
            None => Ok(()),
        }
    }

    /// Looks up what there is to do for these items.
    fn batch(&mut self, items: Vec<StagedItem>, targets: &[Target]) -> Result<Batch> {
        let directories: HashMap<i64, PathBuf> = self
            .catalogue
            .directories()?
            .into_iter()
            .map(|directory| (directory.id, directory.path))
            .collect();
        let live = |item: &StagedItem| match directories.get(&item.directory_id) {
            Some(directory) => directory.join(&item.name),
            None => item.name.clone(),
        };
        let done: Vec<(Arrived, PathBuf)> = items
            .into_iter()
            .map(|item| {
                let path = live(&item);
                (Arrived { content: item.content_id.unwrap_or_default(), item, stored: Vec::new() }, path)
            })
            .collect();
        let mut held = Vec::new();
        for target in targets {
            let mut there = HashSet::new();
            for (one, _) in done.iter().filter(|(one, _)| one.item.facts.is_file()) {
                if self.holds(target, one)? {
                    there.insert(one.item.seq);
                }
            }
            held.push(there);
        }
        Ok(Batch { done, held, failed: HashMap::new() })
    }

    /// Whether a vault holds a content, by the catalogue and by its own index.
    fn holds(&mut self, target: &Target, one: &Arrived) -> Result<bool> {
        let Some(content) = one.item.content_id else { return Ok(false) };
        let Some(chunks) = self.catalogue.chunks(&target.settings.name, content)? else { return Ok(false) };
        target.repo.load_index()?;
        let complete = chunks.iter().all(|chunk| target.repo.find(BlobKind::Data, &chunk.blob_id).is_some());
        if !complete {
            self.catalogue.forget_location(&target.settings.name, content)?;
        }
        Ok(complete)
    }
}

/// Ends a run also when something beside it failed.
struct Failing<'o> {
    observer: &'o dyn Observer,
    failed: AtomicBool,
}

impl Observer for Failing<'_> {
    fn progress(&self, progress: Progress) {
        self.observer.progress(progress);
    }

    fn is_cancelled(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.observer.is_cancelled()
    }

    fn is_watched(&self) -> bool {
        self.observer.is_watched()
    }
}

/// A vault that a batch goes into.
struct Sink<'t> {
    name: &'t str,
    repo: &'t Repository,
    stored: &'t mut Stored,
}

impl<'t> Sink<'t> {
    fn of(target: &'t mut Target) -> Self {
        Self { name: &target.settings.name, repo: &target.repo, stored: &mut target.report.stored }
    }
}

/// Items of the queue that go through together.
struct Batch {
    /// Each with its path, for people.
    done: Vec<(Arrived, PathBuf)>,
    /// What each vault holds already.
    held: Vec<HashSet<i64>>,
    /// Why some do not go on.
    failed: HashMap<i64, String>,
}

impl Batch {
    fn store(
        &mut self,
        vaults: &mut [Sink<'_>],
        (stage, view): (&Stage, &View),
        before: &Progress,
        observer: &dyn Observer,
    ) -> Result<()> {
        for (vault, held) in vaults.iter_mut().zip(&self.held) {
            let (mut sources, mut asked) = (Vec::new(), HashSet::new());
            for (one, path) in &self.done {
                let (seq, expected) = (one.item.seq, one.item.content_id);
                if !one.item.facts.is_file() || self.failed.contains_key(&seq) || held.contains(&seq) {
                    continue;
                }
                // Several items of one content are stored once.
                if expected.is_some_and(|content| !asked.insert(content)) {
                    continue;
                }
                let real = match expected {
                    Some(content) => stage.path(content),
                    None => view.real(path).into_owned(),
                };
                let is_ours = expected.is_none() && real != *path;
                let size = one.item.facts.size;
                sources.push(Source { seq, path: path.clone(), real, is_ours, expected, size });
            }
            // The large ones first, so that in the end no thread is left alone with one.
            sources.sort_by_key(|source| Reverse(source.size / LARGE));
            let (outcomes, stored) = store_files(vault.repo, sources, before, observer)?;
            vault.stored.blobs += stored.blobs;
            vault.stored.bytes += stored.bytes;
            take_outcomes(vault.name, &outcomes, &mut self.done, &mut self.failed);
        }
        Ok(())
    }

    /// Returns how many items go on that are no directories, and the bytes of all.
    fn counted(&self) -> (u64, u64) {
        let well =
            self.done.iter().map(|(one, _)| &one.item).filter(|item| !self.failed.contains_key(&item.seq));
        well.fold((0, 0), |(items, bytes), StagedItem { facts, .. }| {
            (items + u64::from(!facts.is_dir()), bytes + facts.size)
        })
    }

    /// Tells the catalogue of what these vaults got.
    fn record(
        mut self,
        names: &[String],
        catalogue: &mut Catalogue,
        stage: &Stage,
        now: Timestamp,
        report: &mut BackupReport,
    ) -> Result<()> {
        // What is no file has no content, and so every vault holds it.
        for (one, _) in self.done.iter_mut().filter(|(one, _)| !one.item.facts.is_file()) {
            one.content = Id::of(b"");
            one.stored = names.iter().map(|name| (name.clone(), Vec::new())).collect();
        }
        let (items, bytes) = self.counted();
        let mut arrived = Vec::new();
        for (one, path) in self.done {
            match self.failed.remove(&one.item.seq) {
                Some(why) => report.troubles.push(Trouble { path, why }),
                None => arrived.push(one),
            }
        }
        report.versions += catalogue.record(&arrived, now)?;
        report.directories += arrived.len() as u64 - items;
        report.items += items;
        report.bytes += bytes;
        stage.keep_only(&catalogue.staged_contents()?)
    }
}

/// Keeps the first items, up to the bytes of a batch.
fn cut_batch(items: &mut Vec<StagedItem>) {
    let mut bytes = 0_u64;
    let fitting = items.iter().take_while(|item| {
        let fits = bytes < BYTES;
        bytes += item.facts.size;
        fits
    });
    let count = fitting.count();
    items.truncate(count);
}

fn take_outcomes(
    vault: &str,
    outcomes: &HashMap<i64, Outcome>,
    done: &mut [(Arrived, PathBuf)],
    failed: &mut HashMap<i64, String>,
) {
    // What failed for the first item of a content failed for all of them.
    let by_content: HashMap<Id, &Outcome> = done
        .iter()
        .filter(|(one, _)| one.item.facts.is_file())
        .filter_map(|(one, _)| Some((one.item.content_id?, outcomes.get(&one.item.seq)?)))
        .collect();
    for (one, _) in done.iter_mut().filter(|(one, _)| one.item.facts.is_file()) {
        let staged = one.item.content_id;
        let outcome = staged
            .and_then(|content| by_content.get(&content).copied())
            .or_else(|| outcomes.get(&one.item.seq));
        match outcome {
            None => {}
            Some(Err(why)) => {
                failed.insert(one.item.seq, why.clone());
            }
            Some(Ok((content, facts))) => {
                let chunks =
                    content.chunks.iter().map(|(blob_id, size)| Chunk { blob_id: *blob_id, size: *size });
                if staged.is_none() {
                    if !one.stored.is_empty() && one.content != content.sha256 {
                        failed.insert(one.item.seq, "changed while it was read".into());
                    }
                    one.content = content.sha256;
                    one.item.facts = facts.clone();
                }
                one.stored.push((vault.to_owned(), chunks.collect()));
            }
        }
    }
}

/// Stores files on several threads; returns once packs and index are written.
fn store_files(
    repo: &Repository,
    sources: Vec<Source>,
    before: &Progress,
    observer: &dyn Observer,
) -> Result<(HashMap<i64, Outcome>, Stored)> {
    let writer = Writer::new(repo)?;
    let (send, jobs) = unbounded();
    for source in sources {
        send.send(source).ok();
    }
    drop(send);
    let (outcomes, fatal) = (Mutex::new(HashMap::new()), Mutex::new(None));
    let (files, bytes) = (AtomicU64::new(before.files), AtomicU64::new(before.bytes));
    let saved = writer.saving_beside(|| {
        std::thread::scope(|scope| {
            for _ in 0..workers() {
                let (jobs, writer, outcomes, fatal) = (jobs.clone(), &writer, &outcomes, &fatal);
                let (files, bytes) = (&files, &bytes);
                scope.spawn(move || {
                    let stopped = || {
                        fatal.lock().unwrap_or_else(PoisonError::into_inner).is_some()
                            || observer.is_cancelled()
                    };
                    let work = || -> Result<()> {
                        let mut packer = writer.packer(BlobKind::Data)?;
                        for Source { seq, path, real, is_ours, expected, .. } in jobs {
                            if stopped() {
                                break;
                            }
                            let outcome = store_file(&mut packer, (&real, is_ours), expected, observer)?;
                            let size = outcome.as_ref().map_or(0, |(content, _)| content.size);
                            outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(seq, outcome);
                            observer.progress(Progress {
                                files: files.fetch_add(1, Ordering::Relaxed) + 1,
                                bytes: bytes.fetch_add(size, Ordering::Relaxed) + size,
                                total_bytes: before.total_bytes,
                                item: path,
                            });
                        }
                        packer.flush()
                    };
                    if let Err(error) = work() {
                        fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                });
            }
        });
        Ok(())
    });
    if let Err(error) = saved {
        fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
    // Also after a cancel: the next backup does not store again what the index knows.
    let stored = writer.index();
    if observer.is_cancelled() {
        return Err(ModuleError::cancelled());
    }
    match fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok((outcomes.into_inner().unwrap_or_else(PoisonError::into_inner), stored?)),
    }
}

fn store_file(
    packer: &mut Packer<'_, '_>,
    (path, is_ours): (&Path, bool),
    expected: Option<Id>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let read = |packer: &mut Packer<'_, '_>| -> std::result::Result<Outcome, FileTrouble> {
        let listed = fs::symlink_metadata(path).map_err(FileTrouble::Read)?;
        let facts = facts_of(path, &listed).map_err(FileTrouble::Read)?;
        let file: File = open(path, &listed).map_err(FileTrouble::Read)?;
        let content = packer.add_file(Stoppable { reader: Sparse::new(&file), observer })?;
        let after = file.metadata().map_err(FileTrouble::Read)?;
        if is_ours {
            // Pages of a snapshot take memory from others until the snapshot goes, and its end then takes as long as they are many.
            fadvise(&file, 0, None, Advice::DontNeed).ok();
        }
        Ok(match expected {
            Some(expected) if expected != content.sha256 => {
                Err("its copy in the stage is damaged; add it again".into())
            }
            None if !same_file(&listed, &after) => Err("changed while it was read".into()),
            _ => Ok((content, facts)),
        })
    };
    match read(packer) {
        Ok(outcome) => Ok(outcome),
        Err(FileTrouble::Read(error)) => Ok(Err(error.to_string())),
        Err(FileTrouble::Store(error)) => Err(error),
    }
}

#[cfg(test)]
#[path = "batches_tests.rs"]
mod tests;
