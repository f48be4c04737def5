//! Who has which place of which extent.

use std::collections::BTreeMap;

use super::Ranges;
use crate::proto::Origin;

/// Files share whole blocks.
pub(super) const BLOCK: u64 = 4096;

/// Stretches that are held, at most: about 80 MB.
const HELD: usize = 1 << 20;

/// Where a stretch of a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The extent.
    pub(super) disk: u64,
    /// Where it begins in the content of the extent.
    pub(super) inside: u64,
    /// Where it begins in the file.
    pub(super) at: u64,
    pub(super) len: u64,
    /// The transaction in which the extent was written.
    pub(super) made: u64,
}

/// A stretch of a file that was met.
#[derive(Debug, Clone, Copy)]
struct Held {
    at: u64,
    len: u64,
    origin: u32,
}

/// All stretches that were met, by extent and place in it.
#[derive(Debug, Default)]
pub(super) struct Index {
    held: BTreeMap<(u64, u64), Held>,
    origins: Vec<Origin>,
}

impl Index {
    /// Takes in stretches of one file; whether any was new.
    pub(super) fn add(&mut self, origin: Origin, stretches: Vec<Stretch>) -> bool {
        let number = self.origins.len() as u32;
        let mut is_new = false;
        for Stretch { disk, inside, at, len, .. } in stretches {
            if self.held.len() >= HELD {
                break;
            }
            let held = self.held.entry((disk, inside)).or_insert(Held { at, len: 0, origin: number });
            if held.len < len {
                *held = Held { at, len, origin: number };
                is_new = true;
            }
        }
        if is_new {
            self.origins.push(origin);
        }
        is_new
    }

    /// Adds what others have of a stretch to `found`; returns what nobody has.
    pub(super) fn cover(&self, stretch: &Stretch, found: &mut Ranges) -> Vec<Stretch> {
        let Stretch { disk, inside, at, len, .. } = *stretch;
        let (mut from, end) = (inside, inside + len);
        let first = self.held.range((disk, 0)..=(disk, inside)).next_back();
        let later = self.held.range((disk, inside + 1)..(disk, end.max(inside + 1)));
        let mut gaps = Vec::new();
        let part = |from: u64, to: u64| Stretch {
            inside: from,
            at: at + (from - inside),
            len: to - from,
            ..*stretch
        };
        for ((_, begins), held) in first.into_iter().chain(later) {
            let (start, stop) = ((*begins).max(from), (begins + held.len).min(end));
            if start >= stop {
                continue;
            }
            let place = at + (start - inside);
            let origin = (held.origin, &self.origins[held.origin as usize]);
            let taken = found.add(place, stop - start, held.at + (start - begins), origin);
            if taken > 0 {
                if start > from {
                    gaps.push(part(from, start));
                }
                from = start + taken;
            }
        }
        if from < end {
            gaps.push(part(from, end));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Share;

    fn stretch(disk: u64, inside: u64, at: u64, len: u64) -> Stretch {
        let all = [inside, at, len].map(|blocks| blocks * BLOCK);
        Stretch { disk, inside: all[0], at: all[1], len: all[2], made: 1 }
    }

    fn blocks(range: &Share) -> (u64, u64, u64) {
        (range.at / BLOCK, range.len / BLOCK, range.from_at / BLOCK)
    }

    #[test]
    fn what_others_have_is_covered_and_the_rest_is_left() {
        let mut index = Index::default();
        assert!(index.add(Origin::Asked(1), vec![stretch(7, 2, 10, 4), stretch(7, 8, 30, 2)]));
        let mut found = Ranges::new(2, 1 << 30);
        let gaps = index.cover(&stretch(7, 0, 100, 12), &mut found);
        assert_eq!(gaps, [stretch(7, 0, 100, 2), stretch(7, 6, 106, 2), stretch(7, 10, 110, 2)]);
        let shares = found.finish().unwrap();
        assert_eq!(shares.ranges.iter().map(blocks).collect::<Vec<_>>(), [(102, 4, 10), (108, 2, 30)]);
        assert_eq!(shares.origins, [Origin::Asked(1)]);
        let mut found = Ranges::new(3, 1 << 30);
        assert_eq!(index.cover(&stretch(8, 0, 0, 4), &mut found), [stretch(8, 0, 0, 4)]);
        assert_eq!(found.finish(), None);
    }

    #[test]
    fn neighbours_of_one_file_are_one_range_and_only_whole_blocks_are_shared_before_the_end() {
        let mut index = Index::default();
        let odd = Stretch { len: 4 * BLOCK + 5, ..stretch(7, 0, 4, 4) };
        index.add(Origin::Asked(1), vec![stretch(6, 0, 0, 4), odd]);
        let mut found = Ranges::new(2, 16 * BLOCK);
        assert_eq!(index.cover(&stretch(6, 0, 0, 4), &mut found), []);
        let gaps = index.cover(&stretch(7, 0, 4, 8), &mut found);
        assert_eq!(gaps, [stretch(7, 4, 8, 4)]);
        assert_eq!(found.finish().unwrap().ranges.iter().map(blocks).collect::<Vec<_>>(), [(0, 8, 0)]);
        let mut found = Ranges::new(3, 8 * BLOCK + 5);
        let end = Stretch { at: 4 * BLOCK, ..odd };
        assert_eq!(index.cover(&end, &mut found), []);
        assert_eq!(found.finish().unwrap().ranges[0].len, 4 * BLOCK + 5);
    }
}
