//! The moments of a sync that can be waited for, from the first stage line to the last.

use std::{
    fmt,
    time::{Duration, Instant},
};

use pc_switcher_testkit::lab::{Lab, Running};

use super::scene::Scene;

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
}

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
        let expect = |stage: &str| running.expect(&line_of(stage), MINUTE).unwrap();
        match self {
            Self::Stage(stage) => expect(stage),
            Self::Arrived(share) => {
                expect("stage");
                watch(running, Duration::from_millis(3), || arrived(&running.stdout()) >= share);
            }
            Self::Committed(share) => {
                expect("commit");
                watch(running, Duration::ZERO, || scene.committed(lab) >= share);
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage(stage) => write!(f, "at {stage}"),
            Self::Arrived(share) => write!(f, "with {:.0} % staged", share * 100.0),
            Self::Committed(share) => write!(f, "with {:.0} % committed", share * 100.0),
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
fn arrived(stdout: &[u8]) -> f64 {
    let text = String::from_utf8_lossy(stdout);
    if text.contains(&line_of("commit")) {
        return 1.0;
    }
    let shares = text.lines().rev().filter_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let [done, total] = [0, 1].map(|at| event["progress"]["bytes"][at].as_f64());
        Some(done? / total?)
    });
    shares.take(1).next().unwrap_or(0.0)
}
