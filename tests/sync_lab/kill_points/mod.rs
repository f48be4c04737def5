//! Force at every moment of a sync: what is killed, cut, frozen, filled or broken leaves each path old or new, both
//! machines free within a minute, and the next sync heals.
//!
//! A table of forces and moments, in an order that a seed gives, on a few labs at once. A usual run meets each force once or twice;
//! `tests/full kill-points` takes them all, with `KILL_FALLBACK=1` where neither machine remembers a sync, with `KILL_FS=ext4` to a desk
//! without snapshots. `KILL_POINTS=200 SEED=1 KILL_SLICE=37/200` does the 37th of them alone.

mod boxes;
mod force;
mod place;
mod point;
mod scene;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use pc_switcher_testkit::{
    STAGES,
    lab::{Lab, MachineName, require_lab},
};

use self::{
    force::Force,
    place::{Nested, Place},
    point::Point,
    scene::Scene,
};
use crate::hosts::options;
use pc_switcher_testkit::seed::Random;

const FORCES: [Force; 8] = [
    Force::TargetAsleep,
    Force::DeadAir,
    Force::SourcePowerCut,
    Force::TargetPowerCut,
    Force::CablePulled,
    Force::TargetAgentKilled,
    Force::SourceAgentKilled,
    Force::FrontKilled,
];
const DISK_FORCES: [Force; 4] =
    [Force::TargetDiskFull, Force::TargetDiskBrimful, Force::TargetDiskDead, Force::ForeignWriter];
/// Moments within the copying, and within the commit.
const COPYING: u64 = 4;
const COMMITTING: u64 = 8;

#[test]
fn whatever_is_killed_cut_or_put_to_sleep_leaves_each_path_old_or_new_and_the_next_sync_heals() {
    // Unasked, each force once.
    let points = points(&FORCES, asked("KILL_POINTS").unwrap_or(FORCES.len()), seed());
    run("kill", points);
}

#[test]
fn a_disk_that_is_full_or_dies_leaves_each_path_old_or_new_and_the_next_sync_heals() {
    run("kill-disk", points(&DISK_FORCES, asked("DISK_POINTS").unwrap_or(4), seed()));
}

/// Goes through the points of a table and says what each came to.
fn run(name: &str, points: Vec<Point>) {
    if require_lab().is_none() {
        return;
    }
    let points = slice(points);
    let (total, next, failed) = (points.len(), Mutex::new(points.into_iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for lab in 0..asked("KILL_LABS").unwrap_or(3).min(total) {
            let (next, failed) = (&next, &failed);
            scope.spawn(move || work(&format!("{name}-{lab}"), next, failed));
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{name}, seed {}: {} of {total} points as promised", seed(), total - failed.len());
    assert!(failed.is_empty(), "{} of {total} points:\n{}", failed.len(), failed.join("\n\n"));
}

/// Takes one point after the other to a lab of its own.
fn work(name: &str, next: &Mutex<std::vec::IntoIter<Point>>, failed: &Mutex<Vec<String>>) {
    let mut ready: Option<(Lab, Scene)> = None;
    loop {
        let Some(point) = next.lock().unwrap().next() else { return };
        let start = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            if ready.as_ref().is_none_or(|(lab, _)| Scene::begin(lab).is_err()) {
                ready = None;
                let options = options(name).lock_wait(Duration::from_secs(900));
                let options = if is_plain() { options.ext4(MachineName::Desk) } else { options };
                let lab = Lab::up(options).unwrap();
                let scene = Scene::make(&lab).unwrap();
                ready = Some((lab, scene));
            }
            let (lab, scene) = ready.as_ref().unwrap();
            point.run(lab, scene)
        }));
        let took = start.elapsed().as_secs_f64();
        match ended {
            Ok(score) => println!("{point}: {score} ({took:.1} s)"),
            Err(panic) => {
                let why = format!("{point}: {}", words(panic.as_ref()));
                println!("FAILED {why}");
                failed.lock().unwrap().push(why);
            }
        }
    }
}

/// Returns so many points, each force in its turn at moments in an order of its own; after the last one they come again,
/// with other shares.
fn points(forces: &[Force], count: usize, seed: u64) -> Vec<Point> {
    let mut random = Random::new(seed);
    let mut points = Vec::new();
    while points.len() < count {
        let mut rows = forces.iter().map(|force| row(*force, &mut random)).collect::<Vec<_>>();
        while rows.iter().any(|row| !row.is_empty()) {
            for (force, row) in forces.iter().zip(&mut rows) {
                points.extend(row.pop().map(|place| (*force, place)));
            }
        }
    }
    points.truncate(count);
    let numbered = (1..).zip(points);
    numbered.map(|(number, (force, place))| Point { number, seed, force, place }).collect()
}

/// Returns all moments at which a force can strike, shuffled.
fn row(force: Force, random: &mut Random) -> Vec<Place> {
    let mut within = |parts: u64, part: u64| (part * 100 + random.below(100)) as f64 / (parts * 100) as f64;
    let mut places: Vec<Place> = STAGES.map(Place::Stage).into();
    places.extend((0..COPYING).map(|part| Place::Arrived(within(COPYING, part))));
    places.extend((0..COMMITTING).map(|part| Place::Committed(within(COMMITTING, part))));
    places.extend(Nested::all().iter().copied().map(Place::Nested));
    places.retain(|place| force.applies(*place));
    for at in (1..places.len()).rev() {
        places.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
    }
    places
}

/// Takes the slice that `KILL_SLICE` asks for, as in `2/8`.
fn slice(points: Vec<Point>) -> Vec<Point> {
    let Ok(text) = std::env::var("KILL_SLICE") else { return points };
    let parsed = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    let (part, of): (usize, usize) =
        parsed.unwrap_or_else(|| panic!("`KILL_SLICE={text}` is no slice such as `2/8`"));
    let at = |part: usize| points.len() * part / of;
    points[at(part - 1)..at(part)].to_vec()
}

/// Whether no machine remembers a sync when a point begins (`KILL_FALLBACK=1`), so that everything is compared.
fn is_fallback() -> bool {
    asked::<u8>("KILL_FALLBACK").is_some_and(|asked| asked > 0)
}

/// Whether the desk lies on ext4 (`KILL_FS=ext4`): no snapshots, and no nested subvolumes among the changes, since they are directories
/// there.
fn is_plain() -> bool {
    match std::env::var("KILL_FS").as_deref() {
        Err(_) | Ok("btrfs") => false,
        Ok("ext4") => true,
        Ok(other) => panic!("`KILL_FS={other}` is none of btrfs, ext4"),
    }
}

/// Returns what a person types then.
fn flags() -> &'static [&'static str] {
    if is_fallback() { &["--allow-first-sync"] } else { &[] }
}

fn seed() -> u64 {
    asked("SEED").unwrap_or(1)
}

pub fn asked<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("`{name}={text}` is no number")))
}

pub fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[test]
fn the_same_seed_makes_the_same_points_and_every_force_meets_every_moment_that_it_can() {
    let points = |seed| points(&FORCES, 240, seed);
    assert_eq!(points(1), points(1));
    assert_ne!(points(1), points(2));
    for force in FORCES {
        let met = |place: &Place| points(1).iter().any(|point| point.force == force && point.place == *place);
        let stages = STAGES.map(Place::Stage);
        assert!(stages.iter().filter(|place| force.applies(**place)).all(met), "{force:?}");
    }
    let first = &points(1)[..FORCES.len()];
    assert!(FORCES.iter().all(|force| first.iter().any(|point| point.force == *force)), "{first:?}");
}
