//! All runs, by case and tool, and what is made of them.

use std::collections::BTreeMap;

use super::{case::Case, measure::Run, tool::Tool};

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

    /// Returns the tools that were asked for a case, ours first.
    pub fn tools(&self, case: Case) -> impl Iterator<Item = Tool> {
        self.0.keys().filter(move |(at, _)| *at == case).map(|(_, tool)| *tool)
    }

    /// Returns the median of what `of` says about each run.
    pub fn median(&self, case: Case, tool: Tool, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        median(self.runs(case, tool).iter().filter_map(of).collect())
    }

    /// Returns the median of the ratios of neighbouring runs: ours to the peer's.
    pub fn ratio(&self, case: Case, peer: Tool, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        self.ratio_of(case, peer, &of, &of)
    }

    /// Returns the same of what `ours` says about our runs and `theirs` about the peer's.
    pub fn ratio_of(
        &self,
        case: Case,
        peer: Tool,
        ours: impl Fn(&Run) -> Option<f64>,
        theirs: impl Fn(&Run) -> Option<f64>,
    ) -> Option<f64> {
        let pairs = self.runs(case, Tool::PcSwitcher).iter().zip(self.runs(case, peer));
        median(
            pairs
                .filter_map(|(own, other)| Some(ours(own)? / theirs(other)?))
                .filter(|it| it.is_finite())
                .collect(),
        )
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

    #[test]
    fn a_ratio_is_of_neighbours_and_not_of_medians() {
        let mut figures = Figures::default();
        // The host was busy during the second pair.
        for (ours, theirs) in [(1, 2), (90, 100), (1, 4)] {
            figures.add(Case::NoChange, Tool::PcSwitcher, Run::of_seconds(ours));
            figures.add(Case::NoChange, Tool::Rsync, Run::of_seconds(theirs));
        }
        assert_eq!(figures.ratio(Case::NoChange, Tool::Rsync, Run::wall), Some(0.5));
        assert_eq!(figures.median(Case::NoChange, Tool::Rsync, Run::wall), Some(4.0));
        assert_eq!(figures.ratio(Case::NoChange, Tool::Send, Run::wall), None);
        assert_eq!(figures.tools(Case::NoChange).collect::<Vec<_>>(), [Tool::PcSwitcher, Tool::Rsync]);
    }

    #[test]
    fn what_a_run_does_not_know_is_in_no_median() {
        let mut figures = Figures::default();
        figures.add(Case::Changed, Tool::PcSwitcher, Run { wire_bytes: 110, ..Run::of_seconds(1) });
        figures.add(
            Case::Changed,
            Tool::PcSwitcher,
            Run { wire_bytes: 110, changed_bytes: Some(100), ..Run::of_seconds(1) },
        );
        assert_eq!(figures.median(Case::Changed, Tool::PcSwitcher, Run::wire_share), Some(1.1));
    }
}
