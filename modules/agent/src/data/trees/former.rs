//! The copy before: what did not change since is not copied again.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use pc_switcher_contract::BytePath;

use super::item::{Item, Live, What};
use super::roll::read_inventory;
use crate::proto::{Meta, encode};

/// What is known of a file of the copy before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) live: Live,
    pub(super) size: u64,
    pub(super) digest: [u8; 32],
    /// Which of the files of that copy.
    pub(super) number: usize,
    meta: [u8; 16],
}

impl Known {
    /// Whether the metadata is what it was.
    pub(super) fn is_dressed(&self, meta: &Meta) -> bool {
        self.meta == short(meta)
    }
}

/// A copy that was taken before, open, with its list.
pub(crate) struct Former {
    pub(super) root: OwnedFd,
    files: HashMap<BytePath, Known>,
    by_inode: HashMap<(u64, u64), BytePath>,
}

impl Former {
    /// Reads the list of a copy.
    ///
    /// # Errors
    /// If there is none, or it is not whole.
    pub(crate) fn read(root: OwnedFd, list: &Path) -> io::Result<Self> {
        let (mut files, mut by_inode) = (HashMap::new(), HashMap::new());
        read_inventory(list, |Item { path, what, meta, live }| {
            if let What::File(size, digest) = what {
                by_inode.insert((live.device, live.ino), path.clone());
                let number = files.len();
                files.insert(path, Known { live, size, digest, number, meta: short(&meta) });
            }
            Ok(())
        })?;
        Ok(Self { root, files, by_inode })
    }

    /// Returns how many files it has.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    /// Returns what may be the same file: that of the same path, or the one that was the same inode under another.
    pub(super) fn find(&self, path: &BytePath, live: &Live) -> Option<(&BytePath, &Known)> {
        let is_it =
            |(_, known): &(&BytePath, &Known)| (known.live.device, known.live.ino) == (live.device, live.ino);
        let same_path = self.files.get_key_value(path);
        same_path.filter(is_it).or_else(|| {
            let moved = self.by_inode.get(&(live.device, live.ino));
            moved.and_then(|path| self.files.get_key_value(path)).or(same_path)
        })
    }
}

/// A digest of metadata: only whether it is the same is asked.
fn short(meta: &Meta) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(&encode(meta)).as_bytes()[..16]);
    short
}
