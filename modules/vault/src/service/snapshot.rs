//! The end of a backup: a snapshot of all that is tracked, with nothing in it that the vault does not hold.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::backup::PAGE;
use super::forget;
use super::stage::decode_xattrs;
use super::target::Target;
use super::{BackupReport, Service, Surroundings};
use crate::catalogue::{Chunk, CurrentFile, Directory, Version};
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
            let lost = self.snapshot(target, &directories, paths, parent.map(|(id, _)| id))?;
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

    fn snapshot(
        &self,
        target: &mut Target,
        directories: &[Directory],
        paths: Vec<String>,
        parent: Option<Id>,
    ) -> Result<Lost> {
        let Surroundings { who, clock, .. } = &self.around;
        target.repo.load_index()?;
        let lost = RefCell::new(Lost::new());
        let writer = Writer::new(&target.repo)?;
        let mut packer = writer.packer(BlobKind::Tree)?;
        let mut assembler = Assembler::new(&mut packer);
        let (vault, repo) = (&target.settings.name, &target.repo);
        let entries = directories.iter().flat_map(|directory| self.entries(directory, vault, repo, &lost));
        feed(&mut assembler, entries, |path| bare_directory(&self.view.real(path), &self.names))?;
        let tree = assembler.finish()?;
        packer.flush()?;
        let stored = writer.index()?;
        target.report.stored.blobs += stored.blobs;
        target.report.stored.bytes += stored.bytes;
        let snapshot = Snapshot {
            time: clock().to_string(),
            parent,
            tree,
            paths,
            hostname: who.hostname.clone(),
            username: who.username.clone(),
            uid: who.uid,
            gid: who.gid,
            tags: forget::tags(&self.host_id),
            original: None,
            program_version: format!("pc-switcher {}", env!("CARGO_PKG_VERSION")),
        };
        // Without the lock somebody may have removed what is in it.
        target.lock.prove()?;
        target.report.snapshot = Some(target.repo.save(Kind::Snapshot, &snapshot)?);
        Ok(lost.into_inner())
    }

    /// Returns the current versions of a directory that a vault holds, as entries of trees, a page at a time.
    fn entries<'s>(
        &'s self,
        directory: &'s Directory,
        vault: &'s str,
        repo: &'s Repository,
        lost: &'s RefCell<Lost>,
    ) -> impl Iterator<Item = Result<(PathBuf, Node)>> + 's {
        let mut after: Option<PathBuf> = None;
        let pages = std::iter::from_fn(move || {
            let page = self.catalogue.current_files(directory, Path::new(""), after.as_deref(), PAGE);
            match page {
                Ok(page) => {
                    after = Some(page.last()?.name.clone());
                    Some(Ok(page))
                }
                Err(error) => Some(Err(error)),
            }
        });
        let entry = move |file: CurrentFile| -> Option<Result<(PathBuf, Node)>> {
            if file.deleted {
                return None;
            }
            let path = directory.path.join(&file.name);
            match self.catalogue.chunks(vault, file.version.content_id).transpose()? {
                Ok(chunks)
                    if chunks.iter().any(|chunk| repo.find(BlobKind::Data, &chunk.blob_id).is_none()) =>
                {
                    lost.borrow_mut().push((path, file.version.content_id));
                    None
                }
                Ok(chunks) => Some(Ok((path, node_of_version(&file, &chunks, &self.names)))),
                Err(error) => Some(Err(error)),
            }
        };
        pages.flat_map(move |page| match page {
            Ok(page) => page.into_iter().filter_map(&entry).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
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
