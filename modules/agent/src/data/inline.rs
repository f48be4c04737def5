//! Content of small files, out of the tree of a read-only subvolume: many with one call, and none is opened.
//!
//! Btrfs keeps the content of a small file beside its inode. Opening, reading and closing costs several times as much as
//! copying it from there (`facts/sync-engine.md` 2.1: half of a home's files are never opened).

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, RawDir};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::open;
use super::search::{Item, Search, u16_at, u32_at, u64_at};
use crate::proto::ReadWant;

/// Room for items, and for names of a directory.
const ROOM: usize = 192 << 10;
const NAMES: usize = 64 << 10;

/// Inode numbers that are read though nobody asked, rather than to ask once more.
const GAP: u64 = 8;

/// Types of items: the inode, and a piece of its content.
const INODE: u32 = 1;
const EXTENT: u32 = 108;
/// Flags of an inode: it is immutable, or may only be added to.
const FROZEN: u64 = 1 << 6 | 1 << 7;
/// Bytes before the content in an item that holds it.
const EXTENT_HEAD: usize = 21;

/// One thread's view of the small files below a root.
pub(super) struct Inline<'a> {
    root: &'a OwnedFd,
    search: Search,
    room: Vec<MaybeUninit<u8>>,
    /// The directory that was looked at last, with the inodes of its files.
    dir: Option<BytePath>,
    inos: HashMap<Vec<u8>, u64>,
    found: HashMap<u64, Vec<u8>>,
    /// Inodes that `chattr` protects.
    frozen: HashSet<u64>,
}

impl<'a> Inline<'a> {
    /// Begins; the root must lie on a read-only subvolume of a btrfs.
    pub(super) fn below(root: &'a OwnedFd) -> Self {
        Self {
            root,
            search: Search::with_room(ROOM),
            room: vec![MaybeUninit::uninit(); NAMES],
            dir: None,
            inos: HashMap::new(),
            found: HashMap::new(),
            frozen: HashSet::new(),
        }
    }

    /// Reads what the tree holds of these files, for [`Inline::take`]. What it does not tell is to be read otherwise.
    pub(super) fn prepare(&mut self, wants: &[ReadWant]) {
        self.found.clear();
        self.frozen.clear();
        let mut inos: Vec<u64> = wants.iter().filter_map(|want| self.ino(&want.path)).collect();
        inos.sort_unstable();
        for range in inos.chunk_by(|a, b| b - a <= GAP) {
            // The files are read otherwise then.
            let _ = self.read(range);
        }
    }

    /// Takes the content of a file that was prepared, if the tree held all of it, with whether `chattr` protects it.
    pub(super) fn take(&mut self, path: &BytePath) -> Option<(Vec<u8>, bool)> {
        let ino = self.ino(path)?;
        self.found.remove(&ino).map(|data| (data, self.frozen.contains(&ino)))
    }

    /// Returns the inode number of a regular file.
    fn ino(&mut self, path: &BytePath) -> Option<u64> {
        let parent = path.parent()?;
        if self.dir.as_ref() != Some(&parent) {
            self.inos.clear();
            self.dir = None;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let dir = open::beneath_for_reading(self.root, parent.as_bytes(), flags).ok()?;
            let mut entries = RawDir::new(&dir, &mut self.room);
            while let Some(Ok(entry)) = entries.next() {
                if entry.file_type() == FileType::RegularFile {
                    self.inos.insert(entry.file_name().to_bytes().to_vec(), entry.ino());
                }
            }
            self.dir = Some(parent);
        }
        self.inos.get(path.name()).copied()
    }

    fn read(&mut self, inos: &[u64]) -> Result<(), Errno> {
        let (Some(first), Some(last)) = (inos.first(), inos.last()) else { return Ok(()) };
        let wanted: HashSet<u64> = inos.iter().copied().collect();
        let mut sizes: HashMap<u64, u64> = HashMap::new();
        let mut from = (*first, INODE, 0);
        let to = (*last, EXTENT, u64::MAX);
        while from <= to {
            let mut end = None;
            let more =
                self.search.page(self.root, (from, to), 0)?.each(|Item { key: (ino, kind, at), data }| {
                    end = Some((ino, kind, at));
                    match kind {
                        INODE if wanted.contains(&ino) => {
                            let size = u64_at(data, 16).ok_or(Errno::IO)?;
                            sizes.insert(ino, size);
                            if u64_at(data, 64).is_some_and(|flags| flags & FROZEN != 0) {
                                self.frozen.insert(ino);
                            }
                            if size == 0 && is_regular(data) {
                                self.found.insert(ino, Vec::new());
                            }
                        }
                        EXTENT => {
                            if let (Some(size), Some(content)) = (sizes.get(&ino), content(at, data))
                                && *size == content.len() as u64
                            {
                                self.found.insert(ino, content.to_vec());
                            }
                        }
                        _ => {}
                    }
                    Ok(())
                })?;
            from = match end {
                // Pieces of a large file: all there is to know of it is known.
                Some((ino, EXTENT, _)) if more => (ino + 1, INODE, 0),
                Some((ino, kind, at)) if more => (ino, kind, at + 1),
                _ => break,
            };
        }
        Ok(())
    }
}

fn is_regular(inode: &[u8]) -> bool {
    u32_at(inode, 52).is_some_and(|mode| FileType::from_raw_mode(mode) == FileType::RegularFile)
}

/// Returns the content that a `struct btrfs_file_extent_item` at this place of the file holds, if it holds it as it is.
pub(super) fn content(at: u64, item: &[u8]) -> Option<&[u8]> {
    const INLINE: u8 = 0;
    let is_plain = item.get(16..18)? == [0, 0] && u16_at(item, 18)? == 0;
    (at == 0 && is_plain && *item.get(20)? == INLINE).then(|| &item[EXTENT_HEAD..])
}
