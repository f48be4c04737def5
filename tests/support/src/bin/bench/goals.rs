//! What is to be reached, and whether it is.

use super::{
    case::{Case, Scene},
    figures::Figures,
    measure::Run,
    tool::Tool,
};

/// What a goal speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The time of ours in parts of the peer's.
    Wall(Tool),
    /// The time of ours once the connection is there, in parts of the peer's.
    Connected(Tool),
    /// The processor time of ours in parts of the peer's.
    Cpu(Tool),
    /// Bytes on the wire in parts of those that changed.
    Wire,
    /// Bytes of the largest process.
    Memory,
}

/// The size that a goal was set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Files in the home.
    Files(usize),
    /// Bytes of the image.
    Image(u64),
}

/// Something to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// In this case.
    pub case: Case,
    /// Of this.
    pub measure: Measure,
    /// With warm caches at most so much.
    pub most: f64,
    /// With cold caches at most so much, if there is a goal for that.
    pub cold: Option<f64>,
    /// In a home of this size.
    pub scale: Scale,
}

const fn goal(case: Case, measure: Measure, most: f64, files: usize) -> Goal {
    Goal { case, measure, most, cold: None, scale: Scale::Files(files) }
}

const fn of_image(measure: Measure, most: f64) -> Goal {
    Goal { scale: Scale::Image(4 << 30), ..goal(Case::Image, measure, most, 0) }
}

const RSYNC: Measure = Measure::Wall(Tool::Rsync);
const SEND: Measure = Measure::Wall(Tool::Send);

/// All of them.
pub const GOALS: [Goal; 19] = [
    goal(Case::First, RSYNC, 0.5, 100_000),
    goal(Case::First, Measure::Cpu(Tool::Rsync), 0.6, 100_000),
    goal(Case::First, SEND, 1.0, 100_000),
    Goal { cold: Some(0.05), ..goal(Case::NoChange, RSYNC, 0.1, 300_000) },
    goal(Case::NoChange, SEND, 1.1, 300_000),
    goal(Case::NoChange, Measure::Connected(Tool::RsyncOpen), 0.02, 300_000),
    goal(Case::Changed, RSYNC, 0.125, 300_000),
    goal(Case::Changed, SEND, 0.6, 300_000),
    goal(Case::Changed, Measure::Wire, 1.06, 300_000),
    of_image(Measure::Wall(Tool::RsyncWhole), 0.05),
    of_image(SEND, 1.2),
    of_image(Measure::Wire, 1.06),
    of_image(RSYNC, 1.0 / 15.0),
    goal(Case::Renamed, RSYNC, 1.0 / 30.0, 300_000),
    goal(Case::Renamed, SEND, 1.2, 300_000),
    goal(Case::Fallback, RSYNC, 1.0 / 3.0, 300_000),
    goal(Case::Detection, Measure::Wall(Tool::OwnWalk), 0.1, 1_000_000),
    goal(Case::Search, Measure::Wall(Tool::OwnWalk), 0.1, 1_000_000),
    goal(Case::Memory, Measure::Memory, 200e6, 1_000_000),
];

/// What became of a goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is reached, by this figure.
    Reached(f64),
    /// It is missed, by this figure.
    Missed(f64),
    /// There is no goal for cold caches.
    NotSet(f64),
    /// There are no runs that tell.
    NotMeasured,
}

impl Goal {
    /// Returns what is to be reached with such caches.
    pub fn most(&self, is_cold: bool) -> Option<f64> {
        if is_cold && !matches!(self.measure, Measure::Wire | Measure::Memory) {
            self.cold
        } else {
            Some(self.most)
        }
    }

    /// Looks whether it is reached.
    pub fn judge(&self, figures: &Figures, is_cold: bool) -> Verdict {
        let seen = match self.measure {
            Measure::Wall(peer) => figures.ratio(self.case, peer, Run::wall),
            Measure::Connected(peer) => figures.ratio_of(self.case, peer, Run::connected, Run::wall),
            Measure::Cpu(peer) => figures.ratio(self.case, peer, Run::cpu),
            Measure::Wire => figures.median(self.case, Tool::PcSwitcher, Run::wire_share),
            // The largest that was ever seen, not the usual one.
            Measure::Memory => {
                let runs = figures.runs(self.case, Tool::PcSwitcher).iter();
                runs.map(Run::peak_bytes).max().map(|bytes| bytes as f64)
            }
        };
        match (seen, self.most(is_cold)) {
            (None, _) => Verdict::NotMeasured,
            (Some(seen), None) => Verdict::NotSet(seen),
            (Some(seen), Some(most)) if seen <= most => Verdict::Reached(seen),
            (Some(seen), Some(_)) => Verdict::Missed(seen),
        }
    }

    /// Tells whether a home of this size, or an image, is as large as the goal was set for.
    pub fn is_at_scale(&self, files: usize, image_bytes: u64) -> bool {
        match self.scale {
            Scale::Files(wanted) => files >= wanted,
            Scale::Image(wanted) => image_bytes >= wanted,
        }
    }

    /// Returns the home that it is judged in.
    pub fn scene(&self) -> Scene {
        self.case.scene()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(case: Case, peer: Tool, ours: u64, theirs: u64) -> Figures {
        let mut figures = Figures::default();
        figures.add(case, Tool::PcSwitcher, Run::of_seconds(ours));
        figures.add(case, peer, Run::of_seconds(theirs));
        figures
    }

    fn judge(goal: usize, figures: &Figures, is_cold: bool) -> Verdict {
        GOALS[goal].judge(figures, is_cold)
    }

    #[test]
    fn every_case_has_a_goal() {
        assert!(Case::ALL.into_iter().all(|case| GOALS.iter().any(|goal| goal.case == case)));
        let can = |goal: &Goal| match goal.measure {
            Measure::Wall(peer) | Measure::Cpu(peer) | Measure::Connected(peer) => {
                goal.case.peers().contains(&peer)
            }
            Measure::Wire | Measure::Memory => true,
        };
        assert!(GOALS.iter().all(can), "a goal against a tool that is never asked");
    }

    #[test]
    fn a_goal_is_reached_missed_or_not_measured() {
        let figures = pair(Case::NoChange, Tool::Rsync, 1, 10);
        assert_eq!(judge(3, &figures, false), Verdict::Reached(0.1));
        assert_eq!(judge(4, &figures, false), Verdict::NotMeasured);
        let figures = pair(Case::NoChange, Tool::Rsync, 2, 10);
        assert_eq!(judge(3, &figures, false), Verdict::Missed(0.2));
    }

    #[test]
    fn cold_caches_have_a_goal_of_their_own_or_none() {
        let figures = pair(Case::NoChange, Tool::Rsync, 1, 10);
        assert_eq!(judge(3, &figures, true), Verdict::Missed(0.1));
        let figures = pair(Case::First, Tool::Rsync, 1, 10);
        assert_eq!(judge(0, &figures, true), Verdict::NotSet(0.1));
    }

    #[test]
    fn memory_is_judged_by_the_largest_and_wire_by_what_changed() {
        let mut figures = Figures::default();
        let memory = |bytes| [("a".to_owned(), 5), ("b".to_owned(), bytes)].into();
        for bytes in [1_000, 201_000_000, 1_000] {
            figures.add(Case::Memory, Tool::PcSwitcher, Run { memory: memory(bytes), ..Run::of_seconds(1) });
        }
        assert_eq!(judge(GOALS.len() - 1, &figures, true), Verdict::Missed(201e6));
        let run = Run { wire_bytes: 105, changed_bytes: Some(100), ..Run::of_seconds(1) };
        figures.add(Case::Image, Tool::PcSwitcher, run);
        assert_eq!(judge(11, &figures, false), Verdict::Reached(1.05));
    }

    #[test]
    fn a_small_home_is_not_what_a_goal_was_set_for() {
        assert!(GOALS[3].is_at_scale(300_000, 0) && !GOALS[3].is_at_scale(100_000, 4 << 30));
        assert!(GOALS[9].is_at_scale(10, 4 << 30) && !GOALS[9].is_at_scale(300_000, 1 << 30));
    }
}
