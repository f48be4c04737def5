//! Openings for fuzzers into what reads items of a tree. Nothing else may use them.

use super::search::{Item, Page};
use super::younger::Younger;
use super::{changed, delta, entries, inline};

/// An inode that was written: its number, whether it is a directory, and the bytes of its names, if all were found.
pub type Written = (u64, bool, Option<usize>);

/// Reads which inodes a search found to be written after a transaction. `None` if an item is cut.
pub fn written(bytes: &[u8], count: u32, since: u64) -> Option<Vec<Written>> {
    let found = Younger::of_page(&Page::of(count, bytes), since).ok()?;
    let bytes_of = |names: Vec<(u64, Vec<u8>)>| names.iter().map(|(_, name)| name.len()).sum();
    Some(found.iter().map(|of| (of.ino, of.is_dir, found.names(of).map(bytes_of))).collect())
}

/// Reads the names of an inode; `parent` is the directory if the key of the item has it. `None` if they are cut.
pub fn names(parent: Option<u64>, data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    changed::names(parent, data, &mut found)?;
    Some(found.into_iter().map(|(_, name)| name).collect())
}

/// Reads the content that an item holds, if it holds it as it is.
pub fn inline_content(data: &[u8]) -> Option<&[u8]> {
    inline::content(0, data)
}

/// Compares two versions of a file of `size` bytes whose extents two searches found; each difference is told as where it begins
/// and ends, and whether there is a hole now. `None` if an item is cut, or packed in a way that is not known.
pub fn ranges(new: (&[u8], u32), old: (&[u8], u32), size: u64) -> Option<Vec<(u64, u64, bool)>> {
    let read = |(bytes, count)| all(bytes, count, delta::extent);
    let found = delta::differ(&read(new)?, &read(old)?, size);
    Some(found.into_iter().map(|range| (range.at, range.end, range.is_hole)).collect())
}

/// Compares two versions of a directory whose entries two searches found; returns the names that only one has, as often as they
/// are told. `None` if an item is cut.
pub fn entries(now: (&[u8], u32), base: (&[u8], u32)) -> Option<Vec<Vec<u8>>> {
    let read = |(bytes, count)| all(bytes, count, entries::entry);
    let (now, base) = (read(now)?, read(base)?);
    let mut names = Vec::new();
    let done = entries::pair(now.into_iter().map(Ok), base.into_iter().map(Ok), |name| {
        names.push(name.to_vec());
        Ok(())
    });
    done.ok().map(|()| names)
}

fn all<T>(bytes: &[u8], count: u32, read: impl Fn(Item<'_>) -> Option<T>) -> Option<Vec<T>> {
    let mut found = Vec::new();
    let done = Page::of(count, bytes).each(|item| {
        found.push(read(item).ok_or(rustix::io::Errno::INVAL)?);
        Ok(())
    });
    done.ok().map(|_| found)
}
