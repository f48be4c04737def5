//! Versions out of snapshots: what a catalogue would know if it had been there.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};
use sha2::{Digest, Sha256};

use super::forget;
use super::stage::encode_xattrs;
use crate::catalogue::{Arrived, Catalogue, Chunk, CurrentFile, Directory, FileFacts, StagedItem};
use crate::engine::{Observer, Progress, Trouble};
use crate::error::Result;
use crate::format::{BlobKind, Id, Node, NodeKind, Tree};
use crate::repo::{Broken, Repository};

/// What encryption adds to a blob: a nonce before it and a proof after it.
const SEAL: u32 = 32;

/// A vault of which snapshots are told.
pub(super) struct Teller<'r> {
    pub(super) vault: &'r str,
    pub(super) repo: &'r Repository,
}

/// What the snapshots told beside versions.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What could not be read.
    pub(super) troubles: Vec<Trouble>,
    /// Snapshots that are no part of what the catalogue knows of, and older than that.
    pub(super) skipped: Vec<String>,
}

/// Records what the snapshots of a machine hold that the catalogue does not know yet, in the order of their times, whichever vault they
/// lie in, as far as the newest one has their directory.
///
/// # Errors
/// If the catalogue fails, a vault cannot be read, or the run was cancelled: only what is damaged is left out.
pub(super) fn snapshots(
    catalogue: &mut Catalogue,
    tellers: &[Teller<'_>],
    host: &str,
    observer: &dyn Observer,
) -> Result<Told> {
    let (mut told, mut all) = (Told::default(), Vec::new());
    for (number, Teller { vault, repo }) in tellers.iter().enumerate() {
        // What is damaged keeps nothing else from being told.
        let (index, mut broken) = repo.index_found()?;
        repo.know(index.iter().flat_map(|(_, file)| &file.packs));
        let (found, lost) = repo.snapshots_found()?;
        broken.extend(lost);
        told.troubles.extend(broken.into_iter().map(|one: Broken| Trouble {
            path: one.name.into(),
            why: format!("in the vault `{vault}` {}; `bt repair` says what can be done", one.why),
        }));
        let of_host = found.into_iter().filter(|(_, snapshot)| forget::is_of(snapshot, host));
        all.extend(of_host.map(|(id, snapshot)| (time(&snapshot.time), number, id, snapshot)));
    }
    all.sort_by_key(|(at, number, id, _)| (*at, *number, *id));
    let Some((last, _, _, newest)) = all.last().cloned() else { return Ok(told) };
    let known = catalogue.newest_version()?;
    // A path that is no text cannot be told from its snapshot.
    let forgotten = catalogue.forgettings()?;
    for path in newest.paths.iter().filter(|path| !path.contains(char::REPLACEMENT_CHARACTER)) {
        // Whoever forgot it has its versions, which may have been the newest ones, forgotten as well.
        let is_forgotten = forgotten.iter().any(|(_, text, at)| text == path && *at > last);
        if !is_forgotten && known.is_none_or(|known| last > known) {
            catalogue.create_directory(Path::new(path), last)?;
        }
    }
    let is_known = catalogue.knows_moments()?;
    let Some(Teller { vault, repo }) = tellers.first() else { return Ok(told) };
    let mut replay = Replay {
        catalogue,
        repo,
        vault,
        observer,
        sums: HashMap::new(),
        told: 0,
        total_bytes: 0,
        troubles: Vec::new(),
    };
    let mut before: HashMap<(usize, i64), Option<Id>> = HashMap::new();
    for (at, number, id, snapshot) in all {
        (replay.vault, replay.repo) = (tellers[number].vault, tellers[number].repo);
        if known.is_some_and(|known| at <= known) {
            if !is_known(at) {
                told.skipped.push(format!(
                    "`{}` of {} in the vault `{}`",
                    id.short(),
                    snapshot.time,
                    replay.vault
                ));
            }
            continue;
        }
        let is_partial = forget::is_partial(&snapshot);
        for directory in replay.catalogue.directories()? {
            // Before it was tracked nothing is known of it.
            if !snapshot
                .paths
                .iter()
                .any(|path| directory.path.starts_with(path) || Path::new(path).starts_with(&directory.path))
            {
                continue;
            }
            let key = (number, directory.id);
            let then = before.get(&key).copied();
            let found = match replay.tree_at(snapshot.tree, &directory.path)? {
                Ok(tree) => replay.directory(&directory, then, tree, (at, is_partial))?.map(|()| tree),
                Err(why) => Err(why),
            };
            match found {
                // What it is without may be gone or not: the next one says it of all that is known.
                Ok(_) if is_partial => drop(before.remove(&key)),
                Ok(tree) => drop(before.insert(key, tree)),
                // What is lost is not gone: the next one tells.
                Err(why) => replay.troubles.push(Trouble {
                    path: directory.path.clone(),
                    why: format!("as it was at {}: {why}; `bt repair` says what can be done", snapshot.time),
                }),
            }
        }
    }
    told.troubles.extend(replay.troubles);
    Ok(told)
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_default()
}

struct Replay<'r> {
    catalogue: &'r mut Catalogue,
    repo: &'r Repository,
    vault: &'r str,
    observer: &'r dyn Observer,
    /// The checksums of contents of several chunks.
    sums: HashMap<Vec<Id>, Id>,
    /// Bytes of the files that were told so far, and of those that are known to come.
    told: u64,
    total_bytes: u64,
    troubles: Vec<Trouble>,
}

/// What differs between two trees.
#[derive(Default)]
struct Changes {
    files: Vec<(PathBuf, Node)>,
    gone: Vec<PathBuf>,
}

/// What was found, or why it is lost.
type Found<T> = std::result::Result<T, String>;

impl Replay<'_> {
    /// Goes down to a directory; `None` if there is none.
    fn tree_at(&self, root: Id, path: &Path) -> Result<Found<Option<Id>>> {
        let mut at = root;
        for part in path.iter().skip(1) {
            let tree = match self.repo.tree_found(at)? {
                Ok(tree) => tree,
                Err(why) => return Ok(Err(why)),
            };
            match tree.find(part).and_then(|node| node.subtree) {
                Some(subtree) => at = subtree,
                None => return Ok(Ok(None)),
            }
        }
        Ok(Ok(Some(at)))
    }

    /// Records what came and went in a directory. `then` is none for the first snapshot that is looked at, and for the one after one that is
    /// without something: of such a one only what came is recorded.
    fn directory(
        &mut self,
        directory: &Directory,
        then: Option<Option<Id>>,
        now: Option<Id>,
        (at, is_partial): (Timestamp, bool),
    ) -> Result<Found<()>> {
        let (mut then, mut changes) = (then, Changes::default());
        if let Err(why) = self.compare(then.flatten(), now, Path::new(""), &mut changes)? {
            if then.is_none() {
                return Ok(Err(why));
            }
            // What the one before lost says nothing of this one.
            (then, changes) = (None, Changes::default());
            if let Err(why) = self.compare(None, now, Path::new(""), &mut changes)? {
                return Ok(Err(why));
            }
        }
        let current = |catalogue: &Catalogue, name: &Path| {
            catalogue.current_files(directory, name, None, usize::MAX >> 1)
        };
        let mut gone: Vec<CurrentFile> = Vec::new();
        match then {
            _ if is_partial => {}
            Some(_) => {
                for name in &changes.gone {
                    gone.extend(current(self.catalogue, name)?);
                }
            }
            None => {
                let there: HashSet<&Path> = changes.files.iter().map(|(name, _)| name.as_path()).collect();
                gone = current(self.catalogue, Path::new(""))?;
                gone.retain(|file| !there.contains(file.name.as_path()));
            }
        }
        let mut held = Vec::new();
        for file in gone {
            if self.holds(&file)? {
                held.push(file);
            }
        }
        let mut arrived = Vec::new();
        // What is read for its checksum, if nothing else tells it.
        self.total_bytes += changes.files.iter().map(|(_, node)| node.size).sum::<u64>();
        for (name, node) in changes.files {
            let done = self.told + node.size;
            if self.observer.is_cancelled() {
                return Err(ModuleError::cancelled());
            }
            match self.arrived(directory, &name, &node) {
                Ok(one) => arrived.push(one),
                // What cannot be fetched now is not lost: without it the catalogue would be a part of what there is.
                Err(error) if error.kind != ErrorKind::Failed => return Err(error),
                Err(error) => {
                    self.troubles.push(Trouble { path: directory.path.join(name), why: error.to_string() })
                }
            }
            self.told = done;
        }
        self.catalogue.record(&arrived, at)?;
        let gone: Vec<(i64, bool)> = held.into_iter().map(|file| (file.file_id, true)).collect();
        self.catalogue.set_deleted(&gone, at)?;
        Ok(Ok(()))
    }

    /// Whether the vault has what a file has now. A snapshot is also without what its vault does not hold, and then says nothing of
    /// the file.
    fn holds(&self, file: &CurrentFile) -> Result<bool> {
        let chunks = self.catalogue.chunks(self.vault, file.version.content_id)?;
        let is_there = |chunk: &Chunk| self.repo.find(BlobKind::Data, &chunk.blob_id).is_some();
        Ok(chunks.is_some_and(|chunks| chunks.iter().all(is_there)))
    }

    fn compare(
        &self,
        then: Option<Id>,
        now: Option<Id>,
        below: &Path,
        changes: &mut Changes,
    ) -> Result<Found<()>> {
        if then == now {
            return Ok(Ok(()));
        }
        let nodes = |tree: Option<Id>| {
            let tree = tree.map_or_else(|| Ok(Ok(Tree::default())), |tree| self.repo.tree_found(tree))?;
            Ok::<_, ModuleError>(tree.map(|tree| tree.nodes))
        };
        let (then, now) = match (nodes(then)?, nodes(now)?) {
            (Ok(then), Ok(now)) => (then, now),
            (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
        };
        let mut before: HashMap<_, _> = then.iter().map(|node| (node.name.as_os_str(), node)).collect();
        for node in now {
            let name = below.join(&node.name);
            let old = before.remove(node.name.as_os_str()).filter(|old| old.kind == node.kind);
            match node.kind {
                NodeKind::Dir => {
                    let then = old.and_then(|old| old.subtree);
                    if let Err(why) = self.compare(then, node.subtree, &name, changes)? {
                        return Ok(Err(why));
                    }
                    let own = |node: &Node| Node { subtree: None, ..node.clone() };
                    if old.map(own) != Some(own(&node)) {
                        changes.files.push((name, node));
                    }
                }
                // Nobody asks for a socket back.
                NodeKind::Socket | NodeKind::Unknown => {}
                _ if old != Some(&node) => changes.files.push((name, node)),
                _ => {}
            }
        }
        changes.gone.extend(before.into_keys().map(|name| below.join(name)));
        Ok(Ok(()))
    }

    /// Makes of an entry what a backup would have recorded.
    fn arrived(&mut self, directory: &Directory, name: &Path, node: &Node) -> Result<Arrived> {
        let ids = node.content.clone().unwrap_or_default();
        let content = self.sum(directory, name, &ids)?;
        let chunk = |id: &Id| {
            let at = self.repo.find(BlobKind::Data, id);
            let size = at.map_or(0, |at| at.uncompressed_length.unwrap_or(at.length.saturating_sub(SEAL)));
            Chunk { blob_id: *id, size }
        };
        let stored = vec![(self.vault.to_owned(), ids.iter().map(chunk).collect())];
        let facts = facts_of_node(node);
        let item = StagedItem {
            seq: -1,
            directory_id: directory.id,
            name: name.to_owned(),
            content_id: None,
            facts,
        };
        Ok(Arrived { item, content, stored })
    }

    /// Returns the checksum of a content: that of its only chunk, one that is known already, or one that is read.
    fn sum(&mut self, directory: &Directory, name: &Path, ids: &[Id]) -> Result<Id> {
        match ids {
            [] => return Ok(Id::of(b"")),
            [only] => return Ok(*only),
            _ => {}
        }
        if let Some(known) = self.sums.get(ids) {
            return Ok(*known);
        }
        let file = self.catalogue.find_file_by_path(directory, name)?;
        let versions = file.map(|file| self.catalogue.find_file_snapshots_for_file(&file)).transpose()?;
        for version in versions.unwrap_or_default() {
            let chunks = self.catalogue.chunks(self.vault, version.content_id)?.unwrap_or_default();
            if chunks.iter().map(|chunk| &chunk.blob_id).eq(ids) {
                return Ok(version.content_id);
            }
        }
        let mut whole = Sha256::new();
        for id in ids {
            let bytes = self.repo.blob(BlobKind::Data, *id)?;
            self.told += bytes.len() as u64;
            whole.update(&bytes);
            self.observer.progress(Progress {
                files: 0,
                bytes: self.told,
                total_bytes: self.total_bytes,
                item: name.to_owned(),
            });
        }
        let sum = Id(whole.finalize().into());
        self.sums.insert(ids.to_vec(), sum);
        Ok(sum)
    }
}

/// Returns what a snapshot says of a file, as the catalogue keeps it.
fn facts_of_node(node: &Node) -> FileFacts {
    let nanoseconds = |at: Timestamp| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX);
    FileFacts {
        kind: node.kind,
        size: if node.kind == NodeKind::File { node.size } else { 0 },
        permissions: node.permissions(),
        uid: node.uid,
        gid: node.gid,
        inode: node.inode,
        accessed_at: nanoseconds(node.atime),
        modified_at: nanoseconds(node.mtime),
        changed_at: nanoseconds(node.ctime),
        born_at: None,
        xattrs: encode_xattrs(&node.extended_attributes),
        target: match node.kind {
            NodeKind::Symlink => node.target().into_encoded_bytes(),
            _ => Vec::new(),
        },
        device: node.device,
        links: if node.kind == NodeKind::File { node.links.max(1) } else { 1 },
    }
}
