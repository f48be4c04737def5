//! Which ranges of a file changed since an older snapshot of its subvolume, told by its extents: nothing is read for it.
//!
//! Two snapshots share an extent until somebody writes there, and an extent that a snapshot holds is never written again
//! (also without copy-on-write, whose first write after a snapshot is copied). So the same place of the same extent is the
//! same content. What was moved since, by a balance or a defragmentation, counts as changed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::search::{Item, Search, u16_at, u64_at};
use super::seen::Seen;
use super::{open, walk, wants};
use crate::proto::{AgentError, ReadWant};
use crate::server::Call;

/// Extents of one file that are compared, at most: with more, all of it counts as changed.
const MOST: usize = 1 << 19;

/// Files that are compared or read in parts at once: they wait for the disk more than for a processor.
pub(super) const AT_ONCE: usize = 8;

/// Of files as long as this so many at once: their extents are held in memory, which of shorter ones are few.
const LONG: u64 = 64 << 20;
const LONG_AT_ONCE: usize = 2;

/// Room for extents of one search, at most: the kernel touches all of it, however few there are.
const ROOM: usize = 256 << 10;

/// What one extent takes there, and how short it is at least.
const ITEM: u64 = 85;
const BLOCK: u64 = 4096;

/// The type of an item that says where a piece of a file lies.
const EXTENT: u32 = 108;

/// Answers [`crate::proto::Request::Delta`].
///
/// # Errors
/// If a root cannot be opened or the caller gave up.
pub fn run(root: &BytePath, base: &BytePath, call: &Call) -> Result<(), AgentError> {
    let failed = |path: &BytePath, error: Errno| AgentError::io(format!("`{path}`"), &error.into());
    let dir = open::root(root).map_err(|error| failed(root, error))?;
    let base_dir = open::root(base).map_err(|error| failed(base, error))?;
    let is_sealed = walk::is_sealed(&base_dir);
    wants::serve(call, AT_ONCE, |wants| {
        while let Some(wants) = wants::next(wants, || Ok(()))? {
            let told: Vec<(u32, Option<u64>)> = wants
                .iter()
                .map(|want: &ReadWant| {
                    (want.content, is_sealed.then(|| bytes(&dir, &base_dir, want).ok()).flatten())
                })
                .collect();
            call.item(&told)?;
        }
        Ok(())
    })
}

fn bytes(dir: &OwnedFd, base: &OwnedFd, want: &ReadWant) -> Result<u64, Errno> {
    let [new, old] = [dir, base].map(|dir| open_file(dir, &want.path));
    let ranges = changed(&new?, &old?)?;
    Ok(ranges.iter().filter(|range| !range.is_hole).map(|range| range.end - range.at).sum())
}

/// Opens a file below a root.
pub(super) fn open_file(dir: &OwnedFd, path: &BytePath) -> Result<OwnedFd, Errno> {
    let fd = open::beneath_for_reading(dir, path.as_bytes(), OFlags::NOFOLLOW)?;
    match Seen::of(&fd)?.file_type() {
        FileType::RegularFile => Ok(fd),
        _ => Err(Errno::INVAL),
    }
}

/// A range in which the newer version differs, within its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) at: u64,
    pub(super) end: u64,
    /// Whether it is a hole now.
    pub(super) is_hole: bool,
}

/// Returns the ranges in which `new` differs from `old`, in order. Both must lie on one btrfs, `old` in a read-only snapshot.
///
/// # Errors
/// If the trees do not tell: another file system, too many extents, a version packed in a way that is not known.
pub(super) fn changed(new: &OwnedFd, old: &OwnedFd) -> Result<Vec<Range>, Errno> {
    let size = Seen::of(new)?.size();
    let _turn = (size.max(Seen::of(old)?.size()) >= LONG).then(Turn::wait);
    Ok(differ(&extents(new)?, &extents(old)?, size))
}

/// The right to hold the extents of a long file.
struct Turn;

static TURNS: Mutex<usize> = Mutex::new(LONG_AT_ONCE);
static TURN_IS_FREE: Condvar = Condvar::new();

impl Turn {
    fn wait() -> Self {
        let free = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = TURN_IS_FREE.wait_while(free, |free| *free == 0);
        *wait.unwrap_or_else(PoisonError::into_inner) -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        TURN_IS_FREE.notify_one();
    }
}

/// Where a stretch of a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) at: u64,
    pub(super) end: u64,
    /// The extent, how far its beginning lies from the file's, and how it is packed; `None` for zeros that lie nowhere.
    pub(super) place: Option<(u64, u64, u8)>,
}

/// Returns the extents of a version, up to the block in which it ends.
fn extents(fd: impl AsFd) -> Result<Vec<Extent>, Errno> {
    let seen = Seen::of(&fd)?;
    let (ino, room) = (seen.ino(), ((seen.size() / BLOCK + 1) * ITEM).min(ROOM as u64) as usize);
    let mut found = Vec::new();
    Search::with_room(room).run(&fd, ((ino, EXTENT, 0), (ino, EXTENT, u64::MAX)), 0, |item| {
        if found.len() == MOST {
            return Err(Errno::TOOBIG);
        }
        found.extend(within(extent(item).ok_or(Errno::INVAL)?, seen.size()));
        Ok(())
    })?;
    Ok(found)
}

/// Cuts an extent to what a file of this size has. A snapshot can hold extents behind the end of a file that was being written:
/// without `no-holes` its size on the disk ends where something in between was still on its way. Nobody ever read those.
fn within(extent: Extent, size: u64) -> Option<Extent> {
    let end = extent.end.min(size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX));
    (extent.at < end).then_some(Extent { end, ..extent })
}

/// Reads a `struct btrfs_file_extent_item`.
pub(super) fn extent(Item { key: (_, _, at), data }: Item<'_>) -> Option<Extent> {
    const REGULAR: u8 = 1;
    const PREALLOCATED: u8 = 2;
    let packing = *data.get(16)?;
    let (encryption, other) = (*data.get(17)?, u16_at(data, 18)?);
    let (disk, inside, length) = (u64_at(data, 21)?, u64_at(data, 37)?, u64_at(data, 45)?);
    let place = match data[20] {
        REGULAR if disk == 0 => None,
        REGULAR if (encryption, other) == (0, 0) => Some((disk, inside.wrapping_sub(at), packing)),
        PREALLOCATED => None,
        _ => return None,
    };
    Some(Extent { at, end: at.checked_add(length).filter(|end| *end > at)?, place })
}

/// Compares two lists of extents, each in order and without overlaps.
pub(super) fn differ(new: &[Extent], old: &[Extent], size: u64) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let (mut new, mut old) = (new.iter().peekable(), old.iter().peekable());
    let mut at = 0;
    while at < size {
        let [(now, now_end), (then, then_end)] = [&mut new, &mut old].map(|extents| {
            while extents.next_if(|extent| extent.end <= at).is_some() {}
            match extents.peek() {
                Some(extent) if extent.at <= at => (extent.place, extent.end),
                Some(extent) => (None, extent.at),
                None => (None, size),
            }
        });
        let end = now_end.min(then_end).min(size);
        if now != then {
            let is_hole = now.is_none();
            match ranges.last_mut().filter(|last| last.end == at && last.is_hole == is_hole) {
                Some(last) => last.end = end,
                None => ranges.push(Range { at, end, is_hole }),
            }
        }
        at = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(at: u64, end: u64, disk: u64, inside: u64) -> Extent {
        Extent { at, end, place: Some((disk, inside.wrapping_sub(at), 0)) }
    }

    fn told(new: &[Extent], old: &[Extent], size: u64) -> Vec<(u64, u64, bool)> {
        differ(new, old, size).into_iter().map(|range| (range.at, range.end, range.is_hole)).collect()
    }

    #[test]
    fn what_was_written_in_the_middle_is_one_range() {
        let old = [data(0, 100, 5000, 0)];
        let new = [data(0, 40, 5000, 0), data(40, 50, 9000, 0), data(50, 100, 5000, 50)];
        assert_eq!(told(&new, &old, 100), [(40, 50, false)]);
        assert_eq!(told(&old, &new, 100), [(40, 50, false)]);
        assert_eq!(told(&new, &new, 100), []);
    }

    #[test]
    fn holes_that_came_and_went_growth_and_cuts_are_told_within_the_size() {
        let old = [data(0, 100, 5000, 0)];
        let punched = [data(0, 40, 5000, 0), data(60, 100, 5000, 60)];
        assert_eq!(told(&punched, &old, 100), [(40, 60, true)]);
        assert_eq!(told(&old, &punched, 100), [(40, 60, false)]);
        assert_eq!(told(&[], &old, 70), [(0, 70, true)]);
        assert_eq!(told(&[data(0, 100, 5000, 0), data(100, 130, 1, 0)], &old, 120), [(100, 120, false)]);
        assert_eq!(told(&old, &old, 70), []);
        let zeros = [Extent { at: 0, end: 100, place: None }];
        assert_eq!(told(&zeros, &[], 100), []);
    }

    #[test]
    fn what_lay_behind_the_end_of_the_older_version_is_told_since_nobody_ever_read_it() {
        // [8192, 12_288) was on its way when the older version was taken, what follows it was there.
        let (old, behind) = (data(0, 8192, 5000, 0), data(12_288, 20_480, 9000, 0));
        let new = [old, data(8192, 12_288, 7000, 0), behind];
        let of =
            |size| [old, behind].into_iter().filter_map(|extent| within(extent, size)).collect::<Vec<_>>();
        assert_eq!(told(&new, &of(8192), 20_480), [(8192, 20_480, false)]);
        assert_eq!(told(&new, &of(13_000), 20_480), [(8192, 12_288, false), (16_384, 20_480, false)]);
        assert_eq!(of(20_480), [old, behind]);
        assert_eq!((of(0), of(u64::MAX)), (vec![], vec![old, behind]));
    }

    #[test]
    fn the_same_extent_at_another_place_or_packed_otherwise_is_a_change() {
        let old = [data(0, 50, 5000, 0), data(50, 100, 6000, 0)];
        let swapped = [data(0, 50, 6000, 0), data(50, 100, 5000, 0)];
        assert_eq!(told(&swapped, &old, 100), [(0, 100, false)]);
        let packed = Extent { place: Some((5000, 0, 1)), ..old[0] };
        assert_eq!(told(&[packed, old[1]], &old, 100), [(0, 50, false)]);
    }

    #[test]
    fn an_item_that_is_cut_or_of_a_kind_that_is_not_known_is_not_understood() {
        let mut item = vec![0; 53];
        item[20] = 1;
        item[21] = 7;
        item[45] = 9;
        let read = |data: &[u8]| extent(Item { key: (257, EXTENT, 4096), data });
        assert_eq!(read(&item).map(|extent| (extent.at, extent.end)), Some((4096, 4105)));
        assert_eq!(read(&item[..50]), None);
        for (at, value) in [(17, 1), (20, 0), (20, 3), (45, 0)] {
            let mut other = item.clone();
            other[at] = value;
            assert_eq!(read(&other), None, "{at}");
        }
    }
}
