//! All runs, by case and tool, and what is made of them.

use std::collections::BTreeMap;

use clap::ValueEnum;

use super::{measure::Run, tool::Tool};

/// What is asked of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Case {
    /// The target is empty.
    First,
    /// Both are the same.
    NoChange,
    /// A day's work on one file in a hundred.
    Changed,
    /// One block in a hundred of a large image was written, here and there.
    Image,
    /// The directory that holds everything has another name.
    Renamed,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::First, Self::NoChange, Self::Changed, Self::Image, Self::Renamed];

    /// Returns its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first sync",
            Self::NoChange => "no change",
            Self::Changed => "1 % changed",
            Self::Image => "image, 1 % of blocks",
            Self::Renamed => "all renamed",
        }
    }

    /// Returns the part of rsync's time that is the goal.
    pub fn goal(self) -> f64 {
        match self {
            Self::First => 0.5,
            Self::NoChange => 0.1,
            Self::Changed => 0.125,
            Self::Image => 0.05,
            Self::Renamed => 1.0 / 30.0,
        }
    }
}

/// The most that each process of ours may have in memory.
pub const MEMORY_GOAL: u64 = 150_000_000;

/// All runs.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<(Case, Tool), Vec<Run>>);

impl Figures {
    /// Adds a run.
    pub fn add(&mut self, case: Case, tool: Tool, run: Run) {
        self.0.entry((case, tool)).or_default().push(run);
    }

    /// Returns the runs of a case in the order in which they were made.
    pub fn runs(&self, case: Case, tool: Tool) -> &[Run] {
        self.0.get(&(case, tool)).map_or(&[], Vec::as_slice)
    }

    /// Returns the median of what `of` says about each run.
    pub fn median(&self, case: Case, tool: Tool, of: impl Fn(&Run) -> f64) -> Option<f64> {
        median(self.runs(case, tool).iter().map(of).collect())
    }

    /// Returns the median of the ratios of neighbouring runs: ours to rsync's.
    pub fn ratio(&self, case: Case, of: impl Fn(&Run) -> f64) -> Option<f64> {
        let pairs = self.runs(case, Tool::PcSwitcher).iter().zip(self.runs(case, Tool::Rsync));
        median(pairs.map(|(ours, theirs)| of(ours) / of(theirs)).collect())
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        len if len % 2 == 1 => Some(figures[middle]),
        _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }
}
