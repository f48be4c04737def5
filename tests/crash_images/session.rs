//! One seed: a machine, a tree, a day's work on the source, a sync of it that is photographed, and all pictures judged.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pc_switcher_agent::proto::Moved;
use pc_switcher_testkit::seed::Random;

use super::camera::{Camera, End, Photo, Shelf, Written};
use super::grow::Garden;
use super::judge::{Court, Verdict};
use super::machine::{Layout, Machine};
use super::places::Places;
use super::plan::{Base, Ends};
use super::pool::Pool;
use super::push::{Counts, Pushed, push};
use super::racer::{Racer, Slowly};
use super::source::Source;
use super::trees::{Change, Trees};
use super::work::work;

/// What came out of images.
#[derive(Default)]
pub struct Score {
    pub images: usize,
    pub sessions: usize,
    /// Those of them in which nobody remembered a sync before.
    pub baseless: usize,
    /// How things came over in them.
    pub counts: Counts,
    /// Images by layout, generation and what was written last.
    pub by: BTreeMap<(Layout, &'static str, Written), usize>,
    /// Images that a redo found something to do in, and which ended new.
    pub pending: usize,
    pub new: usize,
    pub bad: Vec<String>,
}

/// A seed in which everything is.
struct Session<'a> {
    seed: u64,
    layout: Layout,
    random: Random,
    machine: Machine,
    court: Court,
    /// Pictures of one redo that are judged.
    of_a_redo: usize,
    score: &'a mut Score,
}

/// Runs one seed, with at most so many images.
pub fn run(pool: &Pool, seed: u64, most: usize, score: &mut Score) {
    let mut random = Random::new(seed);
    let layout = *random.pick(&Layout::ALL);
    let mut machine = Machine::make(pool, layout);
    // Without snapshots on the target nothing is remembered of what both had.
    let is_baseless = !layout.is_btrfs() || random.below(4) == 0;
    let (source, moved) = trees(pool, &machine, &mut random);
    let all = ends(&source, &machine, &moved, is_baseless);
    let parts = || machine.running().parts();
    let new = Trees::read(all.iter().map(|ends| ends.source.clone()));
    let moved = all.iter().map(|ends| ends.base.as_ref().map_or_else(Vec::new, |base| base.moved.clone()));
    let change = Change { old: Trees::read(parts()), new, moved: moved.collect() };
    let paths = Arc::new(change.old.differing(&change.new, parts()));
    assert!(!paths.is_empty(), "seed {seed} changes nothing");
    parts().for_each(|part| rustix::fs::syncfs(std::fs::File::open(part).unwrap()).unwrap());
    let shelf = Shelf::new(
        machine.running().clone(),
        Random::new(random.below(u64::MAX)),
        Arc::clone(&paths),
        format!("photo-{seed}"),
        35,
    );
    let camera = Camera::new(shelf);
    let is_race = random.below(4) == 0;
    let luck = Random::new(random.below(u64::MAX));
    let Pushed { report, ops, counts } = match is_race {
        true => {
            let racer = Racer::start(&camera, Random::new(seed));
            let done = push(&all, machine.running(), Arc::new(Slowly(camera.clone())), luck);
            racer.join();
            done
        }
        false => push(&all, machine.running(), Arc::new(camera.clone()), luck),
    };
    drop(source);
    let mut photos = camera.finish();
    assert!(report.failed.is_none() && report.conflicts.is_empty(), "seed {seed}: {report:?}");
    let now = Trees::read(parts());
    assert_eq!(now.not(&change.new), None, "seed {seed}, without any cut");
    drop(camera);
    machine.scrap();
    score.sessions += 1;
    score.baseless += usize::from(is_baseless);
    score.counts += counts;
    drop_some(&mut photos, most, &mut random);
    let court = Court { change, ops, paths };
    let of_a_redo = most / 8 + 1;
    Session { seed, layout, random, machine, court, of_a_redo, score }.judge(photos, "first");
}

/// Grows the same tree on the target and on the source, and works on the source's; says what was moved in each part.
fn trees(pool: &Pool, machine: &Machine, random: &mut Random) -> (Source, Vec<Vec<Moved>>) {
    let names = machine.running().layout.parts();
    let source = Source::make(pool, names);
    let part = |(name, part): (&&str, PathBuf)| {
        let ours = source.live(name);
        let luck = Random::new(random.below(u64::MAX));
        Garden::new(&part, luck.clone()).grow();
        let mut garden = Garden::new(&ours, luck);
        garden.grow();
        let same = Trees::read([part].into_iter()).not(&Trees::read([ours.clone()].into_iter()));
        assert_eq!(same, None, "one seed grows one tree");
        source.seal_then(name);
        let operations = 8 + garden.random.below(30);
        let before = Places::of(&ours);
        work(&mut garden, operations);
        source.seal_now(name);
        Places::of(&ours).moved_since(&before)
    };
    let moved = names.iter().zip(machine.running().parts()).map(part).collect();
    (source, moved)
}

/// Takes the pre set, and says where the parts lie with which a sync is planned.
fn ends(source: &Source, machine: &Machine, moved: &[Vec<Moved>], is_baseless: bool) -> Vec<Ends> {
    let running = machine.running();
    let has_pre_set = running.layout.is_btrfs();
    if has_pre_set {
        running.seal();
    }
    let part = |(number, (name, live)): (usize, (&&str, PathBuf))| Ends {
        source: source.now(name),
        base: (!is_baseless).then(|| Base { then: source.then(name), moved: moved[number].clone() }),
        target: if has_pre_set { running.sealed(number) } else { live },
        has_pre_set,
    };
    running.layout.parts().iter().zip(running.parts()).enumerate().map(part).collect()
}

/// Forgets pictures beyond a number, in no order.
fn drop_some(photos: &mut Vec<Photo>, most: usize, random: &mut Random) {
    while photos.len() > most {
        let photo = photos.remove(random.below(photos.len() as u64) as usize);
        photo.images.iter().for_each(|image| fs::remove_file(image).unwrap());
    }
}

impl Session<'_> {
    /// Judges pictures, and those of some redos among them.
    fn judge(&mut self, photos: Vec<Photo>, generation: &'static str) {
        let mut second = Vec::new();
        for photo in photos {
            let again = generation == "first" && self.random.below(8) == 0;
            let name = format!("again-{}-{}", self.seed, self.score.images);
            let luck = again.then(|| (Random::new(self.random.below(u64::MAX)), name));
            self.machine.boot(photo.images.clone());
            let judged = self.court.judge(&self.machine, &photo, luck);
            self.machine.scrap();
            let score = &mut *self.score;
            score.images += 1;
            *score.by.entry((self.layout, generation, photo.written)).or_default() += 1;
            match judged {
                Ok(Verdict { end, was_pending, mut photos }) => {
                    drop_some(&mut photos, self.of_a_redo, &mut self.random);
                    score.new += usize::from(end == End::New);
                    score.pending += usize::from(was_pending);
                    let after =
                        |of: Photo| Photo { when: format!("redo {} of {}", of.when, photo.when), ..of };
                    second.extend(photos.into_iter().map(after));
                }
                Err(why) => {
                    let bad = format!("seed {}, {:?}, {}: {why}", self.seed, self.layout, photo.when);
                    println!("BAD: {bad}");
                    score.bad.push(bad);
                }
            }
        }
        if !second.is_empty() {
            self.judge(second, "second");
        }
    }
}
