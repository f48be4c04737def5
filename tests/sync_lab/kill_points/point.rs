//! One force at one moment: strike, judge what is left, heal, judge again.

use std::fmt;

use pc_switcher_testkit::{
    lab::{Lab, Machine},
    manifest::assert_same_tree,
    seed::Random,
};

use super::{
    flags,
    force::{Aftermath, Force, redo},
    is_plain,
    place::Place,
    scene::{Judged, Scene},
};
use crate::hosts::{BY_THEN, SOON, assert_nothing_runs, configure, home, line, root, sync, wait_for};
use std::time::Duration;

/// Longer than any sync that meets a force takes to end.
const LIMIT: Duration = Duration::from_secs(180);
const CONFIG: &str = "[user-data]\nmass_deletion_share = 1.0\n";
const PLAIN: &str = "allow_no_snapshots = true\n";
/// Looks at the reserve all the time.
const WATCHFUL: &str = "[disk]\ncheck_interval = 1\n";

/// Returns alice's config.
pub fn config() -> String {
    format!("{}{CONFIG}", if is_plain() { PLAIN } else { "" })
}

/// A force and the moment at which it strikes.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub number: u64,
    pub seed: u64,
    pub force: Force,
    pub place: Place,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {:?} {}", self.number, self.force, self.place)
    }
}

impl Point {
    /// Runs it on machines that stand ready, and says in a line what came of it.
    #[track_caller]
    pub fn run(&self, lab: &Lab, scene: &Scene) -> String {
        let (laptop, desk) = (lab.laptop(), lab.desk());
        let mut random = Random::new(self.seed << 32 | self.number);
        if self.force == Force::ForeignWriter {
            configure(laptop, &format!("{}{WATCHFUL}", config()));
        }
        self.place.prepare(lab);
        let running = laptop.spawn(&line("desk", &[flags(), &["--json"]].concat()).timeout(LIMIT)).unwrap();
        self.place.wait(&running, lab, scene);
        let Aftermath { code, said, home: left, free_after } = self.force.strike(lab, running, &mut random);

        let Judged { fresh, stale, between, wrong } = scene.judge(&left);
        assert!(wrong.is_empty(), "neither old nor new: {}\n{said}", wrong.join("\n"));
        let is_expected = match code {
            None => matches!(self.force, Force::FrontKilled | Force::SourcePowerCut),
            Some(0) => stale + between == 0,
            Some(code) => self.force.codes().contains(&code),
        };
        assert!(is_expected, "{code:?}, {stale} old and {fresh} new paths: {said}");
        if !self.force.may_halve() {
            let differences = scene.differences(&left);
            assert!(differences.is_empty(), "neither tree as a whole: {}\n{said}", differences.join("\n"));
        }
        if self.force.loses_a_machine() {
            redo(desk);
            let differences = scene.differences(&home(desk));
            assert!(differences.is_empty(), "not whole after a redo: {}\n{said}", differences.join("\n"));
        }
        self.heal(lab, scene);
        let code = code.map_or("no code".to_owned(), |code| format!("code {code}"));
        let total = fresh + stale + between;
        let between =
            if between > 0 { format!(", {between} with half their metadata") } else { String::new() };
        format!("{code}, {fresh} of {total} new{between}, free after {:.1} s", free_after.as_secs_f64())
    }

    /// Lets the next sync bring everything to its end, without a question.
    #[track_caller]
    fn heal(&self, lab: &Lab, scene: &Scene) {
        let (laptop, desk) = (lab.laptop(), lab.desk());
        let _ = desk.limit_rate(None);
        configure(laptop, &config());
        assert_same_tree(&scene.new, &home(laptop));
        if self.force == Force::ForeignWriter && sync(laptop, "desk", flags()).code == Some(6) {
            give_back(desk);
        }
        sync(laptop, "desk", flags()).ends_with(0);
        assert_same_tree(&scene.new, &home(laptop));
        assert_same_tree(&scene.new, &home(desk));
        assert_nothing_runs(&[laptop, desk], SOON);
        [laptop, desk].into_iter().for_each(assert_nothing_is_left);
    }
}

/// Removes the set of a sync that went on while somebody filled the disk: it holds what was removed since.
fn give_back(machine: &Machine) {
    let newest = "ls /.snapshots | grep '^@-postsync-' | sort | tail -n 1 | sed 's/.*-//'";
    root(machine, &format!("pc-switcher snapshots delete $({newest}) --yes"));
    wait_for("space", BY_THEN, || machine.free_bytes().unwrap() > 10 << 30);
}

/// Checks that nothing is staged, put aside or waiting for a redo.
#[track_caller]
fn assert_nothing_is_left(machine: &Machine) {
    let dirs = "/.pc-switcher /home/.pc-switcher /root/.pc-switcher /var/lib/pc-switcher/commits /var/lib/pc-switcher/redone";
    // Without snapshots the versions that the last sync has displaced stay until the next one.
    let stays = if is_plain() { "^undo-" } else { "^$" };
    let left =
        root(machine, &format!("ls -A {dirs} 2>/dev/null | grep -v '^/.*:$' | grep -v '{stays}' || true"));
    assert_eq!(left.trim(), "", "on {}", machine.hostname());
}
