//! Reads the inodes of a directory's files out of the tree of a read-only subvolume, many with one call.
//!
//! A fresh snapshot has no inode in memory: `statx` and `listxattr` of each file make the kernel build one, which takes most
//! of the time of a walk. A read-only subvolume cannot change, and the commit that sealed it wrote everything that was still
//! pending, so its tree says what `statx` would. Elsewhere the tree lags behind and must not be asked.

use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::data::btrfs;
use crate::data::search::{Item, LAST, Page, Search, u16_at, u32_at, u64_at};
use crate::data::xattr::{Xattrs, is_mirrored};
use crate::proto::FileTime;

/// Room for results.
const ROOM: usize = 192 << 10;

/// Types of items: the inode, and its extended attributes. Extents and the entries of directories come after both.
const INODE: u32 = 1;
const XATTR: u32 = 24;

/// Inode numbers that are read though nobody asked, rather than to ask once more.
const GAP: u64 = 16;

/// What the tree says about one inode.
#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) allocated: u64,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// File type and permissions.
    pub(super) mode: u32,
    pub(super) ctime: FileTime,
    pub(super) mtime: FileTime,
    pub(super) xattrs: Xattrs,
}

/// Whether this lies on a subvolume that is read-only, and its tree may be searched.
pub(in crate::data) fn is_sealed(fd: impl AsFd) -> bool {
    btrfs::is_read_only(&fd) && Searcher::new().read(&fd, &mut [256]).is_ok()
}

/// One thread's buffer.
pub(super) struct Searcher {
    search: Search,
    found: Vec<Inode>,
}

impl Searcher {
    pub(super) fn new() -> Self {
        Self { search: Search::with_room(ROOM), found: Vec::new() }
    }

    /// Reads these inodes of the subvolume that `fd` lies on, for [`Searcher::take`].
    pub(super) fn read(&mut self, fd: impl AsFd, inos: &mut [u64]) -> Result<(), Errno> {
        self.found.clear();
        inos.sort_unstable();
        for range in inos.chunk_by(|a, b| b - a <= GAP) {
            let last = range[range.len() - 1];
            let mut next = Some(range[0]).filter(|_| last <= LAST);
            while let Some(first) = next.filter(|first| *first <= last) {
                next = self.search(&fd, first, last)?;
            }
        }
        Ok(())
    }

    /// Takes one of the inodes out that were read last; `None` if it was not there.
    pub(super) fn take(&mut self, ino: u64) -> Option<Inode> {
        let at = self.found.binary_search_by_key(&ino, |inode| inode.ino).ok()?;
        let inode = &mut self.found[at];
        let copy = Inode { xattrs: Vec::new(), ..*inode };
        // A file may have two names in one directory.
        let xattrs = if inode.nlink > 1 { inode.xattrs.clone() } else { std::mem::take(&mut inode.xattrs) };
        Some(Inode { xattrs, ..copy })
    }

    /// Searches from one inode to another. Returns where to go on, if the room was too little.
    fn search(&mut self, fd: impl AsFd, first: u64, last: u64) -> Result<Option<u64>, Errno> {
        let page = self.search.page(fd, ((first, INODE, 0), (last, XATTR, u64::MAX)), 0)?;
        match take_in(&page, &mut self.found)? {
            // All that is wanted of this one was there: its extents or entries have begun.
            Some((ino, kind)) if kind > XATTR => Ok(Some(ino + 1)),
            Some((ino, _)) if ino == first => Err(Errno::OVERFLOW),
            Some((ino, _)) => {
                self.found.pop_if(|inode| inode.ino == ino);
                Ok(Some(ino))
            }
            None => Ok(None),
        }
    }
}

/// Adds what a search found to the inodes. Returns number and type of the last item if there may be more. Between the
/// smallest and the largest key lie items of all types.
pub(super) fn take_in(page: &Page<'_>, found: &mut Vec<Inode>) -> Result<Option<(u64, u32)>, Errno> {
    let mut end = None;
    let more = page.each(|Item { key: (ino, kind, _), data }| {
        end = Some((ino, kind));
        match (kind, found.last_mut()) {
            (INODE, _) => found.push(inode(ino, data).ok_or(Errno::IO)?),
            (XATTR, Some(last)) if last.ino == ino => xattrs(data, &mut last.xattrs).ok_or(Errno::IO)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(end.filter(|_| more))
}

/// Reads `struct btrfs_inode_item`.
fn inode(ino: u64, data: &[u8]) -> Option<Inode> {
    let time = |at| Some(FileTime { seconds: u64_at(data, at)?.cast_signed(), nanos: u32_at(data, at + 8)? });
    Some(Inode {
        ino,
        size: u64_at(data, 16)?,
        allocated: u64_at(data, 24)?.checked_next_multiple_of(4096)?,
        nlink: u32_at(data, 40)?,
        uid: u32_at(data, 44)?,
        gid: u32_at(data, 48)?,
        mode: u32_at(data, 52)?,
        ctime: time(124)?,
        mtime: time(136)?,
        xattrs: Vec::new(),
    })
}

/// Reads one or more `struct btrfs_dir_item`: names with the same hash share an item.
fn xattrs(mut data: &[u8], found: &mut Xattrs) -> Option<()> {
    while !data.is_empty() {
        let (head, rest) = data.split_at_checked(30)?;
        let size = |at: usize| u16_at(head, at).map(usize::from);
        let (name, rest) = rest.split_at_checked(size(27)?)?;
        let (value, rest) = rest.split_at_checked(size(25)?)?;
        data = rest;
        if is_mirrored(name) {
            let at = found.partition_point(|(other, _)| other.as_slice() < name);
            found.insert(at, (name.to_vec(), value.to_vec()));
        }
    }
    Some(())
}
