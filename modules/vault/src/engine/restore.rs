//! Restores trees and single files: content first, proven, under its name only when it is complete.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, bounded};
use pc_switcher_contract::ModuleError;
use rustix::fs::{CWD, FileType, Mode};
use sha2::{Digest, Sha256};

use super::dress::{Lacking, set_metadata};
use super::{Observer, Progress, Trouble, check_cancelled, trouble, workers};
use crate::error::{Result, at};
use crate::format::{BlobKind, Id, Node, NodeKind};
use crate::repo::{Repository, is_zeros};

/// Zeros of this length, where such a piece begins in a file, become a hole.
const HOLE: usize = 64 << 10;

/// Restores from one repository.
pub struct Restorer<'a> {
    /// Where from.
    pub repo: &'a Repository,
    /// Whether rights, owners, times and attributes stay as new files have them.
    pub content_only: bool,
    /// Hears how it goes on.
    pub observer: &'a dyn Observer,
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Paths that are missing or lack something.
    pub troubles: Vec<Trouble>,
    /// Paths that lack what their restorer may not give.
    pub refused: Vec<Trouble>,
}

#[derive(Default)]
struct Shared {
    files: AtomicU64,
    bytes: AtomicU64,
    troubles: Mutex<Vec<Trouble>>,
    refused: Mutex<Vec<Trouble>>,
    /// The first name of an inode that has several, once it is complete.
    links: Mutex<HashMap<(u64, u64), PathBuf>>,
}

impl Shared {
    fn report(&self, path: &Path, why: impl ToString) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(trouble(path, why));
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
        self.repo.load_index()?;
        fs::create_dir_all(target).map_err(|error| at("make the directory", target, &error))?;
        let shared = Shared::default();
        let (send, jobs) = bounded::<(PathBuf, Node)>(512);
        let mut later = Later::default();
        std::thread::scope(|scope| {
            for _ in 0..workers() {
                let (jobs, shared) = (jobs.clone(), &shared);
                scope.spawn(move || self.files(jobs, shared));
            }
            drop(jobs);
            let mut entry = |path: PathBuf, node: Node| send.send((path, node)).is_ok();
            let walked = self.walk(tree, target, &shared, &mut later, &mut entry);
            drop(send);
            walked
        })?;
        check_cancelled(self.observer)?;
        self.link(&later, &shared);
        // The deepest first: what is made below a directory changes its time.
        for (path, node) in later.directories.iter().rev() {
            self.dress(path, node, &shared);
        }
        let sorted = |all: Mutex<Vec<Trouble>>| {
            let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
            all.sort_by(|a, b| a.path.cmp(&b.path));
            all
        };
        Ok(RestoreSummary {
            files: shared.files.into_inner(),
            bytes: shared.bytes.into_inner(),
            troubles: sorted(shared.troubles),
            refused: sorted(shared.refused),
        })
    }

    fn walk(
        &self,
        tree: Id,
        directory: &Path,
        shared: &Shared,
        later: &mut Later,
        entry: &mut dyn FnMut(PathBuf, Node) -> bool,
    ) -> Result<()> {
        for node in self.repo.tree(tree)?.nodes {
            check_cancelled(self.observer)?;
            let path = directory.join(&node.name);
            match node.kind {
                NodeKind::Dir => {
                    if let Err(error) = make_directory(&path) {
                        shared.report(&path, error);
                        continue;
                    }
                    let subtree = node.subtree;
                    later.directories.push((path.clone(), node));
                    if let Some(subtree) = subtree
                        && let Err(error) = self.walk(subtree, &path, shared, later, entry)
                    {
                        check_cancelled(self.observer)?;
                        shared.report(&path, error);
                    }
                }
                NodeKind::File => {
                    let inode = (node.device_id, node.inode);
                    if node.links > 1 && later.seen.insert(inode, ()).is_some() {
                        later.links.push((path, node));
                    } else {
                        entry(path, node);
                    }
                }
                _ => match make_special(&path, &node) {
                    Ok(()) => self.dress(&path, &node, shared),
                    Err(error) => shared.report(&path, error),
                },
            }
        }
        Ok(())
    }

    fn files(&self, jobs: Receiver<(PathBuf, Node)>, shared: &Shared) {
        for (path, node) in jobs {
            if self.observer.is_cancelled() {
                continue;
            }
            match self.file(&path, &node) {
                Ok(lacking) => {
                    shared.lacks(&path, lacking);
                    if node.links > 1 {
                        shared.links().insert((node.device_id, node.inode), path.clone());
                    }
                    let files = shared.files.fetch_add(1, Ordering::Relaxed) + 1;
                    let bytes = shared.bytes.fetch_add(node.size, Ordering::Relaxed) + node.size;
                    self.observer.progress(Progress { files, bytes, total_bytes: 0, item: path });
                }
                Err(error) => shared.report(&path, error),
            }
        }
    }

    /// Restores one file; returns what it lacks.
    ///
    /// # Errors
    /// If it is there already, or cannot be written, or its content not be read.
    pub fn file(&self, path: &Path, node: &Node) -> Result<Vec<Lacking>> {
        let chunks = node.content.clone().unwrap_or_default();
        let (file, _) = self.staged(path, &chunks)?;
        let lacking = if self.content_only { Vec::new() } else { set_metadata(file.path(), node) };
        put_in_place(file, path)?;
        Ok(lacking)
    }

    /// Writes content beside `path` under a name of its own, and returns its SHA-256.
    ///
    /// # Errors
    /// If it cannot be written, or its content not be read.
    pub fn staged(&self, path: &Path, chunks: &[Id]) -> Result<(tempfile::NamedTempFile, Id)> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let file = tempfile::Builder::new()
            .prefix(".pc-switcher-restore-")
            .permissions(fs::Permissions::from_mode(if self.content_only { 0o666 } else { 0o600 }))
            .tempfile_in(directory)
            .map_err(|error| at("write below", directory, &error))?;
        let mut whole = Sha256::new();
        let (mut length, mut blob, mut last) = (0, Vec::new(), None);
        for id in chunks {
            check_cancelled(self.observer)?;
            // A hole is the same again and again.
            if last != Some(*id) {
                blob = self.repo.blob(BlobKind::Data, *id)?;
                last = Some(*id);
            }
            whole.update(&blob);
            write_or_skip(file.as_file(), length, &blob).map_err(|error| at("write", path, &error))?;
            length += blob.len() as u64;
        }
        file.as_file().set_len(length).map_err(|error| at("write", path, &error))?;
        Ok((file, Id(whole.finalize().into())))
    }

    fn link(&self, later: &Later, shared: &Shared) {
        for (path, node) in &later.links {
            let first = shared.links().get(&(node.device_id, node.inode)).cloned();
            let linked = match first {
                Some(first) => fs::hard_link(&first, path),
                None => Err(io::Error::other("the file that it is a further name of could not be restored")),
            };
            match linked {
                Ok(()) => {
                    shared.files.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => shared.report(path, error),
            }
        }
    }

    fn dress(&self, path: &Path, node: &Node, shared: &Shared) {
        if !self.content_only {
            shared.lacks(path, set_metadata(path, node));
        }
    }
}

/// Gives a complete file its name, durably.
///
/// # Errors
/// If something is there.
pub(crate) fn put_in_place(file: tempfile::NamedTempFile, path: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(|error| at("write", path, &error))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(ModuleError::failed(format!("`{}` exists already", path.display()))
                .hint("move it away, or restore to another directory with --to"))
        }
        Err(error) => Err(at("write", path, &error.error)),
    }
}

/// Leaves holes where there is nothing but zeros: chunks begin and end anywhere, blocks of disks do not.
fn write_or_skip(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    if is_zeros(bytes) {
        return Ok(());
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
    file.write_all_at(&bytes[from..to], at + from as u64)
}

pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        // One that is there is used, but never one behind a link.
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path)?.is_dir() =>
        {
            Ok(())
        }
        made => made,
    }
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

/// Whether a name is that of a file that a restore left unfinished.
pub(crate) fn is_unfinished(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".pc-switcher-restore-")
}
