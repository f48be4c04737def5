//! Brings versions back: beside the original, elsewhere, or in its place after what is there was staged.

mod place;
mod thaw;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::Service;
use super::batch::{Batch, Fleet, Job, family};
use super::holders::{Opened, gravest};
use super::snapshot::node_of_version;
use super::stage::{NotStaged, facts_of};
use super::vaults::Passphrase;
use crate::catalogue::{Chunk, CurrentFile, Directory, File as CatalogueFile, FileFacts, Version};
use crate::engine::{
    Full, Given, Lacking, Missed, Observer, Restorer, Tally, Trouble, Way, complete, dress_special, exchange,
    is_dressed, is_such, is_undecorated, make_special, node_of, put_in_place, set_all_but_times,
    set_metadata, workers,
};
use crate::error::{Result, again, at, damaged, usage};
use crate::format::{Id, Node, NodeKind};
use crate::repo::Repository;
use crate::store::Thaw;

pub(super) use place::Target;
use place::{place_of, root_of};
pub use thaw::Waiting;
pub(super) use thaw::{Thawed, fetched_of};

/// Directories that are dressed by one thread rather than by several.
const FEW: usize = 64;

/// Which version is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one that counts.
    Current,
    /// The one whose checksum begins so.
    Checksum(String),
    /// The newest that is not later.
    At(Timestamp),
}

/// What is to be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOrder {
    /// The file or directory, absolute; it need not be there.
    pub path: PathBuf,
    /// Which version of it.
    pub which: Which,
    /// Below which directory; beside the original if none is named.
    pub to: Option<PathBuf>,
    /// Whether it takes the place of what is there, which is staged first.
    pub in_place: bool,
    /// Whether rights, owner, times and attributes are left alone.
    pub content_only: bool,
    /// Whether the name gets twelve digits of the checksum instead of all.
    pub short_name: bool,
    /// How what lies in cold storage is to be fetched.
    pub thaw: Thaw,
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// The files that were written.
    pub files: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
    /// Files that an earlier restore left complete.
    pub there: u64,
    /// Their bytes.
    pub there_bytes: u64,
    /// What is missing, or lacks something.
    pub troubles: Vec<Trouble>,
    /// What is there without something that its restorer may not give: owner, group, attributes.
    pub refused: Vec<Trouble>,
    /// What a vault could not give, and another one gave.
    pub elsewhere: Vec<Trouble>,
    /// What ended it, if there was no room for all.
    pub full: Option<Full>,
    /// What can be restored once it was fetched from cold storage.
    pub waiting: Vec<Waiting>,
}

impl RestoreReport {
    fn tell(&self) -> (bool, String) {
        let mut text = format!("{} files, {} troubles", self.files.len(), self.troubles.len());
        if !self.refused.is_empty() {
            text.push_str(&format!(", {} could not be given all that is theirs", self.paths_refused()));
        }
        if let Some(full) = &self.full {
            text.push_str(&format!(", no room for {} more", full.files_left));
        }
        self.waiting.iter().for_each(|waiting| text.push_str(&format!(", {}", waiting.words())));
        (self.troubles.is_empty() && self.full.is_none() && self.waiting.is_empty(), text)
    }

    /// Returns how many paths are without something that takes more rights.
    pub fn paths_refused(&self) -> usize {
        self.refused.iter().map(|one| &one.path).collect::<BTreeSet<_>>().len()
    }

    /// Counts a file that is where it should be.
    pub(super) fn takes(&mut self, place: PathBuf, size: u64, given: Given) {
        let Given { was_there, lacking } = given;
        self.lacks(&place, lacking);
        if was_there {
            self.there += 1;
            self.there_bytes += size;
        } else {
            self.bytes += size;
            self.files.push(place);
        }
    }

    pub(super) fn lacks(&mut self, path: &Path, lacking: Vec<Lacking>) {
        for Lacking { why, is_refused } in lacking {
            let all = if is_refused { &mut self.refused } else { &mut self.troubles };
            all.push(Trouble { path: path.to_owned(), why });
        }
    }
}

impl Service {
    /// Restores a version of a file, or the versions of all files of a directory. Where there is no room for all it ends with what is
    /// complete, and the report says so.
    ///
    /// # Errors
    /// If there is no such version, no vault holds it, or the run was cancelled.
    pub fn restore(
        &mut self,
        order: &RestoreOrder,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        let (directory, name) = self.tracked(&order.path)?;
        let wanted = self.wanted(&directory, &name, order)?;
        let text = order.path.display().to_string();
        let work = |service: &mut Self, _| {
            let mut report = RestoreReport::default();
            service.restore_all(&directory, &wanted, order, passphrase, &mut report, observer)?;
            Ok(report)
        };
        self.operation("restore", &text, work, RestoreReport::tell)
    }

    /// Restores all, or what there is room for.
    fn restore_all(
        &mut self,
        directory: &Directory,
        wanted: &[CurrentFile],
        order: &RestoreOrder,
        passphrase: &mut Passphrase<'_>,
        report: &mut RestoreReport,
        observer: &dyn Observer,
    ) -> Result<()> {
        let mut open = Opened::default();
        let total_bytes = wanted.iter().map(|file| file.version.facts.size).sum();
        let observer = &Tally::new(observer, total_bytes);
        let mut target = Target::new(directory, order);
        let ended = std::thread::scope(|scope| {
            let mut fleet = Fleet::new(scope, order.content_only, observer);
            let ended =
                self.restore_each(&mut target, wanted, passphrase, (&mut open, &mut fleet), report, observer);
            // Whatever ended it: what was under way is there, or is missing.
            let settled = open.settle(&mut fleet, report);
            gravest(ended, settled)
        });
        let ended = ended.and_then(|()| {
            self.restore_again(&mut target, wanted, passphrase, &mut open, report, observer)?;
            // What is not complete stays open for the next restore.
            if open.cold.is_empty() {
                dress_directories(&mut target, report);
            }
            Ok(())
        });
        // However it ended: these are no files for which there was no room.
        for number in std::mem::take(&mut open.again) {
            let why = open.why_not(wanted[number].version.content_id);
            self.misses(&mut open, directory, &wanted[number], why, report);
        }
        for (number, error) in std::mem::take(&mut open.misplaced) {
            open.misses(directory, &wanted[number], error.to_string(), report);
        }
        match ended {
            Err(error) if error.kind == ErrorKind::DiskSpace => {
                let files = || wanted.iter().map(|file| &file.version.facts).filter(|facts| !facts.is_dir());
                let done = report.files.len() as u64 + report.there + open.failed_files.0;
                let done_bytes = report.bytes + report.there_bytes + open.failed_files.1;
                let files_left = (files().count() as u64).saturating_sub(done);
                let bytes_left = files().map(|facts| facts.size).sum::<u64>().saturating_sub(done_bytes);
                report.full =
                    Some(Full::at(root_of(directory, order), error.to_string(), files_left, bytes_left));
                Ok(())
            }
            ended => {
                ended?;
                report.waiting = self.have_fetched(&mut open, order.thaw, observer)?;
                Ok(())
            }
        }
    }

    /// Restores one after the other, and together what can be.
    fn restore_each(
        &mut self,
        target: &mut Target<'_>,
        wanted: &[CurrentFile],
        passphrase: &mut Passphrase<'_>,
        (open, fleet): (&mut Opened, &mut Fleet<'_, '_>),
        report: &mut RestoreReport,
        observer: &dyn Observer,
    ) -> Result<()> {
        let Target { directory, order, .. } = *target;
        let mut batch = fleet.batch();
        for (number, file) in wanted.iter().enumerate() {
            if observer.is_cancelled() {
                return Err(ModuleError::cancelled());
            }
            if file.version.facts.is_dir() {
                match self.make_directory(target, file) {
                    Ok(made) => target.made.extend(made),
                    Err(error) if wanted.len() == 1 || ends(&error) => return Err(error),
                    Err(error) => open.misses(directory, file, error.to_string(), report),
                }
                continue;
            }
            let place = place_of(directory, file, order);
            let family = family(file);
            if family.is_some_and(|family| batch.holds(family) || fleet.holds(family)) {
                open.restore(&mut batch, fleet, report)?;
                open.settle(fleet, report)?;
            }
            // What is under the first name is what it should be, or it would not be known as such.
            let first = family.and_then(|family| open.first_names.get(&family));
            let first = first.filter(|first| fs::symlink_metadata(first).is_ok());
            let restored = match first.filter(|_| fs::symlink_metadata(&place).is_err()) {
                Some(first) => target.link(first, place).map(Some),
                None if wanted.len() > 1 && !order.in_place && file.version.facts.is_file() => {
                    open.learn(fleet);
                    self.source_of(file, open, passphrase).and_then(|(vault, chunks)| {
                        let job = self.job(&batch, target, file, &chunks)?;
                        if batch.take(Job { number, vault, family, ..job }) {
                            open.restore(&mut batch, fleet, report)?;
                            self.thaw_ahead(target, wanted, open, observer)?;
                        }
                        Ok(None)
                    })
                }
                None => self.restore_from_any(file, target, open, passphrase, report, observer).map(Some),
            };
            match restored {
                Ok(None) => {}
                Ok(Some((place, given))) => {
                    if let Some(family) = family {
                        open.first_names.entry(family).or_insert_with(|| place.clone());
                    }
                    report.takes(place, file.version.facts.size, given);
                }
                Err(error) if ends(&error) => return Err(error),
                Err(error) if wanted.len() == 1 && self.cold_of(open, file).is_none() => return Err(error),
                Err(error) => self.misses(open, directory, file, error.to_string(), report),
            }
        }
        open.restore(&mut batch, fleet, report)
    }

    /// Finds the versions that an order asks for.
    fn wanted(&self, directory: &Directory, name: &Path, order: &RestoreOrder) -> Result<Vec<CurrentFile>> {
        let shown = order.path.display();
        if let Some(file) = self.catalogue.find_file_by_path(directory, name)? {
            let versions = self.catalogue.find_file_snapshots_for_file(&file)?;
            let is_dir_now = versions.first().is_some_and(|version| version.facts.is_dir());
            let found = match &order.which {
                Which::Current => versions.into_iter().next(),
                Which::At(at) => newest_until(versions, *at),
                Which::Checksum(prefix) => self.catalogue.find_file_snapshot_by_checksum(&file, prefix)?,
            };
            // A directory comes back with all that is in it.
            if !found.as_ref().map_or(is_dir_now, |version| version.facts.is_dir()) {
                let version = found.ok_or_else(|| {
                    usage(format!("there is no such version of `{shown}`"))
                        .hint("`bt log` names the versions")
                })?;
                let CatalogueFile { id, name, deleted, .. } = file;
                return Ok(vec![CurrentFile { file_id: id, name, deleted, version }]);
            }
        }
        let mut below = self.catalogue.current_files(directory, name, None, usize::MAX >> 1)?;
        match &order.which {
            Which::Checksum(_) => {
                return Err(usage(format!("`{shown}` is no file: a checksum names a version of one file")));
            }
            Which::Current => below.retain(|file| !file.deleted),
            Which::At(at) => {
                let absent = self.catalogue.absent_at(directory, name, *at)?;
                let mut then = Vec::new();
                for file in below.into_iter().filter(|file| !absent.contains(&file.file_id)) {
                    let found = self.catalogue.find_file_by_path(directory, &file.name)?;
                    let versions =
                        found.map(|found| self.catalogue.find_file_snapshots_for_file(&found)).transpose()?;
                    let version = newest_until(versions.unwrap_or_default(), *at);
                    then.extend(version.map(|version| CurrentFile { version, ..file }));
                }
                below = then;
            }
        }
        if below.is_empty() {
            return Err(usage(format!("there is no version of `{shown}`"))
                .hint("`bt dir status --deleted` names what there is"));
        }
        Ok(below)
    }

    /// Prepares what is restored together with others.
    fn job(
        &self,
        batch: &Batch,
        target: &mut Target<'_>,
        file: &CurrentFile,
        chunks: &[Chunk],
    ) -> Result<Job> {
        let place = place_of(target.directory, file, target.order);
        let name = place.file_name().unwrap_or_default().to_owned();
        let around = place.parent().unwrap_or(Path::new("/"));
        let holder = match batch.holder_of(around) {
            Some(holder) => holder,
            None => Arc::new(target.directory(around)?),
        };
        let is_taken = fs::symlink_metadata(holder.inside(&name)).is_ok();
        Ok(Job {
            place,
            holder,
            name,
            node: node_of_version(file, chunks, &self.names),
            chunks: chunks.iter().map(|chunk| chunk.blob_id).collect(),
            content: file.version.content_id,
            is_taken,
            vault: 0,
            number: 0,
            family: None,
        })
    }

    pub(super) fn restore_one(
        &mut self,
        repo: &Repository,
        target: &mut Target<'_>,
        file: &CurrentFile,
        chunks: &[Chunk],
        observer: &dyn Observer,
    ) -> std::result::Result<(PathBuf, Given), Missed> {
        let Target { directory, order, .. } = *target;
        let path = place_of(directory, file, order);
        let (holder, name) = target.holder(&path)?;
        let real = holder.inside(name);
        let is_there = fs::symlink_metadata(&real).is_ok();
        let node = node_of_version(file, chunks, &self.names);
        // What is no file may be as an earlier restore left it.
        if !order.in_place && is_there && (file.version.facts.is_file() || !is_such(&real, &node)) {
            return Err(ModuleError::failed(format!("`{}` exists already", path.display()))
                .hint("move it away, or restore to another directory with --to")
                .into());
        }
        if !file.version.facts.is_file() {
            let lacking = self.restore_special(target, file, &path, &holder, &node)?;
            return Ok((path, Given { was_there: false, lacking }));
        }
        // As an earlier restore left it, it is not kept and exchanged once more.
        if is_there
            && let Some(there) = complete(repo, &real, &node, order.content_only, observer)
            && (order.content_only || is_dressed(&there, &node) && is_undecorated(&there, &node))
        {
            self.stage_as_it_is(directory, file, &real, &path)?;
            return Ok((path, Given { was_there: true, lacking: Vec::new() }));
        }
        // What takes the place of a file is for nobody's eyes before it has that one's rights.
        let content_only = order.content_only && !is_there;
        let restorer = Restorer { repo, content_only, observer, swept: target.swept.clone() };
        let ids: Vec<Id> = chunks.iter().map(|chunk| chunk.blob_id).collect();
        let (staged, sum) = restorer.staged(&holder, &path, &ids)?;
        if sum != file.version.content_id {
            let what = format!("the content of `{}`", path.display());
            return Err(Missed::Content(damaged(what, "its checksum is another one")));
        }
        let seen = match order.in_place {
            true => self.keep_what_is_there(directory, file, &path, &real, observer)?,
            false => None,
        };
        let lacking = match &seen {
            _ if !order.content_only => set_metadata(staged.as_file(), &node),
            None => Vec::new(),
            Some(seen) => {
                let before = node_of(&real, name, seen, &self.names);
                let before = before.map_err(|error| at("read", &path, &error))?;
                set_all_but_times(staged.as_file(), &before)
            }
        };
        match &seen {
            Some(seen) => exchange(staged, (&holder, name), &path, seen)?,
            None => put_in_place(staged, (&holder, name), &path)?,
        }
        if order.in_place {
            self.stage_as_it_is(directory, file, &real, &path)?;
        }
        Ok((path, Given { was_there: false, lacking }))
    }

    /// Stages what was restored, after what it replaced: what is last in the queue becomes the current version. It is read where it
    /// lies, and nothing of it is stored again.
    fn stage_as_it_is(
        &mut self,
        directory: &Directory,
        file: &CurrentFile,
        real: &Path,
        path: &Path,
    ) -> Result<()> {
        let facts = fs::symlink_metadata(real).and_then(|facts| facts_of(real, &facts));
        let facts = facts.map_err(|error| at("read", path, &error))?;
        self.catalogue.stage_for_backup(directory, &file.name, &facts, None)
    }

    /// Makes a link, a pipe or a device. Nothing but the same thing is in its place already, or it stays as it is.
    fn restore_special(
        &mut self,
        target: &Target<'_>,
        file: &CurrentFile,
        path: &Path,
        holder: &Way,
        node: &Node,
    ) -> Result<Vec<Lacking>> {
        let name = path.file_name().unwrap_or_default();
        let real = holder.inside(name);
        let seen = || fs::symlink_metadata(&real).and_then(|facts| facts_of(&real, &facts));
        let wanted = &file.version.facts;
        // What has other names is dressed for all of them, so it is left alone where nothing is to be done.
        let mut is_whole = false;
        match seen() {
            Ok(there)
                if (there.kind, &there.target, there.device)
                    == (wanted.kind, &wanted.target, wanted.device) =>
            {
                is_whole = is_dressed_as(&there, wanted);
            }
            Ok(_) => {
                return Err(usage(format!("`{}` is something else now; it is not replaced", path.display()))
                    .hint("move it away, or restore to another directory with --to"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make_special(&real, node).map_err(|error| at("make", path, &error))?;
            }
            Err(error) => return Err(at("read", path, &error)),
        }
        let Target { directory, order, .. } = target;
        let lacking = match order.content_only || is_whole {
            true => Vec::new(),
            false => dress_special(holder, name, node),
        };
        if order.in_place {
            let facts = seen().map_err(|error| at("read", path, &error))?;
            self.catalogue.stage_for_backup(directory, &file.name, &facts, Some(Id::of(b"")))?;
        }
        Ok(lacking)
    }

    /// Makes a directory that is wanted with all that is in it; it is dressed when all of that is there. Beside the originals none
    /// is made: it is there, or is made for them.
    fn make_directory(&self, target: &mut Target<'_>, file: &CurrentFile) -> Result<Option<(PathBuf, Node)>> {
        let Target { directory, order, .. } = *target;
        let own = directory.path.join(&file.name);
        // `--to` names what the wanted directory itself becomes.
        let is_wanted = order.to.is_some() && own == order.path;
        if is_wanted || order.to.is_none() && !order.in_place {
            return Ok(None);
        }
        let path = place_of(directory, file, order);
        target.directory(&path)?;
        Ok(Some((path, node_of_version(file, &[], &self.names))))
    }

    /// Stages what is about to be replaced, if anything, and returns how it was seen.
    fn keep_what_is_there(
        &mut self,
        directory: &Directory,
        file: &CurrentFile,
        path: &Path,
        real: &Path,
        observer: &dyn Observer,
    ) -> Result<Option<Metadata>> {
        let facts = match fs::symlink_metadata(real) {
            Ok(facts) if facts.is_file() => facts,
            Ok(_) => {
                return Err(usage(format!("`{}` is no regular file; it is not replaced", path.display())));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("read", path, &error)),
        };
        let kept = self.stage.add(real, &facts, observer).map_err(|error| match error {
            NotStaged::File(why) => {
                ModuleError::failed(format!("`{}` cannot be kept: {why}", path.display()))
            }
            NotStaged::Stage(error) => at("write the stage for", path, &error),
        })?;
        self.stage.settle()?;
        self.catalogue.stage_for_backup(directory, &file.name, &kept.1, Some(kept.0))?;
        Ok(Some(facts))
    }
}

/// Gives the directories that were made what is theirs.
fn dress_directories(target: &mut Target<'_>, report: &mut RestoreReport) {
    let mut made = std::mem::take(&mut target.made);
    if target.order.content_only || made.is_empty() {
        return;
    }
    // The deepest first: who may not go into one could not dress what is in it.
    let depth = |path: &Path| path.components().count();
    made.sort_by_cached_key(|(path, _)| Reverse(depth(path)));
    let root = target.root();
    let dressed = |(path, node): &(PathBuf, Node)| -> Result<Vec<Lacking>> {
        let root = root.as_ref().map_err(again)?;
        Ok(set_metadata(&root.down_to(target.below(path)?)?, node))
    };
    for level in made.chunk_by(|(one, _), (other, _)| depth(one) == depth(other)) {
        let part = level.len().div_ceil(workers()).max(FEW);
        let dress = |part: &[(PathBuf, Node)]| part.iter().map(&dressed).collect::<Vec<_>>();
        let done = std::thread::scope(|scope| {
            let threads: Vec<_> = level.chunks(part).map(|part| scope.spawn(move || dress(part))).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended
                .flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Vec<_>>()
        });
        for ((path, _), done) in level.iter().zip(done) {
            match done {
                Ok(lacking) => report.lacks(path, lacking),
                Err(error) => report.troubles.push(Trouble { path: path.clone(), why: error.to_string() }),
            }
        }
    }
}

/// Whether an error would be that of each of many files: somebody works alone in the vault, there is no room, or nobody waits any more.
pub(super) fn ends(error: &ModuleError) -> bool {
    matches!(error.kind, ErrorKind::Busy | ErrorKind::Cancelled | ErrorKind::DiskSpace)
}

/// Whether owner, rights, times and attributes are those that are wanted; a link has no rights of its own.
fn is_dressed_as(there: &FileFacts, wanted: &FileFacts) -> bool {
    let of = |facts: &FileFacts| {
        let rights = (facts.kind != NodeKind::Symlink).then_some(facts.permissions);
        (rights, facts.uid, facts.gid, facts.modified_at, facts.xattrs.clone())
    };
    of(there) == of(wanted)
}

fn newest_until(versions: Vec<Version>, at: Timestamp) -> Option<Version> {
    versions.into_iter().find(|version| version.created_at.parse::<Timestamp>().is_ok_and(|made| made <= at))
}
