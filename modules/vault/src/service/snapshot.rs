//! The end of a backup: a snapshot of all that is tracked, with nothing in it that the vault does not hold.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crossbeam_channel::bounded;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::backup::PAGE;
use super::forget;
use super::stage::decode_xattrs;
use super::target::Target;
use super::track::AddReport;
use super::{BackupReport, Service, Surroundings};
use crate::catalogue::{Catalogue, Chunk, CurrentFile, Directory, KnownTree, Version};
use crate::engine::{Assembler, Names, bare_directory, feed};
use crate::error::Result;
use crate::format::node::{go_mode, timestamp};
use crate::format::{BlobKind, Id, Node, NodeKind, Snapshot};
use crate::repo::{Repository, Writer};
use crate::store::Kind;

/// What a vault held and does not hold any more.
type Lost = Vec<(PathBuf, Id)>;

impl Service {
    /// Writes a snapshot of the current versions of all that is tracked, if something changed since the vault's last one, or it has none.
    /// Says what the vault lacks.
    pub(super) fn end_with_snapshot(&mut self, target: &mut Target, report: &mut BackupReport) -> Result<()> {
        let directories = self.catalogue.directories()?;
        let paths: Vec<String> =
            directories.iter().map(|directory| directory.path.display().to_string()).collect();
        let hostname = &self.around.who.hostname;
        // A damaged one keeps no other from being written.
        let (snapshots, broken) = target.repo.snapshots_found()?;
        report.warnings.extend(broken.iter().map(|one| {
            let vault = &target.settings.name;
            format!(
                "the snapshot `{}` in the vault `{vault}` is damaged; `bt repair` says what can be done",
                one.name
            )
        }));
        let parent =
            snapshots.into_iter().rev().find(|(_, old)| old.hostname == *hostname && old.paths == paths);
        let vault = target.settings.name.clone();
        let is_due = parent.is_none() || self.catalogue.is_snapshot_due(&vault)?;
        if is_due && !directories.is_empty() {
            self.catalogue.forget_stale_trees()?;
            target.repo.load_index()?;
            // What is in a tree is not looked for again as long as all that named it is there.
            if !self.catalogue.indexes_of_trees(&vault)?.is_subset(&target.repo.indexes_read()) {
                self.catalogue.forget_trees(&vault)?;
            }
            let parent = parent.map(|(id, _)| id);
            // What could not be added or stored is not in it, or not as it is now.
            let is_partial = !report.troubles.is_empty() || self.misses_an_add()?;
            let Made { lost, trees } = self
                .catalogue
                .at_once(|| self.snapshot(target, &directories, paths, (parent, is_partial)))?;
            self.catalogue.keep_trees(&vault, &trees, &target.repo.indexes_read())?;
            for (path, content) in lost {
                self.catalogue.forget_location(&vault, content)?;
                let path = path.display();
                report
                    .warnings
                    .push(format!("the vault `{vault}` lost `{path}`; its snapshot is without it"));
            }
            self.catalogue.note_snapshot(&vault)?;
        }
        let lacking = self.catalogue.count_lacking(&vault)?;
        if lacking > 0 {
            report.incomplete = true;
            report.warnings.push(format!(
                "the vault `{vault}` lacks the current versions of {lacking} files; `bt add` in their directories \
                 and `bt backup` store them there"
            ));
        }
        Ok(())
    }

    /// Whether something could not be added that is still to be: nothing was added since that has it, and it is there. However often what was
    /// added beside it was backed up, and whichever vault comes later, their snapshots are without it.
    fn misses_an_add(&self) -> Result<bool> {
        for path in self.catalogue.failed_adds(AddReport::TOLD)? {
            let path = Path::new(&path);
            if self.catalogue.search_directory_for_path(path)?.is_some()
                && std::fs::symlink_metadata(self.view.real(path)).is_ok()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn snapshot<'d>(
        &self,
        target: &mut Target,
        directories: &'d [Directory],
        paths: Vec<String>,
        (parent, is_partial): (Option<Id>, bool),
    ) -> Result<Made<'d>> {
        let Surroundings { who, clock, .. } = &self.around;
        let missing = Missing::default();
        let (vault, repo) = (&target.settings.name, &target.repo);
        let writer = Writer::new(repo)?;
        // One thread asks the catalogue, the other one puts trees together.
        let (send, entries) = bounded::<Vec<Result<(PathBuf, Node)>>>(AHEAD);
        let (view, names) = (&self.view, &self.names);
        let assembled = std::thread::scope(|scope| {
            let assembling = scope.spawn(move || -> Result<_> {
                let mut packer = writer.packer(BlobKind::Tree)?;
                let mut assembler = Assembler::new(&mut packer);
                let entries = entries.into_iter().flatten();
                feed(&mut assembler, entries, |path| bare_directory(&view.real(path), names))?;
                let (tree, trees) = assembler.finish()?;
                packer.flush()?;
                Ok((tree, trees, writer.index()?))
            });
            let mut found =
                directories.iter().flat_map(|directory| Entries::new(self, directory, vault, repo, &missing));
            loop {
                let mut some = Vec::with_capacity(TOGETHER);
                // After what cannot be had nothing more is asked for.
                while some.len() < TOGETHER
                    && some.last().is_none_or(Result::is_ok)
                    && let Some(entry) = found.next()
                {
                    some.push(entry);
                }
                let is_last = some.last().is_none_or(Result::is_err);
                // Nobody takes them any more if it failed, which it says itself.
                if send.send(some).is_err() || is_last {
                    break;
                }
            }
            drop(send);
            assembling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let (tree, stored_trees, stored) = assembled?;
        target.report.stored.blobs += stored.blobs;
        target.report.stored.bytes += stored.bytes;
        let mut tags = forget::tags(&self.host_id);
        if is_partial || !missing.parts.borrow().is_empty() {
            tags.push(forget::PARTIAL.into());
        }
        let snapshot = Snapshot {
            time: clock().to_string(),
            parent,
            tree,
            paths,
            hostname: who.hostname.clone(),
            username: who.username.clone(),
            uid: who.uid,
            gid: who.gid,
            tags,
            original: None,
            program_version: format!("pc-switcher {}", env!("CARGO_PKG_VERSION")),
        };
        // Without the lock somebody may have removed what is in it.
        target.lock.prove()?;
        target.report.snapshot = Some(target.repo.save(Kind::Snapshot, &snapshot)?);
        let Missing { lost, parts } = missing;
        let parts = parts.into_inner();
        let known = |(path, tree): (PathBuf, Id)| {
            let directory = directories.iter().find(|directory| path.starts_with(&directory.path))?;
            let name = path.strip_prefix(&directory.path).ok()?.to_owned();
            (!parts.contains(&path)).then_some(KnownTree { directory, name, tree })
        };
        let trees = stored_trees.into_iter().filter_map(known).collect();
        Ok(Made { lost: lost.into_inner(), trees })
    }
}

/// What came of a snapshot.
struct Made<'d> {
    lost: Lost,
    /// Of directories of which it has all.
    trees: Vec<KnownTree<'d>>,
}

/// What a snapshot is without.
#[derive(Default)]
struct Missing {
    lost: RefCell<Lost>,
    /// The directories of which it has not all, therefore.
    parts: RefCell<HashSet<PathBuf>>,
}

impl Missing {
    fn note(&self, path: &Path) {
        let mut parts = self.parts.borrow_mut();
        for directory in path.ancestors().skip(1) {
            if !parts.insert(directory.to_owned()) {
                break;
            }
        }
    }
}

/// The current versions of a directory that a vault holds, as entries of trees, a page at a time. Directories in which nothing changed
/// come with the tree that the last snapshot has of them, without what is in them.
struct Entries<'s> {
    service: &'s Service,
    directory: &'s Directory,
    vault: &'s str,
    repo: &'s Repository,
    missing: &'s Missing,
    page: std::vec::IntoIter<CurrentFile>,
    /// Where the next page begins.
    from: Vec<u8>,
    most: usize,
    /// The directory whose tree was taken last: what is in it is passed over.
    taken: Option<PathBuf>,
    /// Whether the tree of all of it has not been asked for yet.
    is_fresh: bool,
}

/// Entries that go from one thread to the other together, and how often so many wait there.
const TOGETHER: usize = 256;
const AHEAD: usize = 4;
/// Rows of a page after one at the end of which only what is passed over came.
const FEW: usize = 64;

impl<'s> Entries<'s> {
    fn new(
        service: &'s Service,
        directory: &'s Directory,
        vault: &'s str,
        repo: &'s Repository,
        missing: &'s Missing,
    ) -> Self {
        let page = Vec::new().into_iter();
        let (from, taken) = (Vec::new(), None);
        Self { service, directory, vault, repo, missing, page, from, most: FEW, taken, is_fresh: true }
    }

    /// Returns the tree of a directory in which nothing changed, if the vault has it.
    fn tree(&self, name: &Path) -> Result<Option<Id>> {
        let tree = self.service.catalogue.tree(self.vault, self.directory, name)?;
        Ok(tree.filter(|tree| self.repo.find(BlobKind::Tree, tree).is_some()))
    }

    fn advance(&mut self) -> Result<Option<(PathBuf, Node)>> {
        if std::mem::take(&mut self.is_fresh)
            && let Some(name) = self.directory.path.file_name()
            && let Some(tree) = self.tree(Path::new(""))?
        {
            let path = self.directory.path.clone();
            let mut node = bare_directory(&self.service.view.real(&path), &self.service.names);
            node.name = name.to_owned();
            node.subtree = Some(tree);
            // Nothing comes after it: no name is so long.
            self.from = vec![0xff; 257];
            return Ok(Some((path, node)));
        }
        loop {
            let Some(file) = self.page.next() else {
                if let Some(taken) = &self.taken {
                    (self.from, self.most) = (Catalogue::place(taken), FEW);
                    self.from.push(1);
                }
                let page = self.service.catalogue.present_from(self.directory, &self.from, self.most)?;
                let Some(last) = page.last() else { return Ok(None) };
                self.from = Catalogue::place(&last.name);
                self.from.push(0);
                self.most = (self.most * 4).min(PAGE);
                self.page = page.into_iter();
                continue;
            };
            if self.taken.as_ref().is_some_and(|taken| file.name.starts_with(taken)) {
                continue;
            }
            self.taken = None;
            let path = self.directory.path.join(&file.name);
            let content = file.version.content_id;
            let Some(chunks) = self.service.catalogue.chunks_of(self.vault, file.version.content)? else {
                self.missing.note(&path);
                continue;
            };
            if chunks.iter().any(|chunk| self.repo.find(BlobKind::Data, &chunk.blob_id).is_none()) {
                self.missing.note(&path);
                self.missing.lost.borrow_mut().push((path, content));
                continue;
            }
            let mut node = node_of_version(&file, &chunks, &self.service.names);
            if node.kind == NodeKind::Dir
                && let Some(tree) = self.tree(&file.name)?
            {
                node.subtree = Some(tree);
                self.taken = Some(file.name);
            }
            return Ok(Some((path, node)));
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(PathBuf, Node)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Returns a version as an entry of a tree.
pub(super) fn node_of_version(file: &CurrentFile, chunks: &[Chunk], names: &Names) -> Node {
    let name = file.name.file_name().unwrap_or_default().to_owned();
    let facts = &file.version.facts;
    let mut node = Node::new(name, facts.kind);
    node.mode = go_mode(facts.kind, facts.permissions);
    node.mtime = time(facts.modified_at);
    node.atime = time(facts.accessed_at);
    node.ctime = time(facts.changed_at);
    (node.uid, node.gid) = (facts.uid, facts.gid);
    (node.user, node.group) = (names.user(facts.uid), names.group(facts.gid));
    (node.inode, node.links) = (facts.inode, facts.links.max(1));
    node.extended_attributes = decode_xattrs(&facts.xattrs);
    match facts.kind {
        NodeKind::File => {
            node.size = facts.size;
            node.content = Some(chunks.iter().map(|chunk| chunk.blob_id).collect());
            if facts.links > 1 {
                node.device_id = family(&file.version);
            }
        }
        NodeKind::Dir => node.links = 0,
        NodeKind::Symlink => node.set_target(&facts.target),
        _ => node.device = facts.device,
    }
    node
}

/// Returns a number that, with the inode's, is that of all names of one file and of no other one. The number of the file system
/// would not do: it is another one in each snapshot and after each start. Names that share their inode, their content and the
/// nanosecond of their last change are those of one file.
fn family(version: &Version) -> u64 {
    let digest =
        Sha256::new().chain_update(version.content_id.0).chain_update(version.facts.changed_at.to_le_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    u64::from_le_bytes(digest[..8].try_into().unwrap_or_default()).max(1)
}

fn time(nanoseconds: i64) -> Timestamp {
    timestamp(nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000))
}
