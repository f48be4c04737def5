//! Restores trees and single files: content first, proven, under its name only when it is complete. Where a disk fills up it ends, and
//! only counts what it still would have restored.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, bounded};
use pc_switcher_contract::{ErrorKind, ModuleError};
use rustix::fs::{CWD, FileType, Mode};
use sha2::{Digest, Sha256};

use super::dress::{Lacking, dress_again, set_metadata};
use super::facts::kind_of;
use super::full::{Full, complete};
use super::unfinished::{Swept, Unfinished};
use super::way::Way;
use super::{Observer, Tally, Trouble, check_cancelled, trouble, workers};
use crate::error::{Result, at};
use crate::format::{BlobKind, Id, Node, NodeKind};
use crate::repo::{Repository, is_zeros};

/// Zeros of this length, where such a piece begins in a file, become a hole.
const HOLE: usize = 64 << 10;

/// So many files are found ahead of those that are written: soon it is known how much there is.
const AHEAD: usize = 20_000;

/// Restores from one repository.
pub struct Restorer<'a> {
    /// Where from.
    pub repo: &'a Repository,
    /// Whether rights, owners, times and attributes stay as new files have them.
    pub content_only: bool,
    /// Hears how it goes on.
    pub observer: &'a dyn Observer,
    /// Where nothing is left any more of restores that died.
    pub swept: Swept,
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that an earlier restore left complete.
    pub there: u64,
    /// Their bytes.
    pub there_bytes: u64,
    /// Paths that are missing or lack something.
    pub troubles: Vec<Trouble>,
    /// Paths that lack what their restorer may not give.
    pub refused: Vec<Trouble>,
    /// What ended it, if there was no room for all.
    pub full: Option<Full>,
    /// What lies in cold storage.
    pub cold: Cold,
}

/// What cannot be read before it was fetched from cold storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cold {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories of which nobody knows what is in them.
    pub directories: u64,
    /// The packs that are needed for them.
    pub packs: BTreeSet<Id>,
}

#[derive(Default)]
struct Shared {
    files: AtomicU64,
    bytes: AtomicU64,
    /// Files that are there already, and their bytes.
    there: AtomicU64,
    there_bytes: AtomicU64,
    /// Files that were found so far, and their bytes.
    found_files: AtomicU64,
    found: AtomicU64,
    /// Files that failed for another reason than room, and their bytes.
    failed: AtomicU64,
    failed_bytes: AtomicU64,
    /// What found no room first.
    is_full: AtomicBool,
    full: Mutex<Option<String>>,
    troubles: Mutex<Vec<Trouble>>,
    refused: Mutex<Vec<Trouble>>,
    /// What lies in cold storage, and which of it has further names.
    cold: Mutex<(Cold, HashSet<(u64, u64)>)>,
    /// The first name of an inode that has several, once it is complete.
    links: Mutex<HashMap<(u64, u64), PathBuf>>,
}

impl Shared {
    fn report(&self, path: &Path, why: impl ToString) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(trouble(path, why));
    }

    /// As [`Shared::report`], unless there is no room any more: that ends it.
    fn fail(&self, path: &Path, error: &ModuleError) {
        if error.kind == ErrorKind::DiskSpace {
            self.full.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.to_string());
            self.is_full.store(true, Ordering::Relaxed);
        } else {
            self.report(path, error);
        }
    }

    fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    fn cold(&self) -> std::sync::MutexGuard<'_, (Cold, HashSet<(u64, u64)>)> {
        self.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a file that lies in cold storage; whether it does.
    fn waits(&self, repo: &Repository, node: &Node) -> bool {
        let packs = match repo.store().has_cold() {
            true => repo.packs_of(node.content.iter().flatten()),
            false => return false,
        };
        let is_cold = repo.is_cold(&packs);
        if is_cold {
            let (cold, linked) = &mut *self.cold();
            cold.files += 1;
            cold.bytes += node.size;
            cold.packs.extend(packs);
            linked.extend((node.links > 1).then_some((node.device_id, node.inode)));
        }
        is_cold
    }

    fn lacks(&self, path: &Path, lacking: Vec<Lacking>) {
        for Lacking { why, is_refused } in lacking {
            let all = if is_refused { &self.refused } else { &self.troubles };
            all.lock().unwrap_or_else(PoisonError::into_inner).push(trouble(path, why));
        }
    }

    fn links(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, u64), PathBuf>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits until all files are there.
#[derive(Default)]
struct Later {
    links: Vec<(PathBuf, Node)>,
    directories: Vec<(PathBuf, Node)>,
    seen: HashMap<(u64, u64), ()>,
}

impl Restorer<'_> {
    /// Restores all that a tree holds below `target`, which is made if it is missing. Nothing that is there is replaced.
    ///
    /// # Errors
    /// If the vault cannot be read or the run was cancelled; paths that cannot be written are troubles.
    pub fn tree(&self, tree: Id, target: &Path) -> Result<RestoreSummary> {
        self.nodes(self.repo.tree(tree)?.nodes, target)
    }

    /// As [`Restorer::tree`], but these entries of trees.
    ///
    /// # Errors
    /// As [`Restorer::tree`].
    pub fn nodes(&self, nodes: Vec<Node>, target: &Path) -> Result<RestoreSummary> {
        self.repo.load_index()?;
        let root = Root { way: Way::to(target)?, path: target };
        let (shared, tally) = (Shared::default(), Tally::new(self.observer, 0));
        let inner = Restorer { observer: &tally, swept: self.swept.clone(), ..*self };
        let (send, jobs) = bounded::<(PathBuf, Node)>(AHEAD);
        let mut later = Later::default();
        std::thread::scope(|scope| {
            for _ in 0..workers() {
                let (jobs, shared, root, inner, tally) = (jobs.clone(), &shared, &root, &inner, &tally);
                scope.spawn(move || inner.files(root, jobs, shared, tally));
            }
            drop(jobs);
            let mut entry = |below: PathBuf, node: Node| send.send((below, node)).is_ok();
            let walked = self.walk(nodes, &root, Path::new(""), &shared, &mut later, &mut entry);
            drop(send);
            // Until then there may be any more.
            tally.expect(shared.found.load(Ordering::Relaxed));
            walked
        })?;
        check_cancelled(self.observer)?;
        if !shared.is_full() {
            self.link(&root, &later, &shared);
        }
        // The deepest first: what is made below a directory changes its time. One that is not complete stays open for the next restore.
        let is_dressed = !self.content_only && !shared.is_full() && shared.cold().0 == Cold::default();
        for (below, node) in later.directories.iter().rev().filter(|_| is_dressed) {
            let path = root.shown(below);
            match root.way.down_to(below) {
                Ok(directory) => shared.lacks(&path, set_metadata(&directory, node)),
                Err(error) => shared.fail(&path, &error),
            }
        }
        let sorted = |all: Mutex<Vec<Trouble>>| {
            let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
            all.sort_by(|a, b| a.path.cmp(&b.path));
            all
        };
        let (files, bytes, there) =
            (shared.files.into_inner(), shared.bytes.into_inner(), shared.there.into_inner());
        let there_bytes = shared.there_bytes.into_inner();
        // What failed for another reason is no file that room would bring.
        let failed = (shared.failed.into_inner(), shared.failed_bytes.into_inner());
        let why = shared.full.into_inner().unwrap_or_else(PoisonError::into_inner);
        let full = why.map(|why| {
            let files_left = (shared.found_files.into_inner() + later.links.len() as u64)
                .saturating_sub(files + there + failed.0);
            let bytes_left = shared.found.into_inner().saturating_sub(bytes + there_bytes + failed.1);
            Full::at(target, why, files_left, bytes_left)
        });
        let (troubles, refused) = (sorted(shared.troubles), sorted(shared.refused));
        let (cold, _) = shared.cold.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(RestoreSummary { files, bytes, there, there_bytes, troubles, refused, full, cold })
    }

    fn walk(
        &self,
        nodes: Vec<Node>,
        root: &Root<'_>,
        directory: &Path,
        shared: &Shared,
        later: &mut Later,
        entry: &mut dyn FnMut(PathBuf, Node) -> bool,
    ) -> Result<()> {
        for node in nodes {
            check_cancelled(self.observer)?;
            let below = directory.join(&node.name);
            let path = root.shown(&below);
            match node.kind {
                NodeKind::Dir => {
                    if !shared.is_full()
                        && let Err(error) = root.way.down_to(&below)
                    {
                        shared.fail(&path, &error);
                        if !shared.is_full() {
                            continue;
                        }
                    }
                    let subtree = node.subtree;
                    later.directories.push((below.clone(), node));
                    let inside =
                        subtree.map_or_else(|| Ok(Vec::new()), |tree| Ok(self.repo.tree(tree)?.nodes));
                    if let Err(error) =
                        inside.and_then(|inside| self.walk(inside, root, &below, shared, later, entry))
                    {
                        check_cancelled(self.observer)?;
                        let packs = self.repo.packs_of(&subtree);
                        match self.repo.is_cold(&packs) {
                            true => shared.cold().0.directories += 1,
                            false => shared.report(&path, error),
                        }
                    }
                }
                NodeKind::File => {
                    let inode = (node.device_id, node.inode);
                    if node.links > 1 && later.seen.insert(inode, ()).is_some() {
                        later.links.push((below, node));
                    } else {
                        shared.found_files.fetch_add(1, Ordering::Relaxed);
                        shared.found.fetch_add(node.size, Ordering::Relaxed);
                        if !shared.is_full() {
                            entry(below, node);
                        }
                    }
                }
                NodeKind::Socket => {}
                _ if shared.is_full() => {}
                _ => match self.special(root, &below, &node) {
                    Ok(lacking) => shared.lacks(&path, lacking),
                    Err(error) => shared.fail(&path, &error),
                },
            }
        }
        Ok(())
    }

    fn special(&self, root: &Root<'_>, below: &Path, node: &Node) -> Result<Vec<Lacking>> {
        let (directory, name) = root.holder(below)?;
        let path = directory.inside(name);
        match make_special(&path, node) {
            // As an earlier restore left it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_such(&path, node) => {}
            made => made.map_err(|error| at("make", &root.shown(below), &error))?,
        }
        Ok(if self.content_only { Vec::new() } else { dress_special(&directory, name, node) })
    }

    fn files(&self, root: &Root<'_>, jobs: Receiver<(PathBuf, Node)>, shared: &Shared, tally: &Tally<'_>) {
        for (below, node) in jobs {
            if self.observer.is_cancelled() || shared.is_full() {
                continue;
            }
            let path = root.shown(&below);
            match self.file(root, &below, &node) {
                Ok(Given { was_there, lacking }) => {
                    let (files, bytes) = match was_there {
                        false => (&shared.files, &shared.bytes),
                        true => (&shared.there, &shared.there_bytes),
                    };
                    files.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add(node.size, Ordering::Relaxed);
                    shared.lacks(&path, lacking);
                    if node.links > 1 {
                        shared.links().insert((node.device_id, node.inode), below);
                    }
                    tally.add_file();
                }
                Err(missed) => {
                    let is_cold = matches!(missed, Missed::Content(_)) && shared.waits(self.repo, &node);
                    let error = ModuleError::from(missed);
                    if error.kind != ErrorKind::DiskSpace {
                        shared.failed.fetch_add(1, Ordering::Relaxed);
                        shared.failed_bytes.fetch_add(node.size, Ordering::Relaxed);
                    }
                    if !is_cold {
                        shared.fail(&path, &error);
                    }
                }
            }
        }
    }

    /// Restores one file; one that an earlier restore left complete is only given what it lacks.
    fn file(&self, root: &Root<'_>, below: &Path, node: &Node) -> std::result::Result<Given, Missed> {
        let chunks = node.content.clone().unwrap_or_default();
        let (directory, name) = root.holder(below)?;
        let path = root.shown(below);
        let real = directory.inside(name);
        if fs::symlink_metadata(&real).is_ok() {
            let there = complete(self.repo, &real, node, self.content_only, self.observer);
            let there = there.ok_or_else(|| there_already(&io::ErrorKind::AlreadyExists.into(), &path))?;
            let lacking = if self.content_only { Vec::new() } else { dress_again(&there, node) };
            return Ok(Given { was_there: true, lacking });
        }
        let (file, _) = self.staged(&directory, &path, &chunks)?;
        let lacking = if self.content_only { Vec::new() } else { set_metadata(file.as_file(), node) };
        put_in_place(file, (&directory, name), &path)?;
        Ok(Given { was_there: false, lacking })
    }

    /// Writes content into a directory, and returns its SHA-256. `shown` says for people what it will be.
    ///
    /// # Errors
    /// If it cannot be written, or its content not be read.
    pub(crate) fn staged(
        &self,
        directory: &Way,
        shown: &Path,
        chunks: &[Id],
    ) -> std::result::Result<(Unfinished, Id), Missed> {
        let failed = |error: io::Error| at("write", shown, &error);
        let rights = if self.content_only { 0o666 } else { 0o600 };
        let file = Unfinished::begin(directory, rights, &self.swept)
            // What the error says of the place is nothing for people.
            .map_err(|error| at("write below", shown.parent().unwrap_or(shown), &error.kind().into()))?;
        let mut whole = Sha256::new();
        let (mut length, mut blob, mut last, mut ends_in_hole) = (0, Vec::new(), None, false);
        for id in chunks {
            check_cancelled(self.observer)?;
            // A hole is the same again and again.
            if last != Some(*id) {
                blob = self.repo.blob(BlobKind::Data, *id).map_err(Missed::Content)?;
                last = Some(*id);
            }
            whole.update(&blob);
            ends_in_hole = !write_or_skip(file.as_file(), length, &blob).map_err(failed)?;
            length += blob.len() as u64;
            self.observer.wrote(shown, blob.len() as u64);
        }
        // What was written to its end has its length; to say so once more, btrfs locks what others write to.
        if ends_in_hole {
            file.as_file().set_len(length).map_err(failed)?;
        }
        Ok((file, Id(whole.finalize().into())))
    }

    fn link(&self, root: &Root<'_>, later: &Later, shared: &Shared) {
        for (below, node) in &later.links {
            let inode = (node.device_id, node.inode);
            if shared.cold().1.contains(&inode) {
                shared.cold().0.files += 1;
                continue;
            }
            let first = shared.links().get(&inode).cloned();
            let linked = match first {
                Some(first) => root.link(&first, below),
                None => {
                    Err(ModuleError::failed("the file that it is a further name of could not be restored"))
                }
            };
            match linked {
                Ok(()) => {
                    shared.files.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => shared.fail(&root.shown(below), &error),
            }
        }
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// Whether an earlier restore left it complete.
    pub(crate) was_there: bool,
    /// What it lacks all the same.
    pub(crate) lacking: Vec<Lacking>,
}

/// Why a file was not restored.
#[derive(Debug)]
pub enum Missed {
    /// The vault could not give its content: another one may.
    Content(ModuleError),
    /// It could not be put in its place: with the content of another vault it is the same.
    Place(ModuleError),
}

impl From<ModuleError> for Missed {
    fn from(error: ModuleError) -> Self {
        Self::Place(error)
    }
}

impl From<Missed> for ModuleError {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Content(error) | Missed::Place(error) => error,
        }
    }
}

/// Where a tree is restored to.
struct Root<'p> {
    way: Way,
    path: &'p Path,
}

impl Root<'_> {
    fn shown(&self, below: &Path) -> PathBuf {
        self.path.join(below)
    }

    /// Returns the directory that holds something, with its name there.
    fn holder<'p>(&self, below: &'p Path) -> Result<(Way, &'p OsStr)> {
        let directory = self.way.down_to(below.parent().unwrap_or(Path::new("")))?;
        Ok((directory, below.file_name().unwrap_or_default()))
    }

    fn link(&self, first: &Path, further: &Path) -> Result<()> {
        let ((from, name), (to, other)) = (self.holder(first)?, self.holder(further)?);
        let (first, path) = (from.inside(name), to.inside(other));
        match fs::hard_link(&first, &path) {
            // As an earlier restore left it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_one_file(&first, &path) => {
                Ok(())
            }
            linked => linked.map_err(|error| at("make", &self.shown(further), &error)),
        }
    }
}

/// Whether two names are those of one file.
fn is_one_file(one: &Path, other: &Path) -> bool {
    let of = |path| fs::symlink_metadata(path).map(|facts: fs::Metadata| (facts.dev(), facts.ino()));
    of(one).ok().is_some_and(|one| of(other).is_ok_and(|other| one == other))
}

/// Whether what is there is what [`make_special`] would make.
pub(crate) fn is_such(path: &Path, node: &Node) -> bool {
    let Ok(facts) = fs::symlink_metadata(path) else { return false };
    kind_of(&facts) == node.kind
        && match node.kind {
            NodeKind::Symlink => fs::read_link(path).is_ok_and(|target| target == Path::new(&node.target())),
            NodeKind::Dev | NodeKind::CharDev => facts.rdev() == node.device,
            _ => true,
        }
}

/// Gives a complete file its name, durably. `shown` is that name for people.
///
/// # Errors
/// If something is there.
pub(crate) fn put_in_place(file: Unfinished, (holder, name): (&Way, &OsStr), shown: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(|error| at("write", shown, &error))?;
    file.name(holder, name).map_err(|error| there_already(&error, shown))
}

/// Says why a file did not get its name.
pub(crate) fn there_already(error: &io::Error, shown: &Path) -> ModuleError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => ModuleError::failed(format!("`{}` exists already", shown.display()))
            .hint("move it away, or restore to another directory with --to"),
        _ => at("write", shown, error),
    }
}

/// Leaves holes where there is nothing but zeros: chunks begin and end anywhere, blocks of disks do not. Whether the last byte was written.
fn write_or_skip(file: &File, at: u64, bytes: &[u8]) -> io::Result<bool> {
    if is_zeros(bytes) {
        return Ok(false);
    }
    let (mut from, mut to) = (0, 0);
    while to < bytes.len() {
        let end = HOLE - (at as usize + to) % HOLE;
        let piece = &bytes[to..bytes.len().min(to + end)];
        if is_zeros(piece) {
            file.write_all_at(&bytes[from..to], at + from as u64)?;
            from = to + piece.len();
        }
        to += piece.len();
    }
    file.write_all_at(&bytes[from..to], at + from as u64)?;
    Ok(from < to)
}

/// Makes what is neither file nor directory.
pub(crate) fn make_special(path: &Path, node: &Node) -> io::Result<()> {
    let make = |kind| {
        rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, node.device).map_err(io::Error::from)
    };
    match node.kind {
        NodeKind::Symlink => std::os::unix::fs::symlink(node.target(), path),
        NodeKind::Fifo => make(FileType::Fifo),
        NodeKind::Dev => make(FileType::BlockDevice),
        NodeKind::CharDev => make(FileType::CharacterDevice),
        NodeKind::Socket => Ok(()),
        _ => Err(io::Error::other("is of a kind that is not known here")),
    }
}

/// Dresses what [`make_special`] made; returns what it lacks.
pub(crate) fn dress_special(directory: &Way, name: &OsStr, node: &Node) -> Vec<Lacking> {
    match directory.open(name, node.kind) {
        Ok(open) => set_metadata(&open, node),
        Err(error) => vec![Lacking::new("its owner and rights", &error)],
    }
}
