//! In which names a directory differs from what it was in an older snapshot of its subvolume: asked of both trees.
//!
//! Every entry has a number in its directory, in the order in which they came. So both lists are in order, and what only one of
//! them has came or went. The number of the last entry may be given again once that is gone: then both names are told.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::search::{Item, Search, u16_at, u64_at};

/// Room for entries of one search.
const ROOM: usize = 128 << 10;

/// Directories with more entries are listed whole.
const MOST: usize = 1 << 16;

/// The type of an item that is an entry of a directory, by its number.
const ENTRY: u32 = 96;

/// Entries of directories of one tree.
pub(super) struct Entries {
    dir: OwnedFd,
    search: Search,
    found: Vec<Entry>,
}

/// One entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    number: u64,
    /// What it leads to: an inode, or the root of another tree.
    to: (u64, u8),
    name: Vec<u8>,
}

impl Entries {
    /// Begins with the tree that a directory lies in.
    pub(super) fn of(dir: OwnedFd) -> Self {
        Self { dir, search: Search::with_room(ROOM), found: Vec::new() }
    }

    /// Reads the entries of a directory; returns false if they are too many.
    fn read(&mut self, ino: u64) -> Result<bool, Errno> {
        let Self { dir, search, found } = self;
        found.clear();
        let done = search.run(&*dir, ((ino, ENTRY, 0), (ino, ENTRY, u64::MAX)), 0, |item| {
            if found.len() == MOST {
                return Err(Errno::TOOBIG);
            }
            found.push(entry(item).ok_or(Errno::IO)?);
            Ok(())
        });
        match done {
            Err(Errno::TOOBIG) => Ok(false),
            done => done.map(|()| true),
        }
    }
}

/// Reads a `struct btrfs_dir_item`.
pub(super) fn entry(Item { key: (_, _, number), data }: Item<'_>) -> Option<Entry> {
    let len = usize::from(u16_at(data, 27)?);
    let name = data.get(30..)?.get(..len)?.to_vec();
    Some(Entry { number, to: (u64_at(data, 0)?, *data.get(8)?), name })
}

/// Adds the names in which a directory differs between two trees; returns false if it is too large to tell.
///
/// # Errors
/// What the kernel says.
pub(super) fn differ(
    [now, base]: &mut [Entries; 2],
    ino: u64,
    names: &mut BTreeSet<Vec<u8>>,
) -> Result<bool, Errno> {
    if !(now.read(ino)? && base.read(ino)?) {
        return Ok(false);
    }
    pair(&now.found, &base.found, |name| {
        names.insert(name.to_vec());
    });
    Ok(true)
}

/// Calls `each` with the name of every entry that only one of two lists has, both in order of their numbers.
pub(super) fn pair(now: &[Entry], base: &[Entry], mut each: impl FnMut(&[u8])) {
    let (mut now, mut base) = (now.iter().peekable(), base.iter().peekable());
    loop {
        let order = match (now.peek(), base.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.number.cmp(&other.number),
        };
        let one = now.next_if(|_| order.is_le());
        let other = base.next_if(|_| order.is_ge());
        if one != other {
            [one, other].into_iter().flatten().for_each(|entry| each(&entry.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64, ino: u64, name: &str) -> Entry {
        Entry { number, to: (ino, 1), name: name.into() }
    }

    #[test]
    fn what_came_what_went_and_what_was_replaced_is_told_and_nothing_else() {
        let base = [at(2, 300, "stays"), at(3, 301, "goes"), at(5, 302, "moves"), at(6, 303, "is replaced")];
        let now = [at(2, 300, "stays"), at(6, 309, "is replaced"), at(7, 302, "moved"), at(8, 310, "comes")];
        let mut told = BTreeSet::new();
        pair(&now, &base, |name| {
            told.insert(String::from_utf8(name.to_vec()).unwrap());
        });
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        assert_eq!(told, ["comes", "goes", "is replaced", "moved", "moves"]);
        pair(&base, &base, |name| panic!("{name:?}"));
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
