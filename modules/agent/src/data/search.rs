//! `BTRFS_IOC_TREE_SEARCH_V2`: the items of the tree of a subvolume, between two keys.
#![expect(unsafe_code, reason = "btrfs speaks through ioctl")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// `_IOWR(0x94, 17, struct btrfs_ioctl_search_args_v2)`.
const TREE_SEARCH: u64 = 0xc070_9411;
/// Bytes of the head of the request, before the results.
const HEAD: usize = 112;
/// Bytes of the head of one result.
const ITEM_HEAD: usize = 32;
/// No item is larger than a leaf, and no leaf is larger: while there is more room than this, the kernel has not stopped for
/// want of it.
const LARGEST: usize = 64 << 10;

/// The last number that an inode of a file may have.
pub(super) const LAST: u64 = u64::MAX - 256;

/// The place of an item: number of the inode, type, offset.
pub(super) type Key = (u64, u32, u64);

/// One item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item<'a> {
    pub(super) key: Key,
    pub(super) data: &'a [u8],
}

/// One thread's buffer.
pub(super) struct Search {
    args: Vec<u8>,
}

impl Search {
    /// Makes a buffer with room for one item of any size and so many bytes.
    pub(super) fn with_room(room: usize) -> Self {
        Self { args: vec![0; HEAD + LARGEST + room] }
    }

    /// Calls `each` with all items from `first` to `last`, of all types, in the leaves of the tree of the subvolume that `fd`
    /// lies on that were written in the transaction `since` or later.
    ///
    /// # Errors
    /// What the kernel says (without root: [`Errno::PERM`]), or what `each` does.
    pub(super) fn run(
        &mut self,
        fd: impl AsFd,
        (first, last): (Key, Key),
        since: u64,
        mut each: impl FnMut(Item<'_>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut next = Some(first);
        while let Some(from) = next.filter(|from| *from <= last) {
            let mut end = None;
            let page = self.page(&fd, (from, last), since)?;
            let is_full = page.each(|item| {
                end = Some(item.key);
                each(item)
            })?;
            next = end.filter(|_| is_full).and_then(after);
        }
        Ok(())
    }

    /// Returns the key of the first of these items.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn first(
        &mut self,
        fd: impl AsFd,
        range: (Key, Key),
        since: u64,
    ) -> Result<Option<Key>, Errno> {
        let mut first = None;
        self.ask(fd, range, since, 1)?.each(|Item { key, .. }| {
            first = Some(key);
            Ok(())
        })?;
        Ok(first)
    }

    /// Returns the first of these items: as many as there is room for.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn page(&mut self, fd: impl AsFd, range: (Key, Key), since: u64) -> Result<Page<'_>, Errno> {
        self.ask(fd, range, since, u32::MAX)
    }

    /// Returns the first of these items, `most` at most.
    fn ask(
        &mut self,
        fd: impl AsFd,
        (first, last): (Key, Key),
        since: u64,
        most: u32,
    ) -> Result<Page<'_>, Errno> {
        let words = [0, first.0, last.0, first.2, last.2, since, u64::MAX].into_iter().enumerate();
        words.for_each(|(at, word)| self.args[at * 8..][..8].copy_from_slice(&word.to_ne_bytes()));
        for (at, half) in [(56, first.1), (60, last.1), (64, most), (68, 0)] {
            self.args[at..][..4].copy_from_slice(&half.to_ne_bytes());
        }
        self.args[72..104].fill(0);
        let room = (self.args.len() - HEAD) as u64;
        self.args[104..HEAD].copy_from_slice(&room.to_ne_bytes());
        loop {
            // SAFETY: TREE_SEARCH_V2 takes a head of 112 bytes that names the room behind it, all part of `args`.
            let done =
                unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TREE_SEARCH as _, self.args.as_mut_ptr()) };
            if done >= 0 {
                break;
            }
            match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::INTR) => {}
                error => return Err(error.unwrap_or(Errno::IO)),
            }
        }
        let count = u32_at(&self.args, 64).ok_or(Errno::IO)?;
        Ok(Page::of(count, &self.args[HEAD..]))
    }
}

/// What one search found.
pub(super) struct Page<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Page<'a> {
    /// Takes bytes for what a search found.
    pub(super) fn of(count: u32, bytes: &'a [u8]) -> Self {
        Self { count, bytes }
    }

    /// Calls `each` with every item; returns whether there may be more than there was room for.
    ///
    /// # Errors
    /// [`Errno::IO`] if the items contradict their lengths, or what `each` says.
    pub(super) fn each(&self, mut each: impl FnMut(Item<'_>) -> Result<(), Errno>) -> Result<bool, Errno> {
        let mut rest = self.bytes;
        for _ in 0..self.count {
            let (item, after) = split(rest).ok_or(Errno::IO)?;
            rest = after;
            each(item)?;
        }
        Ok(self.count > 0 && rest.len() <= LARGEST)
    }
}

/// Splits the first result off.
fn split(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(ITEM_HEAD)?;
    let (data, rest) = rest.split_at_checked(u32_at(head, 28)? as usize)?;
    Some((Item { key: (u64_at(head, 8)?, u32_at(head, 24)?, u64_at(head, 16)?), data }, rest))
}

/// Returns the key right after this one.
fn after((ino, kind, offset): Key) -> Option<Key> {
    match (offset.checked_add(1), kind) {
        (Some(offset), _) => Some((ino, kind, offset)),
        (None, ..255) => Some((ino, kind + 1, 0)),
        (None, _) => Some((ino.checked_add(1)?, 0, 0)),
    }
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
