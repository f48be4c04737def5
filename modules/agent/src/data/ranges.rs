//! What changed in a file since an older version that the other machine is proven to have: told by extents, and digested by
//! itself.
//!
//! The digest is of every range with its place, of the bytes of those that are no holes, and of the file's size, under a word
//! of its own, so that it is never the digest of a whole file. Where data became a hole, nothing but zeros may be found.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::delta::{self, Range};
use super::extents;
use super::read::read_at;
use super::search::{Search, u64_at};
use super::seen::Seen;
use crate::proto::Ranges;

/// Bytes read at once.
pub(super) const STRETCH: usize = 256 << 10;

/// So often the trees are read anew if they said something else than before, and after so long.
const READINGS: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Files share whole blocks of at least this size; the last one may hold less.
const BLOCK: u64 = 4096;

/// What the digest of ranges begins with.
const DOMAIN: &[u8] = b"pc-switcher: what changed in a file\0";

/// The type of the item that says what an inode is.
const INODE: u32 = 1;

/// Bits of `flags` of a `struct btrfs_inode_item`: without checksums, without copy-on-write.
const NO_SUMS: u64 = 0b11;

/// A digest of ranges under way: they come in order.
pub(super) struct RangesHash(blake3::Hasher);

impl RangesHash {
    pub(super) fn new() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        Self(hasher)
    }

    /// Begins a range; the bytes of one that is no hole follow.
    pub(super) fn begin(&mut self, range: Range) {
        self.0.update(&[u8::from(range.is_hole)]);
        self.0.update(&range.at.to_le_bytes()).update(&range.end.to_le_bytes());
    }

    pub(super) fn add(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Returns the digest for a file of this size.
    pub(super) fn finish(mut self, size: u64) -> [u8; 32] {
        self.0.update(&[2]).update(&size.to_le_bytes());
        self.0.finalize().into()
    }
}

/// Reads these ranges of a file, and nothing else, for their digest.
///
/// # Errors
/// [`Errno::IO`] if the file ends before or a hole is none, [`Errno::CANCELED`] if `stop` says so, or what the kernel says.
pub(super) fn digest(
    file: &OwnedFd,
    ranges: &[Range],
    size: u64,
    stop: &dyn Fn() -> bool,
) -> Result<[u8; 32], Errno> {
    let mut hash = RangesHash::new();
    for range in ranges {
        hash.begin(*range);
        match range.is_hole {
            true => holds_zeros(file, range.at, range.end, stop)?,
            false => each(file, (range.at, range.end), stop, |_, data| {
                hash.add(&data);
                Ok(())
            })?,
        }
    }
    Ok(hash.finish(size))
}

/// Reads a range in pieces.
pub(super) fn each<E: From<Errno>>(
    file: &OwnedFd,
    (mut at, end): (u64, u64),
    stop: &dyn Fn() -> bool,
    mut take: impl FnMut(u64, Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    while at < end {
        if stop() {
            return Err(Errno::CANCELED.into());
        }
        let data = read_at(file, at, STRETCH.min((end - at) as usize))?;
        if data.is_empty() {
            return Err(Errno::IO.into());
        }
        let begin = at;
        at += data.len() as u64;
        take(begin, data)?;
    }
    Ok(())
}

/// Looks whether a range holds nothing but zeros; holes are not read.
pub(super) fn holds_zeros(
    file: &OwnedFd,
    mut at: u64,
    end: u64,
    stop: &dyn Fn() -> bool,
) -> Result<(), Errno> {
    while let Some(data) = extents::next(file, at, end)? {
        each(file, data, stop, |_, data| match data.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(Errno::IO),
        })?;
        at = data.1;
    }
    Ok(())
}

/// Returns the ranges in which `new` differs from `old` for whoever makes it of `old`, in order. Both lie in read-only snapshots of
/// one btrfs.
///
/// # Errors
/// If the trees do not tell, [`Errno::AGAIN`] if somebody moves extents about just now, or [`Errno::TOOBIG`].
pub(super) fn changed(new: &OwnedFd, old: &OwnedFd) -> Result<Vec<Range>, Errno> {
    let (size, before) = (Seen::of(new)?.size(), Seen::of(old)?.size());
    let ranges = with_end(settled(new, old)?, before, size)?;
    if ranges.len() > Ranges::MOST { Err(Errno::TOOBIG) } else { Ok(ranges) }
}

/// Returns the ranges that lie elsewhere. The trees are read one after the other, until they say the same twice: a
/// balance between two readings could bring one extent to where another one was.
pub(super) fn settled(new: &OwnedFd, old: &OwnedFd) -> Result<Vec<Range>, Errno> {
    let mut ranges = delta::changed(new, old)?;
    for _ in 0..READINGS {
        let again = delta::changed(new, old)?;
        if again == ranges {
            return Ok(ranges);
        }
        thread::sleep(PAUSE);
        ranges = again;
    }
    Err(Errno::AGAIN)
}

/// Adds the rest of the block in which a file ended that grew, unless it is told to be other: the end of a file says nothing of
/// what its block holds behind it.
fn with_end(mut ranges: Vec<Range>, before: u64, size: u64) -> Result<Vec<Range>, Errno> {
    let begin = before - before % BLOCK;
    let end = (begin + BLOCK).min(size);
    if size <= before || begin == before {
        return Ok(ranges);
    }
    let place = ranges.partition_point(|range| range.end <= begin);
    match ranges.get(place).filter(|range| range.at < end) {
        None => ranges.insert(place, Range { at: begin, end, is_hole: false }),
        Some(range) if range.at <= begin && range.end >= end => return Ok(ranges),
        // Blocks of another size.
        Some(_) => return Err(Errno::INVAL),
    }
    ranges.dedup_by(|next, last| {
        let joins = last.end == next.at && last.is_hole == next.is_hole;
        if joins {
            last.end = next.end;
        }
        joins
    });
    Ok(ranges)
}

/// What the tree keeps of an inode.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inode {
    ino: u64,
    item: Vec<u8>,
}

impl Inode {
    /// Reads it.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        let ino = Seen::of(&file)?.ino();
        let mut found = None;
        Search::with_room(4 << 10).run(&file, ((ino, INODE, 0), (ino, INODE, u64::MAX)), 0, |item| {
            found = Some(item.data.to_vec());
            Ok(())
        })?;
        let item = found.filter(|item| item.len() >= 160).ok_or(Errno::IO)?;
        Ok(Self { ino, item })
    }

    /// Whether the file system keeps checksums of what the file holds.
    pub(super) fn has_sums(&self) -> bool {
        u64_at(&self.item, 64).is_some_and(|flags| flags & NO_SUMS == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(at: u64, end: u64, is_hole: bool) -> Range {
        Range { at, end, is_hole }
    }

    #[test]
    fn the_block_in_which_a_file_ended_goes_along_when_it_grew() {
        let end = |ranges: &[Range], before, size| with_end(ranges.to_vec(), before, size);
        assert_eq!(end(&[], 10_000, 10_000), Ok(vec![]));
        assert_eq!(end(&[], 10_000, 9000), Ok(vec![]));
        assert_eq!(end(&[], 8192, 90_000), Ok(vec![]));
        assert_eq!(end(&[], 10_000, 90_000), Ok(vec![range(8192, 12_288, false)]));
        assert_eq!(end(&[], 10_000, 10_001), Ok(vec![range(8192, 10_001, false)]));
        let told = [range(0, 4096, false), range(8192, 40_960, false)];
        assert_eq!(end(&told, 10_000, 90_000), Ok(told.to_vec()));
        let beside = [range(4096, 8192, false), range(12_288, 16_384, false), range(16_384, 20_480, true)];
        let joined = vec![range(4096, 16_384, false), range(16_384, 20_480, true)];
        assert_eq!(end(&beside, 10_000, 90_000), Ok(joined));
        assert_eq!(end(&[range(9000, 12_288, false)], 10_000, 90_000), Err(Errno::INVAL));
    }

    #[test]
    fn other_places_kinds_sizes_or_bytes_have_another_digest_and_none_is_that_of_a_whole_file() {
        let of = |ranges: &[(u64, u64, bool, &[u8])], size| {
            let mut hash = RangesHash::new();
            for (at, end, is_hole, data) in ranges {
                hash.begin(range(*at, *end, *is_hole));
                hash.add(data);
            }
            hash.finish(size)
        };
        let all = [
            of(&[], 9),
            of(&[], 8),
            of(&[(0, 2, false, b"ab")], 9),
            of(&[(0, 2, false, b"ac")], 9),
            of(&[(1, 3, false, b"ab")], 9),
            of(&[(0, 1, false, b"a"), (1, 2, false, b"b")], 9),
            of(&[(0, 2, true, b"")], 9),
            *blake3::hash(b"").as_bytes(),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one), "{at}");
        }
    }
}
