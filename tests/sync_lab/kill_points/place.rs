//! The moments of a sync that can be waited for, from the first stage line to the last.

use std::{
    fmt,
    time::{Duration, Instant},
};

use pc_switcher_testkit::lab::{Lab, Running};

use super::{is_fallback, is_plain, scene::Scene};

const MINUTE: Duration = Duration::from_secs(60);
/// Makes the copying take more than a second.
pub const SLOW_KBIT_PER_S: u32 = 160_000;

/// A moment of a sync.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// A stage line.
    Stage(&'static str),
    /// So much of the content has arrived, as progress events tell.
    Arrived(f64),
    /// So much of the new tree is live, as the desk's own disk tells.
    Committed(f64),
    /// A nested subvolume comes or goes.
    Nested(Nested),
}

/// The moments of nested subvolumes, which come and go by themselves (docs/adr/0011-nested-subvolumes-are-parts.md).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nested {
    /// One that goes is to be emptied.
    Emptied,
    Removed,
    /// One that comes stands there, and is empty.
    Made,
    Filled,
}

impl Nested {
    /// Those that a sync has.
    pub fn all() -> &'static [Nested] {
        match (is_plain(), is_fallback()) {
            (true, _) => &[],
            // What was synced before is not known, so nothing goes.
            (false, true) => &[Self::Made, Self::Filled],
            (false, false) => &[Self::Emptied, Self::Removed, Self::Made, Self::Filled],
        }
    }

    fn is_met(self, said: &str) -> bool {
        match self {
            Self::Emptied => said.contains(&line_of("commit")),
            Self::Removed => said.contains(REMOVED),
            Self::Made => said.contains(MADE),
            Self::Filled => said.split_once(MADE).is_some_and(|(_, rest)| rest.contains(&line_of("commit"))),
        }
    }
}

/// What is said when they were removed and made.
const REMOVED: &str = "boxes/goes` is removed";
const MADE: &str = "boxes/comes` is made";

impl Place {
    /// Makes the sync slow where that is needed to meet the moment.
    pub fn prepare(self, lab: &Lab) {
        if matches!(self, Self::Arrived(_)) {
            lab.desk().limit_rate(Some(SLOW_KBIT_PER_S)).unwrap();
        }
    }

    /// Waits for the moment in a sync that tells its events as JSON.
    #[track_caller]
    pub fn wait(self, running: &Running, lab: &Lab, scene: &Scene) {
        let step = Duration::from_millis(3);
        let expect = |stage: &str| {
            watch(running, step, || {
                standing(&said(running)).is_some_and(|said| said.contains(&line_of(stage)))
            });
        };
        match self {
            Self::Stage(stage @ ("stage" | "commit" | "committing")) => expect(stage),
            Self::Stage(stage) => running.expect(&line_of(stage), MINUTE).unwrap(),
            Self::Arrived(share) => {
                expect("stage");
                watch(running, step, || standing(&said(running)).is_some_and(|said| arrived(said) >= share));
            }
            Self::Committed(share) => {
                expect("commit");
                watch(running, Duration::ZERO, || scene.committed(lab) >= share);
            }
            Self::Nested(nested) => watch(running, step, || nested.is_met(&said(running))),
        }
    }
}

fn said(running: &Running) -> String {
    String::from_utf8_lossy(&running.stdout()).into_owned()
}

/// Returns what was said since nested subvolumes that go are gone: from then on it is of what stands on both machines.
fn standing(said: &str) -> Option<&str> {
    match Nested::all().contains(&Nested::Removed) {
        true => said.split_once(REMOVED).map(|(_, rest)| rest),
        false => Some(said),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage(stage) => write!(f, "at {stage}"),
            Self::Arrived(share) => write!(f, "with {:.0} % staged", share * 100.0),
            Self::Committed(share) => write!(f, "with {:.0} % committed", share * 100.0),
            Self::Nested(nested) => write!(f, "at a nested subvolume: {nested:?}"),
        }
    }
}

fn line_of(stage: &str) -> String {
    format!("\"stage\":\"{stage}\"")
}

#[track_caller]
fn watch(running: &Running, step: Duration, is_met: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_met() {
        let ended = running.try_wait().unwrap();
        assert!(ended.is_none() && start.elapsed() < MINUTE, "the moment never came: {ended:?}");
        std::thread::sleep(step);
    }
}

/// Returns which share of the content has gone over, by the last word about it; nobody says that it was all.
fn arrived(said: &str) -> f64 {
    if said.contains(&line_of("commit")) {
        return 1.0;
    }
    let shares = said.lines().rev().filter_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let [done, total] = [0, 1].map(|at| event["progress"]["bytes"][at].as_f64());
        Some(done? / total?)
    });
    shares.take(1).next().unwrap_or(0.0)
}
