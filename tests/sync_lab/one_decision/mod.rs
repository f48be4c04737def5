//! Two machines go back together from a bad day, and one loses its power, or both their cable, right after any step that either
//! takes: both end wholly old or wholly new, and agree.
//!
//! An agent of the lab's program halts after a step (`src/cli/halt.rs`), and then it strikes. A usual run strikes at each phase of
//! the journal once; `tests/full one-decision` at each step of both machines.

mod left;
mod point;
mod scene;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use pc_switcher_testkit::lab::MachineName::{Desk, Laptop};
use pc_switcher_testkit::seed::Random;

use self::point::{Blow, Ended, Point};
use self::scene::Scene;
use crate::hosts::lab;
use crate::kill_points::{asked, words};

#[test]
fn a_power_cut_of_the_machine_that_decides_leaves_both_wholly_old_or_wholly_new() {
    strike(Blow::Power(Laptop));
}

#[test]
fn a_power_cut_of_the_machine_that_follows_leaves_both_wholly_old_or_wholly_new() {
    strike(Blow::Power(Desk));
}

#[test]
fn a_cable_that_is_cut_between_prepare_and_commit_or_after_it_leaves_both_wholly_old_or_wholly_new() {
    strike(Blow::Cable);
}

/// Strikes at the points that are asked for, and at last says what each came to.
fn strike(blow: Blow) {
    let Some(lab) = lab() else { return };
    let scene = Scene::make(&lab);
    let all = std::env::var("ONE_DECISION").is_ok_and(|word| word == "all");
    let seed = asked("SEED").unwrap_or(1);
    let mut points = if all { every(blow, &scene, seed) } else { some(blow, &scene, seed) };
    if blow == Blow::Cable {
        let decided = scene.steps(Laptop).iter().position(|step| step == "decided").unwrap();
        points.push(Point { on: Laptop, number: decided + 1, blow: Blow::CableAndCancel, seed });
    }
    let (mut failed, mut outcomes) = (Vec::new(), Vec::new());
    for point in &points {
        let start = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| point.run(&scene))) {
            Ok(ended) => {
                println!("{}: both {ended:?} ({:.1} s)", point.told(&scene), start.elapsed().as_secs_f64());
                outcomes.push(ended);
            }
            Err(panic) => failed.push(format!("{}: {}", point.told(&scene), words(panic.as_ref()))),
        }
    }
    println!("{blow:?}, seed {seed}: {} of {} points as promised", outcomes.len(), points.len());
    assert!(failed.is_empty(), "{} of {} points:\n{}", failed.len(), points.len(), failed.join("\n\n"));
    assert!([Ended::Old, Ended::New].iter().all(|one| outcomes.contains(one)), "{outcomes:?}");
}

/// After each step of either machine.
fn every(blow: Blow, scene: &Scene<'_>, seed: u64) -> Vec<Point> {
    let of = |on| (1..=scene.steps(on).len()).map(move |number| Point { on, number, blow, seed });
    [Laptop, Desk].into_iter().flat_map(of).collect()
}

/// About once in each phase of the journal of the machine that is struck, and where the other one is further; at a cable, around what is
/// decided.
fn some(blow: Blow, scene: &Scene<'_>, seed: u64) -> Vec<Point> {
    let wanted: &[(_, &[&str])] = match blow {
        Blow::Power(Laptop) => &[
            (Laptop, &["preparing", "snapshot", "records", "carried"]),
            (Laptop, &["prepared"]),
            (Laptop, &["decided"]),
            (Laptop, &["committed", "exchange", "rename"]),
            (Laptop, &["done"]),
            (Desk, &["prepared"]),
        ],
        Blow::Power(Desk) => &[
            (Desk, &["preparing", "snapshot", "records", "carried"]),
            (Desk, &["prepared"]),
            (Desk, &["carried again", "committed"]),
            (Desk, &["exchange", "rename"]),
            (Laptop, &["decided", "committed", "done"]),
        ],
        Blow::Cable | Blow::CableAndCancel => {
            &[(Desk, &["prepared"]), (Desk, &["committed", "exchange", "rename"])]
        }
    };
    let mut random = Random::new(seed);
    let mut pick = |&(on, names): &(_, &[&str])| {
        let steps = scene.steps(on);
        let is_meant = |at: usize| {
            let is_again = steps[at] == "carried" && steps[..at].contains(&"prepared".to_owned());
            names.contains(&if is_again { "carried again" } else { steps[at].as_str() })
        };
        let found: Vec<usize> = (0..steps.len()).filter(|at| is_meant(*at)).collect();
        assert!(!found.is_empty(), "{on:?} takes no step of {names:?}: {steps:?}");
        let at = found[usize::try_from(random.below(found.len() as u64)).unwrap()];
        Point { on, number: at + 1, blow, seed }
    };
    wanted.iter().map(&mut pick).collect()
}
