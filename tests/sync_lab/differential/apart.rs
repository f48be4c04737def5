//! What a sync leaves alone by decision, path by path: all else must be the same on both machines. `docs/faults.md` lists it.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use pc_switcher_testkit::manifest::ManifestOptions;

use super::{
    SKIPPED,
    changes::remove,
    pick::paths,
    subvolumes::{is_read_only, is_stub, is_subvolume, set_read_only},
};

/// Why a path is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Made anew by whoever needs it.
    SocketOrDevice,
    /// Where a subvolume lay inside of one that was snapshotted there is nothing to be written.
    Stub,
    /// Nothing could be written into it on the other machine (ADR 11).
    ReadOnly,
    /// No rule can say its name, which is no text or has a line break, and only one machine has a subvolume there (ADR 11).
    NoText,
    /// What a link leads to is another path's (ADR 11).
    BehindLink,
    /// A rule of this round says so.
    Rule,
    /// The last sync did not hold this subvolume, since a rule left it out, so it is nobody's to delete (ADR 11).
    NotHeld,
}

/// Paths below the tree that are left alone, with all below them.
#[derive(Clone, Debug, Default)]
pub struct Apart(pub BTreeMap<PathBuf, Why>);

impl Apart {
    /// Looks what a sync from one tree to another has to leave alone.
    pub fn find(ours: &Path, theirs: &Path) -> Self {
        let mut found = BTreeMap::new();
        for path in paths(ours).into_iter().filter(|path| !is_skipped(path)) {
            let here = ours.join(&path);
            let kind = here.symlink_metadata().unwrap().file_type();
            let why = if kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
                Some(Why::SocketOrDevice)
            } else if is_stub(&here) {
                Some(Why::Stub)
            } else if is_subvolume(&here) && is_read_only(&here) {
                Some(Why::ReadOnly)
            } else if is_subvolume(&here) {
                match on_the_way(theirs, &path) {
                    OnTheWay::Behind => Some(Why::BehindLink),
                    OnTheWay::There(meta) if meta.is_dir() && !is_subvolume(&theirs.join(&path)) => {
                        no_text(&path)
                    }
                    _ => None,
                }
            } else {
                None
            };
            found.extend(why.map(|why| (path, why)));
        }
        for path in subvolumes_in(theirs) {
            let why = match on_the_way(ours, &path) {
                OnTheWay::Behind => Some(Why::BehindLink),
                OnTheWay::There(meta) if meta.is_dir() && !is_subvolume(&ours.join(&path)) => no_text(&path),
                _ => None,
            };
            found.extend(why.map(|why| (path, why)));
        }
        Self(found)
    }

    /// Returns what stays where the source has nothing, of paths that a rule or a closed subvolume kept out of the last sync.
    pub fn not_held(&self, ours: &Path, theirs: &Path) -> Self {
        let kept_out = |path: &PathBuf| {
            path.ancestors().any(|path| matches!(self.0.get(path), Some(Why::Rule | Why::ReadOnly)))
        };
        let left = subvolumes_in(theirs).into_iter().filter(kept_out);
        let is_gone =
            |path: &PathBuf| !matches!(on_the_way(ours, path), OnTheWay::There(meta) if meta.is_dir());
        Self(left.filter(is_gone).map(|path| (path, Why::NotHeld)).collect())
    }

    /// Returns the subvolumes of these that still stand there.
    pub fn standing(&self, theirs: &Path) -> Self {
        let stands = |(path, _): &(&PathBuf, &Why)| {
            matches!(on_the_way(theirs, path), OnTheWay::There(_)) && is_subvolume(&theirs.join(path))
        };
        Self(self.0.iter().filter(stands).map(|(path, why)| (path.clone(), *why)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn holds(&self, path: &Path) -> bool {
        path.ancestors().any(|path| self.0.contains_key(path))
    }

    /// Returns what a manifest leaves out.
    pub fn options(&self) -> ManifestOptions {
        let own = self.clone();
        ManifestOptions::new().exclude_if(move |path| is_skipped(path) || own.holds(path))
    }

    /// Returns what rsync reads from a file of patterns that end with NUL.
    pub fn patterns(&self) -> Vec<u8> {
        let mut patterns = format!("{SKIPPED}*\0").into_bytes();
        for path in self.0.keys() {
            let bytes = path.as_os_str().as_encoded_bytes();
            let has_wild = bytes.iter().any(|byte| b"*?[".contains(byte));
            patterns.push(b'/');
            for byte in bytes {
                if has_wild && b"*?[\\".contains(byte) {
                    patterns.push(b'\\');
                }
                patterns.push(*byte);
            }
            patterns.push(0);
        }
        patterns
    }

    /// Takes away why anything was left alone, on the source, and on the target what no sync can.
    pub fn settle(&self, ours: &Path, theirs: &Path) {
        for path in paths(ours).into_iter().map(|path| ours.join(path)) {
            if is_subvolume(&path) && is_read_only(&path) {
                set_read_only(&path, false).unwrap();
            }
        }
        for (path, why) in &self.0 {
            let trees: &[&Path] = match why {
                Why::SocketOrDevice | Why::Stub => &[ours],
                Why::NotHeld => &[theirs],
                Why::NoText | Why::BehindLink => &[ours, theirs],
                Why::ReadOnly | Why::Rule => &[],
            };
            // It may have gone with another one around it.
            let there = trees.iter().filter(|tree| matches!(on_the_way(tree, path), OnTheWay::There(_)));
            there.for_each(|tree| remove(&tree.join(path)).unwrap());
        }
        let is_top = |path: &&PathBuf| is_skipped(path) && !path.parent().is_some_and(is_skipped);
        for path in paths(ours).iter().filter(is_top) {
            // On a target they would hold the directories that go; and to lose a name changes a file of several.
            remove(&ours.join(path)).unwrap();
        }
    }
}

enum OnTheWay {
    There(Metadata),
    Missing,
    /// There is something, but a link leads to it.
    Behind,
}

fn on_the_way(tree: &Path, path: &Path) -> OnTheWay {
    let is_behind = path.ancestors().skip(1).any(|above| tree.join(above).is_symlink());
    match fs::symlink_metadata(tree.join(path)) {
        Ok(_) if is_behind => OnTheWay::Behind,
        Ok(meta) => OnTheWay::There(meta),
        Err(_) => OnTheWay::Missing,
    }
}

fn no_text(path: &Path) -> Option<Why> {
    path.to_str().is_none_or(|path| path.contains('\n')).then_some(Why::NoText)
}

fn subvolumes_in(tree: &Path) -> Vec<PathBuf> {
    paths(tree).into_iter().filter(|path| is_subvolume(&tree.join(path)) && !is_skipped(path)).collect()
}

pub fn is_skipped(path: &Path) -> bool {
    path.iter().any(|name| name.to_string_lossy().starts_with(SKIPPED))
}
