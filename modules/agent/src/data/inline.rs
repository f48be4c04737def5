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

/// Names of one directory that are remembered, at most: of a larger one the files are opened, one by one.
const LARGEST: usize = 1 << 17;
/// Names of all directories that are remembered, at most.
const REMEMBERED: usize = LARGEST + (1 << 15);

/// One thread's view of the small files below a root.
pub(super) struct Inline<'a> {
    root: &'a OwnedFd,
    search: Search,
    room: Vec<MaybeUninit<u8>>,
    dirs: Dirs,
    /// The inodes of what was prepared.
    inos: HashMap<BytePath, u64>,
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
            dirs: Dirs::default(),
            inos: HashMap::new(),
            found: HashMap::new(),
            frozen: HashSet::new(),
        }
    }

    /// Reads what the tree holds of these files, for [`Inline::take`]. What it does not tell is to be read otherwise.
    pub(super) fn prepare(&mut self, wants: &[ReadWant]) {
        self.inos.clear();
        self.found.clear();
        self.frozen.clear();
        for want in wants {
            if let Some(ino) = self.ino(&want.path) {
                self.inos.insert(want.path.clone(), ino);
            }
        }
        let mut inos: Vec<u64> = self.inos.values().copied().collect();
        inos.sort_unstable();
        for range in inos.chunk_by(|a, b| b - a <= GAP) {
            // The files are read otherwise then.
            let _ = self.read(range);
        }
    }

    /// Takes the content of a file that was prepared, if the tree held all of it, with whether `chattr` protects it.
    pub(super) fn take(&mut self, path: &BytePath) -> Option<(Vec<u8>, bool)> {
        let ino = *self.inos.get(path)?;
        self.found.remove(&ino).map(|data| (data, self.frozen.contains(&ino)))
    }

    /// Returns the inode number of a regular file.
    fn ino(&mut self, path: &BytePath) -> Option<u64> {
        let parent = path.parent()?;
        if self.dirs.get(&parent).is_none() {
            let names = self.names(&parent).unwrap_or_default();
            self.dirs.add(parent.clone(), names);
        }
        self.dirs.get(&parent)?.get(path.name()).copied()
    }

    /// Returns the inodes of the regular files in a directory; none if they are too many.
    fn names(&mut self, dir: &BytePath) -> Option<HashMap<Vec<u8>, u64>> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = open::beneath_for_reading(self.root, dir.as_bytes(), flags).ok()?;
        let (mut names, mut entries) = (HashMap::new(), RawDir::new(&dir, &mut self.room));
        while let Some(Ok(entry)) = entries.next() {
            if entry.file_type() == FileType::RegularFile {
                names.insert(entry.file_name().to_bytes().to_vec(), entry.ino());
            }
            if names.len() > LARGEST {
                return None;
            }
        }
        Some(names)
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

/// Directories that were looked at, with the inodes of their files. Those go first that cost the least to be looked at again, and
/// were not asked for the longest (greedy dual).
#[derive(Default)]
struct Dirs {
    all: HashMap<BytePath, Dir>,
    names: usize,
    clock: usize,
}

struct Dir {
    inos: HashMap<Vec<u8>, u64>,
    worth: usize,
}

impl Dirs {
    fn get(&mut self, path: &BytePath) -> Option<&HashMap<Vec<u8>, u64>> {
        let dir = self.all.get_mut(path)?;
        dir.worth = self.clock + cost(&dir.inos);
        Some(&dir.inos)
    }

    fn add(&mut self, path: BytePath, inos: HashMap<Vec<u8>, u64>) {
        let cost = cost(&inos);
        while self.names + cost > REMEMBERED
            && let Some((least, dir)) = self.all.iter().min_by_key(|(_, dir)| dir.worth)
        {
            (self.clock, self.names) = (dir.worth, self.names - self::cost(&dir.inos));
            let least = least.clone();
            self.all.remove(&least);
        }
        self.names += cost;
        self.all.insert(path, Dir { worth: self.clock + cost, inos });
    }
}

/// What a directory takes: a look at it costs something, however few names it has.
fn cost(inos: &HashMap<Vec<u8>, u64>) -> usize {
    inos.len() + 256
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: u64) -> HashMap<Vec<u8>, u64> {
        (0..count).map(|at| (at.to_string().into_bytes(), at)).collect()
    }

    #[test]
    fn a_large_directory_stays_while_small_ones_pass_and_goes_when_it_is_left() {
        let mut dirs = Dirs::default();
        let large = BytePath::from("large");
        dirs.add(large.clone(), names(LARGEST as u64 - 256));
        for at in 0..1000 {
            dirs.add(format!("small/{at}").as_str().into(), names(1));
            assert!(dirs.get(&large).is_some(), "{at}");
            assert!(dirs.names <= REMEMBERED);
        }
        for at in 0..10 {
            dirs.add(format!("other/{at}").as_str().into(), names(LARGEST as u64 / 3));
        }
        assert!(dirs.get(&large).is_none());
        assert_eq!(dirs.names, dirs.all.values().map(|dir| cost(&dir.inos)).sum::<usize>());
    }
}
