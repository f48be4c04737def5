//! What the parts of a machine hold, and whether that is the old tree, the new one, or on its way from one to the other.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pc_switcher_agent::proto::Moved;
use pc_switcher_contract::BytePath;
use pc_switcher_testkit::manifest::{Entry, Kind, ManifestOptions, TreeManifest};

use super::camera::End;

/// Our own directory at the root of a part.
pub const HOME: &str = ".pc-switcher";

/// The parts of a machine, without our own directories.
#[derive(Clone, PartialEq, Eq)]
pub struct Trees(Vec<TreeManifest>);

impl Trees {
    pub fn read(parts: impl Iterator<Item = PathBuf>) -> Trees {
        let read = |part| TreeManifest::read(part, &ManifestOptions::new().exclude(HOME)).unwrap();
        Trees(parts.map(read).collect())
    }

    /// Returns the paths that are not the same in `other`, each with its directory, below a machine's parts.
    pub fn differing(&self, other: &Trees, parts: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for ((ours, theirs), part) in self.0.iter().zip(&other.0).zip(parts) {
            for difference in ours.diff(theirs) {
                let path = part.join(Path::new(std::ffi::OsStr::from_bytes(difference.path())));
                paths.extend(path.parent().map(Path::to_owned));
                paths.push(path);
            }
        }
        paths.sort();
        paths.dedup();
        paths
    }

    /// Says in what these trees are not `expected`; nothing if they are.
    pub fn not(&self, expected: &Trees) -> Option<String> {
        let differences = self.0.iter().zip(&expected.0).flat_map(|(now, expected)| expected.diff(now));
        let brief = |text: String| text.chars().take(400).collect::<String>();
        let lines: Vec<String> = differences.map(|difference| brief(difference.to_string())).collect();
        (!lines.is_empty())
            .then(|| format!("{} paths: {}", lines.len(), lines[..lines.len().min(5)].join(", ")))
    }
}

/// The tree before a sync and the one it brings.
pub struct Change {
    pub old: Trees,
    pub new: Trees,
    /// What moves in each part.
    pub moved: Vec<Vec<Moved>>,
}

impl Change {
    /// Checks that each path is its old or its new version, and that what both have is there. Before a commit nothing new
    /// may be seen at all. `is_between` allows metadata that is being set, which takes several calls of the system. Where
    /// something moves from or to, any old or new version may be seen until the redo, and nothing at all.
    pub fn check_paths(&self, now: &Trees, end: End, is_between: bool) -> Result<(), String> {
        for (part, now) in now.0.iter().enumerate() {
            let [old, new] = [&self.old, &self.new].map(|trees| entries(&trees.0[part]));
            let now = entries(now);
            let known: Vec<&Kind> = old.values().chain(new.values()).map(|entry| &entry.kind).collect();
            let moves = |path: &[u8]| {
                let within = |top: &BytePath| BytePath::new(path).is_within(top);
                end != End::Old
                    && self.moved[part].iter().any(|moved| within(&moved.from) || within(&moved.to))
            };
            for (path, entry) in &now {
                let [was, will] = [old.get(path), new.get(path)].map(Option::<&&Entry>::copied);
                let is_old = was.is_some_and(|was| same(was, entry));
                let is_new = end != End::Old && will.is_some_and(|will| same(will, entry));
                let is_half =
                    is_between && matches!((was, will), (Some(was), Some(will)) if is_half(was, will, entry));
                let has_moved = || moves(path) && known.contains(&&entry.kind);
                if !is_old && !is_new && !is_half && !has_moved() {
                    let path = path.escape_ascii();
                    let [now, was, will] = [Some(*entry), was, will].map(brief);
                    return Err(format!("`{path}` is {now}, it was {was}, it will be {will}"));
                }
            }
            let stays = |path: &&&Vec<u8>| end == End::Old || new.contains_key(**path);
            let is_missing = |path: &&&Vec<u8>| !now.contains_key(**path) && !moves(path);
            if let Some(path) = old.keys().filter(stays).find(is_missing) {
                return Err(format!("`{}` is missing", path.escape_ascii()));
            }
        }
        Ok(())
    }

    /// Checks that the trees are wholly the old or the new ones.
    pub fn check_end(&self, now: &Trees, end: End) -> Result<End, String> {
        let is_old = || now.not(&self.old);
        let is_new = || now.not(&self.new);
        match end {
            End::Old => is_old().map_or(Ok(End::Old), |why| Err(format!("not the old tree: {why}"))),
            End::New => is_new().map_or(Ok(End::New), |why| Err(format!("not the new tree: {why}"))),
            End::Either if is_old().is_none() => Ok(End::Old),
            End::Either => {
                is_new().map_or(Ok(End::New), |why| Err(format!("neither the old nor the new tree: {why}")))
            }
        }
    }
}

fn brief(entry: Option<&Entry>) -> String {
    let Some(Entry { kind, mode, uid, gid, modified, attributes, .. }) = entry else {
        return "nothing".into();
    };
    let kind = match kind {
        Kind::File { bytes, digest } => format!("file of {bytes} bytes {}", &digest.to_hex()[..8]),
        other => format!("{other:?}"),
    };
    let names: Vec<String> = attributes.keys().map(|name| name.escape_ascii().to_string()).collect();
    format!("{kind} {mode:04o} {uid}:{gid} {}.{:09} {names:?}", modified.0, modified.1)
}

fn entries(tree: &TreeManifest) -> BTreeMap<&Vec<u8>, &Entry> {
    tree.entries().collect()
}

/// Whether a path is this version. The time of a directory moves with its entries, and which names are one inode is a matter
/// of several paths.
fn same(version: &Entry, now: &Entry) -> bool {
    let is_dir = now.kind == Kind::Directory;
    let owner = (version.uid, version.gid) == (now.uid, now.gid);
    let time = is_dir || version.modified == now.modified;
    version.kind == now.kind
        && version.mode == now.mode
        && owner
        && time
        && version.attributes == now.attributes
}

/// Whether a path has the content of both versions and metadata of either.
fn is_half(old: &Entry, new: &Entry, now: &Entry) -> bool {
    let attributes = now.attributes.iter().all(|(name, value)| {
        old.attributes.get(name) == Some(value) || new.attributes.get(name) == Some(value)
    });
    old.kind == new.kind
        && new.kind == now.kind
        && [old.uid, new.uid].contains(&now.uid)
        && [old.gid, new.gid].contains(&now.gid)
        // A new owner takes the set-id bits.
        && [old.mode, new.mode, old.mode & 0o1777, new.mode & 0o1777].contains(&now.mode)
        && attributes
}

/// Checks that nothing but the tree holds its inodes, and that nothing of ours is left but `may_stay`.
pub fn check_leaks(part: &Path, state: &Path, may_stay: Option<&str>) -> Result<(), String> {
    let mut names: BTreeMap<u64, (u64, u64, PathBuf)> = BTreeMap::new();
    let ours = part.join(HOME);
    for path in files(part).into_iter().filter(|path| !path.starts_with(&ours)) {
        let meta = fs::symlink_metadata(&path).unwrap();
        names.entry(meta.ino()).or_insert((meta.nlink(), 0, path)).1 += 1;
    }
    if let Some((links, seen, path)) = names.values().find(|(links, seen, _)| links != seen) {
        return Err(format!("`{}` has {links} names, {seen} of them in the tree", path.display()));
    }
    let left = fs::read_dir(&ours).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| may_stay.is_none_or(|stays| name != stays)).collect();
    if !left.is_empty() || (ours.exists() && may_stay.is_none()) {
        return Err(format!("`{}` holds {left:?}", ours.display()));
    }
    match files(state).first() {
        Some(file) => Err(format!("`{}` is left in the state", file.display())),
        None => Ok(()),
    }
}

/// Returns everything below a directory that is no directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap());
    let inside = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => files(&entry.path()),
        false => vec![entry.path()],
    };
    entries.flat_map(inside).collect()
}
