//! Which packs are read, and by how many at once.
//!
//! A part of them is chosen by when each was read last: what was never read comes first, then what was not read for longest. So
//! `1/10` has read all that was there at the first of ten runs, whatever their sizes.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::unbounded;

use super::{Observer, Progress, check_cancelled, workers};
use crate::error::Result;
use crate::format::Id;

/// A part of all bytes, as `1/10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    count: u32,
    of: u32,
}

impl Part {
    /// All of it.
    pub const ALL: Self = Self { count: 1, of: 1 };

    fn of_bytes(self, total: u64) -> u64 {
        let wanted = (u128::from(total) * u128::from(self.count)).div_ceil(u128::from(self.of));
        u64::try_from(wanted).unwrap_or(total)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wanted = || format!("`{text}` is no part such as 1/10, a tenth of all");
        let (count, of) = text.split_once('/').ok_or_else(wanted)?;
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wanted());
        match (number(count)?, number(of)?) {
            (count, of) if count >= 1 && count <= of => Ok(Self { count, of }),
            _ => Err(wanted()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.of)
    }
}

/// How much of the packs is read.
#[derive(Debug, Clone, Copy)]
pub enum Reading<'r> {
    /// None of them.
    Nothing,
    /// All.
    All,
    /// A part: those that were not read for longest.
    Part(Part, &'r HashMap<Id, i64>),
}

impl Reading<'_> {
    /// Returns those of the packs that are read.
    pub(super) fn choose(&self, packs: &[(Id, u64)]) -> Vec<(Id, u64)> {
        match self {
            Self::Nothing => Vec::new(),
            Self::All => packs.to_vec(),
            Self::Part(part, read_at) => {
                let mut all = packs.to_vec();
                all.sort_by_key(|(id, _)| (read_at.get(id).copied(), *id));
                let wanted = part.of_bytes(all.iter().map(|(_, size)| size).sum());
                let mut bytes = 0;
                let chosen = all.into_iter().take_while(|(_, size)| {
                    let is_wanted = bytes < wanted;
                    bytes += size;
                    is_wanted
                });
                chosen.collect()
            }
        }
    }
}

/// Has several threads do something with each of these packs, and returns what it came to; the first error ends it.
pub(super) fn each_pack<T: Send>(
    packs: &[(Id, u64)],
    observer: &dyn Observer,
    work: impl Fn(Id) -> Result<T> + Sync,
) -> Result<Vec<(Id, T)>> {
    let total_bytes = packs.iter().map(|(_, size)| size).sum();
    let (read, done, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicBool::new(false));
    let (send, jobs) = unbounded();
    for pack in packs {
        send.send(*pack).ok();
    }
    drop(send);
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            let (jobs, read, done, failed, work) = (jobs.clone(), &read, &done, &failed, &work);
            scope.spawn(move || {
                for (id, size) in jobs {
                    if observer.is_cancelled() || failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let found = work(id);
                    failed.fetch_or(found.is_err(), Ordering::Relaxed);
                    let bytes = read.fetch_add(size, Ordering::Relaxed) + size;
                    observer.progress(Progress { files: 0, bytes, total_bytes, item: id.short().into() });
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((id, found));
                }
            });
        }
    });
    check_cancelled(observer)?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut done = done.into_iter().map(|(id, found)| Ok((id, found?))).collect::<Result<Vec<_>>>()?;
    done.sort_by_key(|(id, _)| *id);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(number: u8, size: u64) -> (Id, u64) {
        (Id([number; 32]), size)
    }

    /// Returns the packs of each of so many runs.
    fn runs(packs: &[(Id, u64)], part: &str, count: i64) -> Vec<Vec<(Id, u64)>> {
        let (part, mut read_at) = (part.parse().unwrap(), HashMap::new());
        let one = |run| {
            let chosen = Reading::Part(part, &read_at).choose(packs);
            read_at.extend(chosen.iter().map(|(id, _)| (*id, run)));
            chosen
        };
        (0..count).map(one).collect()
    }

    proptest::proptest! {
        #[test]
        fn as_many_runs_as_there_are_parts_read_everything(
            sizes in proptest::collection::vec(1_u64..1_000_000, 1..60), of in 1_u32..20,
        ) {
            let packs: Vec<_> = (0..).zip(&sizes).map(|(number, size)| pack(number, *size)).collect();
            let mut read: Vec<_> = runs(&packs, &format!("1/{of}"), of.into()).concat();
            read.sort_unstable();
            read.dedup();
            proptest::prop_assert_eq!(read, packs);
        }
    }

    #[test]
    fn what_was_never_read_comes_before_what_was() {
        let packs: Vec<_> = (0..10).map(|number| pack(number, 100)).collect();
        let three = runs(&packs, "2/10", 3);
        assert_eq!(three[2], packs[4..6]);
        let read_at: HashMap<Id, i64> = packs[1..].iter().map(|(id, _)| (*id, 5)).collect();
        let part = Reading::Part("1/10".parse().unwrap(), &read_at);
        assert_eq!(part.choose(&packs), packs[..1]);
        assert_eq!(Reading::Nothing.choose(&packs), []);
        assert_eq!(Reading::All.choose(&packs), packs);
    }

    #[test]
    fn a_part_is_less_than_all_or_all() {
        assert_eq!("1/1".parse(), Ok(Part::ALL));
        for text in ["", "1", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/2/3"] {
            let error = text.parse::<Part>().unwrap_err();
            assert!(error.contains(text) && error.contains("1/10"), "{error}");
        }
    }
}
