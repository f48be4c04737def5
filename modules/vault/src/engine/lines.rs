//! Lines about what is wrong, of which only the first are kept: a vault that lost much lacks it in each of its snapshots.

use std::fmt;

/// So many lines of one sort are kept; all are counted.
const KEPT: usize = 1000;

/// Lines of one sort.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    kept: Vec<String>,
    count: u64,
}

impl Lines {
    /// Takes a line; one beyond those that are kept is not even made.
    pub(crate) fn push<T: fmt::Display>(&mut self, line: impl FnOnce() -> T) {
        self.count += 1;
        if self.has_room() {
            self.kept.push(line().to_string());
        }
    }

    /// Counts lines that nobody will see.
    pub(crate) fn count_more(&mut self, lines: u64) {
        self.count += lines;
    }

    /// Whether the next line is kept.
    pub(crate) fn has_room(&self) -> bool {
        self.kept.len() < KEPT
    }

    /// Takes lines of other sorts; of each as many are kept as it kept.
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.kept.extend(other.kept);
    }

    pub(crate) fn sort(&mut self) {
        self.kept.sort();
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns how many there are in all.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns how many are not kept.
    pub fn more(&self) -> u64 {
        self.count - self.kept.len() as u64
    }

    /// Returns the first of them.
    pub fn kept(&self) -> &[String] {
        &self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_are_counted_and_the_first_of_each_sort_kept() {
        let (mut lost, mut missing) = (Lines::default(), Lines::default());
        for number in 0..KEPT + 7 {
            lost.push(|| {
                assert!(number < KEPT, "nobody would see it");
                number
            });
        }
        missing.push(|| "pack");
        missing.count_more(2);
        lost.add(missing);
        assert_eq!((lost.count(), lost.more(), lost.kept().len()), (1010, 9, KEPT + 1));
        assert!(!lost.is_empty() && Lines::default().is_empty());
    }
}
