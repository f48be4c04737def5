//! What is done to a sync, and what its machines are brought back with.

use std::{
    thread,
    time::{Duration, Instant},
};

use pc_switcher_testkit::{
    lab::{CableCut, Cmd, DiskCache, Lab, Machine, Result, Running},
    manifest::TreeManifest,
    seed::Random,
};
use rustix::process::Signal;

use super::place::Place;
use crate::hosts::{BY_THEN, assert_nothing_runs, home_cut_off, kill, ours, wait_for};

/// The promise: both machines are free again within a minute.
const MINUTE: Duration = Duration::from_secs(60);
const AGENT: &str = "pc-switcher agent";
/// Below the reserve that is kept by default.
const LITTLE_BYTES: u64 = 5 << 30;

/// What happens to a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    FrontKilled,
    SourceAgentKilled,
    TargetAgentKilled,
    CablePulled,
    DeadAir,
    TargetPowerCut,
    SourcePowerCut,
    TargetAsleep,
    TargetDiskFull,
    TargetDiskBrimful,
    TargetDiskDead,
    ForeignWriter,
}

/// What is left when all is quiet, before anything heals it.
pub struct Aftermath {
    /// How the front ended; `None` if it could not say.
    pub code: Option<i32>,
    pub said: String,
    /// The desk's home.
    pub home: TreeManifest,
    /// How long it took until both machines were free, from the moment that they ran.
    pub free_after: Duration,
}

impl Force {
    /// Whether it finds something to strike at this moment.
    pub fn applies(self, place: Place) -> bool {
        match self {
            Self::SourceAgentKilled => place != Place::Stage("start-agent"),
            Self::TargetAgentKilled => !matches!(place, Place::Stage("start-agent" | "connect")),
            Self::TargetDiskFull | Self::TargetDiskBrimful | Self::TargetDiskDead => matches!(
                place,
                Place::Stage("stage" | "commit" | "committing")
                    | Place::Arrived(_)
                    | Place::Committed(_)
                    | Place::Nested(_)
            ),
            Self::ForeignWriter => matches!(place, Place::Stage("compare" | "stage") | Place::Arrived(_)),
            _ => true,
        }
    }

    /// Returns how the front may end, beside a success of a sync that was over already.
    pub fn codes(self) -> &'static [i32] {
        match self {
            Self::TargetDiskFull => &[1, 6],
            // Filling takes a while, and the connection is given up if the machine stands still for too long.
            Self::TargetDiskBrimful => &[1, 4, 6],
            Self::ForeignWriter => &[6],
            _ => &[1, 4],
        }
    }

    /// Whether the commit may stand half done until a redo.
    pub fn may_halve(self) -> bool {
        matches!(
            self,
            Self::TargetAgentKilled
                | Self::TargetPowerCut
                | Self::TargetDiskFull
                | Self::TargetDiskBrimful
                | Self::TargetDiskDead
        )
    }

    /// Whether a machine loses what it had not written to its disk.
    pub fn loses_a_machine(self) -> bool {
        matches!(self, Self::TargetPowerCut | Self::SourcePowerCut | Self::TargetDiskDead)
    }

    /// Strikes, waits until both machines are free, and gives back what the force took.
    #[track_caller]
    pub fn strike(self, lab: &Lab, running: Running, random: &mut Random) -> Aftermath {
        let (laptop, desk) = (lab.laptop(), lab.desk());
        let start = Instant::now();
        match self {
            Self::FrontKilled => running.signal(Signal::KILL).unwrap(),
            Self::SourceAgentKilled => kill_agent(laptop, &running),
            Self::TargetAgentKilled => kill_agent(desk, &running),
            Self::CablePulled => desk.cable_cut(CableCut::Carrier).unwrap(),
            Self::DeadAir => desk.cable_cut(CableCut::Silent).unwrap(),
            Self::TargetPowerCut => cut_power(desk, random),
            Self::SourcePowerCut => cut_power(laptop, random),
            Self::TargetAsleep => desk.freeze().unwrap(),
            Self::TargetDiskFull => at_once(desk, || desk.fill(0)),
            Self::TargetDiskBrimful => at_once(desk, || desk.fill(0).and_then(|()| desk.fill_metadata())),
            Self::TargetDiskDead => desk.disk_fail().unwrap(),
            Self::ForeignWriter => at_once(desk, || desk.fill(LITTLE_BYTES)),
        }
        let (code, said) = if self == Self::SourcePowerCut {
            drop(running);
            (None, String::new())
        } else {
            let output = running.wait().unwrap();
            (output.code(), format!("{}{}", output.error_text(), output.text()))
        };
        let left = MINUTE.saturating_sub(start.elapsed());
        let free_after = match self {
            Self::TargetPowerCut => {
                assert_nothing_runs(&[laptop], left);
                let free_after = start.elapsed();
                desk.boot().unwrap();
                free_after
            }
            Self::SourcePowerCut => {
                assert_nothing_runs(&[desk], left);
                start.elapsed()
            }
            Self::TargetAsleep => {
                assert_nothing_runs(&[laptop], left);
                // How long it sleeps, not a wait for anything.
                thread::sleep(MINUTE.saturating_sub(start.elapsed()));
                let start = Instant::now();
                desk.thaw().unwrap();
                assert_nothing_runs(&[desk], MINUTE);
                start.elapsed()
            }
            Self::TargetDiskDead => {
                assert_nothing_runs(&[laptop], left);
                // Nothing can be started on a dead disk, so nobody can ask for the lock there.
                wait_for("end of all of ours", MINUTE.saturating_sub(start.elapsed()), || {
                    ours(desk).is_empty()
                });
                let free_after = start.elapsed();
                desk.power_cut(DiskCache::Volatile).unwrap();
                desk.boot().unwrap();
                free_after
            }
            _ => {
                assert_nothing_runs(&[laptop, desk], left);
                start.elapsed()
            }
        };
        let home = home_cut_off(desk);
        match self {
            Self::CablePulled | Self::DeadAir => desk.cable_restore().unwrap(),
            Self::SourcePowerCut => laptop.boot().unwrap(),
            Self::TargetDiskFull | Self::TargetDiskBrimful | Self::ForeignWriter => desk.unfill().unwrap(),
            _ => {}
        }
        Aftermath { code, said, home, free_after }
    }
}

#[track_caller]
fn kill_agent(machine: &Machine, running: &Running) {
    // Its start may take a moment longer than its stage line, and at the end it may be gone already.
    wait_for("agent", BY_THEN, || kill(machine, AGENT) > 0 || running.try_wait().unwrap().is_some());
}

/// In the middle of a write or between two; right behind a sync that somebody asked for; or with all kept that was sent
/// to the disk, flushed or not.
fn cut_power(machine: &Machine, random: &mut Random) {
    let how = random.below(4);
    if how > 0 {
        machine.freeze().unwrap();
    }
    if how == 2 {
        machine.sync_disk().unwrap();
    }
    machine.power_cut(if how == 3 { DiskCache::WriteThrough } else { DiskCache::Volatile }).unwrap();
}

/// Does something to a machine between two moments of it.
fn at_once(machine: &Machine, work: impl FnOnce() -> Result<()>) {
    machine.freeze().unwrap();
    work().unwrap();
    machine.thaw().unwrap();
}

/// Lets a machine do what its unit does at boot.
#[track_caller]
pub fn redo(machine: &Machine) {
    let redo = machine.exec(&Cmd::new("pc-switcher").args(["agent", "--redo"]).timeout(MINUTE)).unwrap();
    assert_eq!(redo.code(), Some(0), "{}", redo.error_text());
}
