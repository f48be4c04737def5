//! In which names a directory differs from what it was in an older snapshot of its subvolume: asked of both trees.
//!
//! Every entry has a number in its directory, in the order in which they came. So both lists are in order, and what only one of
//! them has came or went. The number of the last entry may be given again once that is gone: then both names are told.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::search::{Item, Search, u16_at, u64_at};

/// Room for entries of one search.
const ROOM: usize = 128 << 10;

/// Bytes of names in which a directory differs, at most: with more it is listed whole.
const MOST: usize = 1 << 18;

/// The type of an item that is an entry of a directory, by its number.
const ENTRY: u32 = 96;

/// Entries of directories of one tree.
pub(super) struct Entries {
    dir: OwnedFd,
    search: Search,
    found: VecDeque<Entry>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    number: u64,
    /// What it leads to: an inode, or the root of another tree.
    to: (u64, u8),
    name: Vec<u8>,
}

impl Entries {
    /// Begins with the tree that a directory lies in.
    pub(super) fn of(dir: OwnedFd) -> Self {
        Self { dir, search: Search::with_room(ROOM), found: VecDeque::new() }
    }

    /// Reads the entries of a directory, in order of their numbers, as many at a time as there is room for.
    fn read<'a>(&'a mut self, ino: u64, stop: &'a dyn Fn() -> bool) -> Reading<'a> {
        self.found.clear();
        Reading { entries: self, ino, next: Some(0), stop }
    }

    /// Reads those from one number on. Returns the number to go on with.
    fn page(&mut self, ino: u64, from: u64) -> Result<Option<u64>, Errno> {
        let Self { dir, search, found } = self;
        let mut last = None;
        let more = search.page(&*dir, ((ino, ENTRY, from), (ino, ENTRY, u64::MAX)), 0)?.each(|item| {
            last = Some(item.key.2);
            found.push_back(entry(item).ok_or(Errno::IO)?);
            Ok(())
        })?;
        Ok(last.filter(|_| more).and_then(|last| last.checked_add(1)))
    }
}

/// The entries of one directory.
struct Reading<'a> {
    entries: &'a mut Entries,
    ino: u64,
    next: Option<u64>,
    stop: &'a dyn Fn() -> bool,
}

impl Iterator for Reading<'_> {
    type Item = Result<Entry, Errno>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.found.pop_front() {
                return Some(Ok(entry));
            }
            match self.entries.page(self.ino, self.next.take()?) {
                _ if (self.stop)() => return Some(Err(Errno::CANCELED)),
                Ok(next) => self.next = next,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Reads a `struct btrfs_dir_item`.
pub(super) fn entry(Item { key: (_, _, number), data }: Item<'_>) -> Option<Entry> {
    let len = usize::from(u16_at(data, 27)?);
    let name = data.get(30..)?.get(..len)?.to_vec();
    Some(Entry { number, to: (u64_at(data, 0)?, *data.get(8)?), name })
}

/// Adds the names in which a directory differs between two trees; returns false if they are too many to be told.
///
/// # Errors
/// What the kernel says, or [`Errno::CANCELED`] once `stop` says so.
pub(super) fn differ(
    [now, base]: &mut [Entries; 2],
    ino: u64,
    names: &mut BTreeSet<Vec<u8>>,
    stop: &dyn Fn() -> bool,
) -> Result<bool, Errno> {
    let mut bytes = 0;
    let done = pair(now.read(ino, stop), base.read(ino, stop), |name| {
        bytes += name.len();
        names.insert(name.to_vec());
        if bytes > MOST { Err(Errno::TOOBIG) } else { Ok(()) }
    });
    match done {
        Err(Errno::TOOBIG) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Calls `each` with the name of every entry that only one of two lists has, both in order of their numbers.
///
/// # Errors
/// What the lists or `each` say.
pub(super) fn pair(
    now: impl Iterator<Item = Result<Entry, Errno>>,
    base: impl Iterator<Item = Result<Entry, Errno>>,
    mut each: impl FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let (mut now, mut base) = (now.peekable(), base.peekable());
    loop {
        let order = match (now.peek(), base.peek()) {
            (None, None) => return Ok(()),
            (Some(Err(error)), _) | (_, Some(Err(error))) => return Err(*error),
            (Some(Ok(_)), None) => Ordering::Less,
            (None, Some(Ok(_))) => Ordering::Greater,
            (Some(Ok(one)), Some(Ok(other))) => one.number.cmp(&other.number),
        };
        let one = now.next_if(|_| order.is_le()).transpose()?;
        let other = base.next_if(|_| order.is_ge()).transpose()?;
        if one != other {
            [one, other].into_iter().flatten().try_for_each(|entry| each(&entry.name))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64, ino: u64, name: &str) -> Entry {
        Entry { number, to: (ino, 1), name: name.into() }
    }

    fn list(entries: &[Entry]) -> impl Iterator<Item = Result<Entry, Errno>> {
        entries.iter().cloned().map(Ok)
    }

    #[test]
    fn what_came_what_went_and_what_was_replaced_is_told_and_nothing_else() {
        let base = [at(2, 300, "stays"), at(3, 301, "goes"), at(5, 302, "moves"), at(6, 303, "is replaced")];
        let now = [at(2, 300, "stays"), at(6, 309, "is replaced"), at(7, 302, "moved"), at(8, 310, "comes")];
        let mut told = BTreeSet::new();
        let told_all = pair(list(&now), list(&base), |name| {
            told.insert(String::from_utf8(name.to_vec()).unwrap());
            Ok(())
        });
        assert_eq!(told_all, Ok(()));
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        assert_eq!(told, ["comes", "goes", "is replaced", "moved", "moves"]);
        assert_eq!(pair(list(&base), list(&base), |_| Err(Errno::IO)), Ok(()));
        assert_eq!(pair(list(&now), list(&base), |_| Err(Errno::TOOBIG)), Err(Errno::TOOBIG));
        let cut = || list(&base[..2]).chain([Err(Errno::IO)]);
        assert_eq!(pair(list(&base), cut(), |_| Ok(())), Err(Errno::IO));
        assert_eq!(pair(cut(), list(&base), |_| Ok(())), Err(Errno::IO));
    }

    #[test]
    fn an_item_that_is_cut_is_no_entry() {
        let mut item = vec![0; 33];
        item[27] = 3;
        item[30..].copy_from_slice(b"abc");
        let read = |data: &[u8]| entry(Item { key: (256, ENTRY, 2), data });
        assert_eq!(read(&item).map(|entry| entry.name), Some(b"abc".to_vec()));
        assert!((0..33).all(|len| read(&item[..len]).is_none()));
    }
}
