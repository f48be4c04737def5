//! Which inodes of a tree were written after a transaction, with the names that lie beside them: one search for all, by several
//! threads.
//!
//! Every change of a file or directory writes its inode anew, with the number of the transaction (`facts/sync-engine.md` 3.2). A
//! leaf is written as a whole, and most inodes share theirs with their names, which then need not be looked up one by one.
//!
//! Reading writes inodes, too: the time of the last access. What differs in nothing else from the base did not change: the inode counts
//! the changes made to it, so that two within one tick of the clock are told apart. What becomes of a directory is of one transaction
//! with its inode. The content of a file may reach the tree a transaction after the inode that announced it, so that the base has the
//! new inode and the old content; its extents are younger then, and it counts as changed. One `write` of a gigabyte sets the times when
//! it begins, and a base that is taken meanwhile has a part of it. So files whose extents are younger while size and times stayed are told
//! apart.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use rustix::fs::fstat;
use rustix::io::Errno;

use super::changed::{SUBVOLUME_ROOT, names};
use super::search::{Item, LAST, Page, Search, u32_at, u64_at};
use super::{btrfs, open};
use crate::linux::btrfs::KernelBtrfs;
use crate::linux::unchanged;
use crate::server::Call;

/// Inodes that are looked at, at most.
const MOST: usize = 1 << 20;
/// Bytes of names that are kept, at most; further ones are looked up.
const NAMES: usize = 16 << 20;
/// Room for the search of the tree.
const ROOM: usize = 1 << 20;
/// Parts of the numbers of inodes, each of which one thread searches: many, as what was written lies together.
const PARTS: u64 = 64;

/// Types of items: the inode, its names, and names that had no room there.
const INODE: u32 = 1;
const REF: u32 = 12;
const EXTREF: u32 = 13;
/// And where its content lies.
const EXTENT: u32 = 108;

/// A digest of an inode.
type State = [u8; 16];

/// A name, and the directory that it is in.
pub(super) type Name = (u64, Vec<u8>);

/// An inode that was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) ino: u64,
    /// The transaction in which it was made.
    pub(super) made: u64,
    pub(super) is_dir: bool,
    /// Whether some of its content is younger.
    has_content: bool,
    /// Size and times, as somebody who compares files looks at them.
    outside: u64,
    /// What is in the inode, but for what reading changes.
    state: State,
    /// How many names it has, and where those begin that were found.
    links: u32,
    first: u32,
    found: u32,
}

/// The inodes that were written after a transaction, in order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Younger {
    written: Vec<Written>,
    dirs: HashSet<u64>,
    /// The directory of each name, and where the name lies in `bytes`.
    names: Vec<(u64, u32, u16)>,
    bytes: Vec<u8>,
}

/// Of which tree and since when, and what was found.
type Last = ((u64, u64), Weak<Younger>);

/// What was searched last, as long as somebody works with it: two questions about one tree come together.
static LAST_SEARCH: Mutex<Option<Last>> = Mutex::new(None);

/// Whether to give up.
type Stop<'a> = dyn Fn() -> bool + Sync + 'a;

/// What all threads of a search found: inodes, and bytes of names.
#[derive(Default)]
struct Taken {
    inodes: AtomicUsize,
    names: AtomicUsize,
}

impl Younger {
    /// Searches the tree of the subvolume that `dir` lies on for what differs from `base`, which was taken of it in the
    /// transaction `since`.
    ///
    /// # Errors
    /// [`Errno::CANCELED`], [`Errno::TOOBIG`] if too much was written, or what the kernel says.
    pub(super) fn of(dir: &OwnedFd, base: &OwnedFd, since: u64, call: &Call) -> Result<Arc<Self>, Errno> {
        let stop = || call.is_cancelled();
        let search = || Self::search(dir, Some(base), since, &stop);
        if !btrfs::is_read_only(dir) {
            return search().map(Arc::new);
        }
        // A read-only tree stays as it is, and keeps its number as long as somebody has it open.
        let key = (fstat(dir)?.st_dev, since);
        let mut last = LAST_SEARCH.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = last.as_ref().filter(|(of, _)| *of == key).and_then(|(_, found)| found.upgrade())
        {
            return Ok(found);
        }
        let found = Arc::new(search()?);
        *last = Some((key, Arc::downgrade(&found)));
        Ok(found)
    }

    /// Searches with as many threads as there are processors. With a base, what is there as it is now is left out, but for the
    /// time of the last access.
    fn search(dir: &OwnedFd, base: Option<&OwnedFd>, since: u64, stop: &Stop<'_>) -> Result<Self, Errno> {
        let parts = parts(dir, since)?;
        let (next, taken) = (AtomicUsize::new(0), Taken::default());
        let work = || {
            let (mut search, mut found) = (Search::with_room(ROOM), Vec::new());
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(&part) = parts.get(at) else { return Ok(found) };
                let part = Self::part(dir, base, part, since, (&mut search, &taken), stop);
                // What one thread could not do, no other needs to go on with.
                found.push((at, part.inspect_err(|_| next.store(parts.len(), Ordering::Relaxed))?));
            }
        };
        let threads = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)).min(parts.len());
        let results: Vec<Result<Vec<(usize, Self)>, Errno>> = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = others.into_iter().map(|other| other.join().unwrap_or(Err(Errno::IO)));
            std::iter::once(own).chain(others).collect()
        });
        let mut found =
            results.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect::<Vec<_>>();
        found.sort_unstable_by_key(|(at, _)| *at);
        let mut all = Self::default();
        all.written.reserve_exact(found.iter().map(|(_, part)| part.written.len()).sum());
        found.into_iter().for_each(|(_, part)| all.append(part));
        Ok(all)
    }

    /// Searches one part.
    fn part(
        dir: &OwnedFd,
        base: Option<&OwnedFd>,
        (first, last): (u64, u64),
        since: u64,
        (search, taken): (&mut Search, &Taken),
        stop: &Stop<'_>,
    ) -> Result<Self, Errno> {
        let mut found = Self::default();
        let range = ((first, INODE, 0), (last, u32::from(u8::MAX), u64::MAX));
        // A leaf brings older inodes, and items of other types, along.
        search.run(dir, range, since + 1, |item| {
            if matches!(item.key.1, INODE) && stop() {
                return Err(Errno::CANCELED);
            }
            found.take_in(item, since, taken)
        })?;
        match base {
            Some(base) => found.without_readings(base, since, stop),
            None => Ok(found),
        }
    }

    /// Leaves out what is in the base as it is now, but for the time of the last access.
    fn without_readings(mut self, base: &OwnedFd, since: u64, stop: &Stop<'_>) -> Result<Self, Errno> {
        let (mut kept, mut inode) = (Vec::new(), Search::with_room(0));
        for written in std::mem::take(&mut self.written) {
            if stop() {
                return Err(Errno::CANCELED);
            }
            let (mut was, ino) = (None, written.ino);
            if written.made <= since && !written.has_content {
                inode.run(base, ((ino, INODE, 0), (ino, INODE, u64::MAX)), 0, |Item { data, .. }| {
                    was = Some(state(data).ok_or(Errno::IO)?);
                    Ok(())
                })?;
            }
            if was == Some(written.state) {
                self.dirs.remove(&ino);
            } else {
                kept.push(written);
            }
        }
        self.written = kept;
        Ok(self)
    }

    /// Adds what was found in the part behind this one.
    fn append(&mut self, part: Self) {
        let (names, bytes) = (self.names.len() as u32, self.bytes.len() as u32);
        let moved = |written: Written| Written { first: written.first + names, ..written };
        self.written.extend(part.written.into_iter().map(moved));
        self.dirs.extend(part.dirs);
        self.names.extend(part.names.into_iter().map(|(parent, at, len)| (parent, at + bytes, len)));
        self.bytes.extend(part.bytes);
    }

    /// Reads one page of results, for fuzzers.
    pub(super) fn of_page(page: &Page<'_>, since: u64) -> Result<Self, Errno> {
        let (mut found, taken) = (Self::default(), Taken::default());
        page.each(|item| found.take_in(item, since, &taken))?;
        Ok(found)
    }

    fn take_in(
        &mut self,
        Item { key: (ino, kind, offset), data }: Item<'_>,
        since: u64,
        taken: &Taken,
    ) -> Result<(), Errno> {
        const DIR: u32 = 0o040_000;
        match kind {
            INODE => {
                let [made, written] = [0, 8].map(|at| u64_at(data, at).ok_or(Errno::IO));
                let [links, mode] = [40, 52].map(|at| u32_at(data, at).ok_or(Errno::IO));
                let (made, links, is_dir) = (made?, links?, mode? & 0o170_000 == DIR);
                if written? <= since {
                    return Ok(());
                }
                if taken.inodes.fetch_add(1, Ordering::Relaxed) >= MOST {
                    return Err(Errno::TOOBIG);
                }
                let (first, state) = (self.names.len() as u32, state(data).ok_or(Errno::IO)?);
                let (outside, has_content) = (outside(data).ok_or(Errno::IO)?, false);
                let written =
                    Written { ino, made, is_dir, has_content, outside, state, links, first, found: 0 };
                self.written.push(written);
                if is_dir {
                    self.dirs.insert(ino);
                }
            }
            REF | EXTREF if taken.names.load(Ordering::Relaxed) < NAMES => {
                let Some(of) = self.written.last_mut().filter(|of| of.ino == ino) else { return Ok(()) };
                let mut found = Vec::new();
                names((kind == REF).then_some(offset), data, &mut found).ok_or(Errno::IO)?;
                of.found += found.len() as u32;
                for (parent, name) in found {
                    self.names.push((parent, self.bytes.len() as u32, name.len() as u16));
                    taken.names.fetch_add(name.len(), Ordering::Relaxed);
                    self.bytes.extend(name);
                }
            }
            EXTENT => {
                // It begins with the transaction in which it was written.
                let is_younger = u64_at(data, 0).ok_or(Errno::IO)? > since;
                if let Some(of) = self.written.last_mut().filter(|of| of.ino == ino) {
                    of.has_content |= is_younger;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a file's content was written since the base, which has the file as it is now but for that.
    pub(super) fn is_silent(
        of: Written,
        base: impl AsFd,
        since: u64,
        search: &mut Search,
    ) -> Result<bool, Errno> {
        if of.is_dir || !of.has_content || of.made > since {
            return Ok(false);
        }
        let mut was = None;
        search.run(base, ((of.ino, INODE, 0), (of.ino, INODE, u64::MAX)), 0, |Item { data, .. }| {
            was = Some(outside(data).ok_or(Errno::IO)?);
            Ok(())
        })?;
        Ok(was == Some(of.outside))
    }

    /// Returns the inodes.
    pub(super) fn iter(&self) -> impl Iterator<Item = Written> {
        self.written.iter().copied()
    }

    /// Returns every name of an inode; `None` if some lie in leaves that nobody wrote, and are to be looked up.
    pub(super) fn names(&self, of: Written) -> Option<Vec<Name>> {
        let names = &self.names[of.first as usize..][..of.found as usize];
        let name = |&(parent, at, len): &(u64, u32, u16)| {
            (parent, self.bytes[at as usize..][..usize::from(len)].to_vec())
        };
        (of.found == of.links).then(|| names.iter().map(name).collect())
    }

    /// Whether one of these names may have come after the transaction: a directory that gets a name is written.
    pub(super) fn may_be_new(&self, names: &[Name]) -> bool {
        names.iter().any(|(parent, _)| self.dirs.contains(parent))
    }
}

/// Returns what is in a `struct btrfs_inode_item`, but for the transaction in which it was written and the time of the last access.
fn state(data: &[u8]) -> Option<State> {
    let mut hash = blake3::Hasher::new();
    hash.update(data.get(..8)?).update(data.get(16..112)?).update(data.get(124..)?);
    hash.finalize().as_bytes()[..16].try_into().ok()
}

/// Returns a digest of an inode's size, and of the times of its last change and that of its content.
fn outside(data: &[u8]) -> Option<u64> {
    let mut hash = blake3::Hasher::new();
    hash.update(data.get(16..24)?).update(data.get(124..148)?);
    u64_at(hash.finalize().as_bytes(), 0)
}

/// Cuts the numbers of inodes into equal parts, from the first to the last in a leaf that was written since; none if no leaf was.
fn parts(dir: &OwnedFd, since: u64) -> Result<Vec<(u64, u64)>, Errno> {
    let mut search = Search::with_room(0);
    let mut from = |ino| {
        let range = ((ino, INODE, 0), (LAST, u32::from(u8::MAX), u64::MAX));
        Ok(search.first(dir, range, since + 1)?.map(|(ino, ..)| ino))
    };
    let Some(first) = from(SUBVOLUME_ROOT)? else { return Ok(Vec::new()) };
    // Between the two lies the end: none from `high` on, some at `low`.
    let (mut low, mut high) = (first, LAST);
    let mut next = first.saturating_mul(2);
    while high - low > (low - first) / PARTS && high - low > PARTS {
        let at = if next < high { next } else { low + (high - low).div_ceil(2) };
        match from(at)? {
            Some(ino) => (low, next) = (ino.min(high - 1), ino.saturating_mul(2)),
            None => (high, next) = (at, LAST),
        }
    }
    let step = ((high - first) / PARTS).max(PARTS);
    let mut parts: Vec<(u64, u64)> = Vec::new();
    while parts.last().is_none_or(|(_, last)| *last < LAST) {
        let from = parts.last().map_or(first, |(_, last)| last + 1);
        let last = from.saturating_add(step - 1);
        parts.push((from, if last >= high { LAST } else { last }));
    }
    Ok(parts)
}

/// Counts the inodes that were written in a read-only snapshot since an older one: nothing but the search itself, which benchmarks
/// measure. `None` if both are no snapshots of one subvolume, in this order.
///
/// # Errors
/// What the kernel says.
#[doc(hidden)]
pub fn count(base: &Path, now: &Path) -> std::io::Result<Option<usize>> {
    let Some(since) = unchanged::since(&KernelBtrfs, base, now)? else { return Ok(None) };
    let dir = open::root(&now.into())?;
    Ok(Some(Younger::search(&dir, None, since, &|| false)?.written.len()))
}
