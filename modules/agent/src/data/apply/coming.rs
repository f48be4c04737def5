//! The ranges that come over a file that is proven.

use crate::data::delta::Range;

/// What came so far.
#[derive(Debug, Default)]
pub(super) struct Coming {
    data: Vec<Range>,
    holes: Vec<Range>,
}

impl Coming {
    /// Adds bytes, which come in order; those that follow one another are one range.
    pub(super) fn data(&mut self, at: u64, end: u64) {
        match self.data.last_mut().filter(|last| last.end == at) {
            Some(last) => last.end = end,
            None if at < end => self.data.push(Range { at, end, is_hole: false }),
            None => {}
        }
    }

    /// Adds a hole.
    pub(super) fn hole(&mut self, at: u64, end: u64) {
        self.holes.push(Range { at, end, is_hole: true });
    }

    /// Takes all of them out, in order.
    pub(super) fn take(&mut self) -> Vec<Range> {
        let mut all = std::mem::take(&mut self.data);
        all.append(&mut self.holes);
        all.sort_unstable_by_key(|range| (range.at, range.end));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_follow_one_another_are_one_range_and_holes_lie_between() {
        let mut coming = Coming::default();
        coming.hole(40, 50);
        for (at, end) in [(0, 10), (10, 20), (30, 40), (50, 50), (50, 60)] {
            coming.data(at, end);
        }
        // The last piece of a file has nothing, and stands at its beginning.
        coming.data(0, 0);
        let all: Vec<_> = coming.take().into_iter().map(|r| (r.at, r.end, r.is_hole)).collect();
        assert_eq!(all, [(0, 20, false), (30, 40, false), (40, 50, true), (50, 60, false)]);
        assert_eq!(coming.take(), []);
    }
}
