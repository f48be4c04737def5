//! How files stand to what they were in an older snapshot, and what of them is read to prove what they are now.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::delta::{AT_ONCE, Range, open_file};
use super::ranges::{self, Inode};
use super::seen::Seen;
use super::{open, walk, wants};
use crate::proto::{AgentError, ChangedRange, Ranges, ReadWant, Since};
use crate::server::Call;

/// Answers that one item carries, at most.
const ITEM: usize = 512;

/// Bytes that lie elsewhere than in the older snapshot though nobody was to write there, and are compared, at most.
const BESIDE: u64 = 16 << 20;

/// Answers [`crate::proto::Request::Since`].
///
/// # Errors
/// If a root cannot be opened or is no read-only snapshot, or the caller gave up.
pub fn run(root: &BytePath, base: &BytePath, call: &Call) -> Result<(), AgentError> {
    let (dir, base) = both(root, base)?;
    wants::serve(call, AT_ONCE, |wants| {
        let mut found: Vec<Since> = Vec::new();
        loop {
            let flush = || if found.is_empty() { Ok(()) } else { call.item(&std::mem::take(&mut found)) };
            let Some(wants) = wants::next(wants, flush)? else { return Ok(()) };
            // What the trees do not tell is not known.
            found.extend(wants.iter().filter_map(|want| since(&dir, &base, want).ok()));
            if found.len() >= ITEM {
                call.item(&std::mem::take(&mut found))?;
            }
        }
    })
}

fn since(dir: &OwnedFd, base: &OwnedFd, want: &ReadWant) -> Result<Since, Errno> {
    let (new, old) = (open_file(dir, &want.path)?, open_file(base, &want.path)?);
    let (now, then) = (Inode::of(&new)?, Inode::of(&old)?);
    let size = Seen::of(&old)?.size();
    let ranges = match now == then {
        // Every write is a transaction that the inode names.
        true => 0,
        false => {
            let is_resized = Seen::of(&new)?.size() != size;
            ranges::changed(&new, &old)?.len().max(usize::from(is_resized))
        }
    };
    let has_sums = now.has_sums() && then.has_sums();
    Ok(Since { content: want.content, size, ranges: u32::try_from(ranges).unwrap_or(u32::MAX), has_sums })
}

/// Answers [`crate::proto::Request::Ranges`].
///
/// # Errors
/// As [`run`].
pub fn run_ranges(root: &BytePath, base: &BytePath, call: &Call) -> Result<(), AgentError> {
    let (dir, base) = both(root, base)?;
    wants::serve(call, AT_ONCE, |wants| {
        while let Some(wants) = wants::next(wants, || Ok(()))? {
            for want in wants {
                if let Ok(told) = told(&dir, &base, want, &|| call.is_cancelled()) {
                    call.item(&told)?;
                }
            }
        }
        Ok(())
    })
}

fn told(
    dir: &OwnedFd,
    base: &OwnedFd,
    ReadWant { content, path }: ReadWant,
    stop: &dyn Fn() -> bool,
) -> Result<(Ranges, [u8; 32]), Errno> {
    let (new, old) = (open_file(dir, &path)?, open_file(base, &path)?);
    let (size, changed) = (Seen::of(&new)?.size(), ranges::changed(&new, &old)?);
    let digest = ranges::digest(&new, &changed, size, stop)?;
    let ranges = changed.into_iter().map(|Range { at, end, is_hole }| (at, end, is_hole)).collect();
    Ok((Ranges { content, path, size, ranges }, digest))
}

/// Answers [`crate::proto::Request::Reread`].
///
/// # Errors
/// As [`run`].
pub fn run_reread(root: &BytePath, base: &BytePath, call: &Call) -> Result<(), AgentError> {
    let (dir, base) = both(root, base)?;
    wants::serve(call, AT_ONCE, |wants| {
        while let Some(wants) = wants::next(wants, || Ok(()))? {
            let digest = |want: &Ranges| {
                let digest = reread(&dir, &base, want, &|| call.is_cancelled()).ok()?;
                Some((want.content, digest))
            };
            let found: Vec<(u32, [u8; 32])> = wants.iter().filter_map(digest).collect();
            call.item(&found)?;
        }
        Ok(())
    })
}

fn reread(dir: &OwnedFd, base: &OwnedFd, want: &Ranges, stop: &dyn Fn() -> bool) -> Result<[u8; 32], Errno> {
    let (new, old) = (open_file(dir, &want.path)?, open_file(base, &want.path)?);
    let told = valid(&want.ranges, want.size).ok_or(Errno::INVAL)?;
    if Seen::of(&new)?.size() != want.size {
        return Err(Errno::INVAL);
    }
    let beside = without(&ranges::changed(&new, &old)?, &told);
    if beside.iter().map(|range| range.end - range.at).sum::<u64>() > BESIDE {
        return Err(Errno::TOOBIG);
    }
    let before = Seen::of(&old)?.size();
    for range in beside {
        is_as_before(&new, &old, range, before, stop)?;
    }
    let digest = ranges::digest(&new, &told, want.size, stop);
    // Nobody else reads a snapshot that was just made.
    open::forget(&new);
    digest
}

/// Looks whether a range that lies elsewhere holds what it held; behind the end of the older version, nothing.
fn is_as_before(
    new: &OwnedFd,
    old: &OwnedFd,
    Range { at, end, .. }: Range,
    before: u64,
    stop: &dyn Fn() -> bool,
) -> Result<(), Errno> {
    let middle = before.clamp(at, end);
    ranges::each(new, (at, middle), stop, |at, data| {
        match super::read::read_at(old, at, data.len())? == data {
            true => Ok(()),
            false => Err(Errno::IO),
        }
    })?;
    ranges::holds_zeros(new, middle, end, stop)
}

/// Returns the ranges, if they are in order and within the size.
fn valid(ranges: &[ChangedRange], size: u64) -> Option<Vec<Range>> {
    let mut last = 0;
    let one = |&(at, end, is_hole): &ChangedRange| {
        let fits = at >= last && at < end && end <= size;
        last = end;
        fits.then_some(Range { at, end, is_hole })
    };
    ranges.iter().map(one).collect()
}

/// Returns what of `all` lies in none of `told`; both are in order and without overlaps.
fn without(all: &[Range], told: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    let mut told = told.iter().peekable();
    for range in all {
        let mut at = range.at;
        while at < range.end {
            while told.next_if(|told| told.end <= at).is_some() {}
            let end = match told.peek() {
                Some(told) if told.at <= at => {
                    at = told.end;
                    continue;
                }
                Some(told) => told.at.min(range.end),
                None => range.end,
            };
            left.push(Range { at, end, ..*range });
            at = end;
        }
    }
    left
}

fn both(root: &BytePath, base: &BytePath) -> Result<(OwnedFd, OwnedFd), AgentError> {
    let open = |path: &BytePath| {
        let dir = open::root(path).map_err(|error| AgentError::io(format!("`{path}`"), &error.into()))?;
        match walk::is_sealed(&dir) {
            true => Ok(dir),
            false => Err(AgentError::failed(format!("`{path}` is not in a read-only snapshot"))),
        }
    };
    Ok((open(root)?, open(base)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &[(u64, u64)]) -> Vec<Range> {
        ranges.iter().map(|&(at, end)| Range { at, end, is_hole: false }).collect()
    }

    #[test]
    fn what_was_not_told_is_left() {
        let left = |all: &[(u64, u64)], told: &[(u64, u64)]| without(&list(all), &list(told));
        assert_eq!(left(&[(0, 10)], &[]), list(&[(0, 10)]));
        assert_eq!(left(&[(0, 10)], &[(0, 10)]), []);
        assert_eq!(left(&[(0, 10), (20, 30)], &[(5, 25)]), list(&[(0, 5), (25, 30)]));
        assert_eq!(left(&[(0, 100)], &[(10, 20), (20, 30), (99, 200)]), list(&[(0, 10), (30, 99)]));
        assert_eq!(left(&[(10, 20), (30, 40)], &[(0, 5), (32, 33)]), list(&[(10, 20), (30, 32), (33, 40)]));
    }

    #[test]
    fn ranges_out_of_order_or_beyond_the_end_are_refused() {
        assert!(valid(&[(0, 4, false), (4, 9, true)], 9).is_some());
        for bad in [&[(4, 9, false), (0, 4, false)][..], &[(0, 10, false)], &[(3, 3, true)], &[(5, 4, false)]]
        {
            assert_eq!(valid(bad, 9), None);
        }
    }
}
