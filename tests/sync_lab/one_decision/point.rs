//! One blow after one step: strike, see what is left, start again, let both meet, judge the files of both.

use std::time::Duration;

use pc_switcher_testkit::lab::{CableCut, Cmd, DiskCache, Machine, MachineName, Running};
use serde_json::Value;

use super::left::Left;
use super::scene::{Scene, steps_of};
use crate::hosts::{assert_moved, assert_nothing_runs, kill, ours, root, run, sync, wait_for};
use crate::rollback::{beside, restart, rollback};

/// Where an agent is told to halt, and says what it does.
pub const HALT: &str = "/run/pc-switcher-halt";

/// Longer than a rollback takes that meets a blow.
pub const LIMIT: Duration = Duration::from_secs(120);
const MINUTE: Duration = Duration::from_secs(60);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Blow {
    Power(MachineName),
    Cable,
    /// And before it is whole again the machine that decided takes the rollback back.
    CableAndCancel,
}

/// How both machines end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    Old,
    New,
}

/// A blow right after a machine has taken so many steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub on: MachineName,
    pub number: usize,
    pub blow: Blow,
    pub seed: u64,
}

impl Point {
    pub fn told(&self, scene: &Scene<'_>) -> String {
        let step = scene.steps(self.on).get(self.number - 1).map_or("?", String::as_str);
        format!("{:?} after step {} of {} (`{step}`)", self.blow, self.number, self.on.as_str())
    }

    /// Runs it, and says how both machines ended.
    #[track_caller]
    pub fn run(&self, scene: &Scene<'_>) -> Ended {
        let (laptop, desk) = (scene.lab.laptop(), scene.lab.desk());
        scene.begin();
        let running = self.halt(scene);
        let taken = [laptop, desk].map(steps_of);
        assert_eq!(&scene.steps(self.on)[..self.number], taken[usize::from(self.on == MachineName::Desk)]);
        let is_decided = taken[0].iter().any(|step| step == "decided") && self.blow != Blow::CableAndCancel;
        let wanted = if is_decided { Ended::New } else { Ended::Old };
        match self.blow {
            Blow::Power(MachineName::Laptop) => self.cut_power(laptop, &taken[0], scene, running),
            Blow::Power(MachineName::Desk) => self.cut_power(desk, &taken[1], scene, running),
            Blow::Cable | Blow::CableAndCancel => self.cut_cable(scene, running),
        }
        // Each by itself: wholly one or the other; who does not know keeps what was.
        for machine in [laptop, desk] {
            let (stand, phase) = (scene.stand(machine), phase(machine));
            if stand == Ended::Old {
                scene.assert_files(machine, Ended::Old);
                assert!(["none", "prepared"].contains(&phase.as_str()), "{}: {phase}", machine.hostname());
            } else {
                assert_eq!((phase.as_str(), wanted), ("done", Ended::New), "{}", machine.hostname());
            }
            if phase == "prepared" {
                rollback(machine, &["status"]).ends_with(0).says(&["waits for", "laptop"]);
            }
        }
        // The next command: both can talk.
        let met = sync(laptop, "desk", &[]);
        assert_eq!([laptop, desk].map(|machine| scene.stand(machine)), [wanted; 2], "{}", met.text);
        match wanted {
            Ended::Old => {
                met.ends_with(0);
                assert_eq!([laptop, desk].map(phase), ["none", "none"]);
            }
            Ended::New => {
                met.ends_with(7);
                for machine in [laptop, desk] {
                    self.go_on_with_the_new(machine, scene);
                }
                sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0);
            }
        }
        assert_moved(laptop, desk);
        assert_eq!([laptop, desk].map(beside), ["", ""]);
        assert_nothing_runs(&[laptop, desk], MINUTE);
        wanted
    }

    /// Has both go back, and waits until it is time to strike.
    #[track_caller]
    fn halt(&self, scene: &Scene<'_>) -> Running {
        let halting = scene.lab.machine(self.on);
        root(halting, &format!("echo {} >{HALT}/halt", self.number));
        let running = scene.lab.laptop().spawn(&scene.line()).unwrap();
        wait_for("halt", MINUTE, || {
            let is_halted = halting.exists(format!("{HALT}/halted")).unwrap();
            assert!(is_halted || running.try_wait().unwrap().is_none(), "it ended before");
            is_halted
        });
        running
    }

    fn release(&self, scene: &Scene<'_>) {
        root(scene.lab.machine(self.on), &format!("rm {HALT}/halt"));
    }

    /// Cuts the power of a machine that has taken these steps, looks at its disk, and starts it again.
    #[track_caller]
    fn cut_power(&self, machine: &Machine, taken: &[String], scene: &Scene<'_>, running: Running) {
        // All that was sent to the disk, flushed or not; right behind a sync that somebody asked for; or what was flushed alone.
        let how = (self.seed + self.number as u64) % 3;
        if how == 1 {
            machine.sync_disk().unwrap();
        }
        machine.power_cut(if how == 0 { DiskCache::WriteThrough } else { DiskCache::Volatile }).unwrap();
        Left::read(machine).assert_after(taken, how == 1);
        if self.on != machine.name() {
            self.release(scene);
        }
        machine.boot().unwrap();
        boot_units(machine);
        if machine.name() == MachineName::Desk {
            running.wait().unwrap();
        } else if self.on == MachineName::Laptop {
            // The desk's agent is idle: it would wait for 20 s of silence, which is no matter here.
            kill(scene.lab.desk(), "sshd: alice");
        }
        wait_until_quiet(scene);
    }

    /// Cuts the cable, lets whoever halted go on, and makes it whole when both have given up.
    #[track_caller]
    fn cut_cable(&self, scene: &Scene<'_>, running: Running) {
        let desk = scene.lab.desk();
        desk.cable_cut(CableCut::Carrier).unwrap();
        self.release(scene);
        running.wait().unwrap();
        wait_until_quiet(scene);
        if self.blow == Blow::CableAndCancel {
            let states = [scene.lab.laptop(), desk].map(|machine| (scene.stand(machine), phase(machine)));
            assert_eq!(states, [(Ended::New, "done".into()), (Ended::Old, "prepared".into())]);
            rollback(scene.lab.laptop(), &["cancel"]).ends_with(0).says(&["the rollback is taken back"]);
        }
        desk.cable_restore().unwrap();
    }

    /// Does what the machine says until it is new for good.
    #[track_caller]
    fn go_on_with_the_new(&self, machine: &Machine, scene: &Scene<'_>) {
        let asks = || {
            let status = rollback(machine, &["status"]).ends_with(0).text;
            status.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        if asks().contains(&format!("start {} anew", machine.hostname())) {
            restart(machine);
            boot_units(machine);
        }
        let status = asks();
        assert!(!status.contains("anew"), "{status}");
        scene.assert_files(machine, Ended::New);
        rollback(machine, &["confirm"]).ends_with(0).says(&["the rollback is kept"]);
        scene.assert_files(machine, Ended::New);
    }
}

/// Waits until both machines have given up, and are free; whoever looks after a rollback on trial stays.
#[track_caller]
fn wait_until_quiet(scene: &Scene<'_>) {
    for machine in [scene.lab.laptop(), scene.lab.desk()] {
        wait_for("quiet", MINUTE, || ours(machine).iter().all(|command| command.contains("--deadman")));
    }
}

/// Does what the units of the boot do (there is no systemd), in their order.
#[track_caller]
fn boot_units(machine: &Machine) {
    for flag in ["--redo-rollback", "--redo"] {
        let cmd = Cmd::new("pc-switcher").args(["agent", flag]).timeout(MINUTE);
        run(machine, &cmd).ends_with(0);
    }
}

/// What a machine says of its rollback.
#[track_caller]
fn phase(machine: &Machine) -> String {
    let ran = run(machine, &Cmd::new("pc-switcher").args(["rollback", "status", "--json"]).as_alice());
    let said: Value = serde_json::from_str(&ran.ends_with(0).stdout).unwrap();
    said["phase"].as_str().unwrap_or("none").to_owned()
}
