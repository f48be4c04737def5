//! Differential fuzz: random changes on one machine, a sync, and then rsync's own dry run has nothing to do, nor does a
//! strict comparison find anything. Either machine is the source, round by round; subvolumes come and go among the changes.
//!
//! `tests/full differential` has more rounds, on several labs at once; `docs/faults.md` has the score.

mod apart;
mod attributes;
mod changes;
mod clones;
mod contents;
mod pick;
mod round;
mod subvolumes;
mod tally;

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use pc_switcher_testkit::{
    lab::{Lab, require_lab},
    seed::Random,
};

use self::{
    round::{Round, Spent, rules},
    tally::Tally,
};
use crate::{
    hosts::{alice, first_sync, install, options},
    kill_points::{asked, words},
    odds::rounds,
};

/// What changes, below alice's home.
const TREE: &str = "home/alice/work";
/// Names that begin so are left alone by rule.
const SKIPPED: &str = "skip-";
/// The machines begin anew after so many rounds: what went wrong is found again by its seed alone.
const ROUNDS_OF_A_SEED: u64 = 25;
/// The state of both machines in which every seed begins.
const READY: &str = "ready";

/// What came of all rounds so far.
#[derive(Default)]
struct Score {
    rounds: usize,
    changes: usize,
    tally: Tally,
    spent: Spent,
    failed: Vec<String>,
}

#[test]
fn whatever_is_done_to_a_tree_a_sync_brings_it_over_and_rsync_finds_nothing() {
    if require_lab().is_none() {
        return;
    }
    let start = Instant::now();
    let wanted = rounds(4);
    let seeds = Mutex::new(wanted.start / ROUNDS_OF_A_SEED..wanted.end.div_ceil(ROUNDS_OF_A_SEED));
    let score = Mutex::new(Score::default());
    let count = asked("DIFFERENTIAL_LABS").unwrap_or(1);
    thread::scope(|scope| {
        for lab in 0..count {
            let (seeds, score, end) = (&seeds, &score, wanted.end);
            scope.spawn(move || work(&format!("differential-{lab}"), seeds, end, score));
        }
    });
    let Score { rounds, changes, tally, spent, failed } = score.into_inner().unwrap();
    println!("{tally}");
    println!("{rounds} rounds of {wanted:?}, {changes} changes, {} differences", failed.len());
    println!("{:?} on {count} labs: {spent:?}", start.elapsed());
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(changes > 0);
}

/// Plays one seed after the other on a lab of its own.
fn work(name: &str, seeds: &Mutex<Range<u64>>, end: u64, score: &Mutex<Score>) {
    let mut ready: Option<Lab> = None;
    loop {
        let Some(seed) = seeds.lock().unwrap().next() else { return };
        let ended = catch_unwind(AssertUnwindSafe(|| {
            if ready.as_ref().is_none_or(|lab| lab.reset(READY).is_err()) {
                ready = None;
                ready = Some(begin(name));
            }
            let first = seed * ROUNDS_OF_A_SEED;
            play(ready.as_ref().unwrap(), seed, first..end.min(first + ROUNDS_OF_A_SEED), score);
        }));
        if let Err(panic) = ended {
            let why = words(panic.as_ref());
            println!("FAILED {why}");
            score.lock().unwrap().failed.push(why);
            // Whatever state it is in.
            ready = None;
        }
    }
}

fn begin(name: &str) -> Lab {
    let lab = Lab::up(options(name).lock_wait(Duration::from_secs(900))).unwrap();
    install(lab.laptop()).unwrap();
    [lab.laptop(), lab.desk()].into_iter().for_each(|machine| rules(machine, 0, None));
    alice(lab.laptop(), "mkdir work; echo stays >canary");
    first_sync(&lab);
    lab.snapshot(READY).unwrap();
    lab
}

fn play(lab: &Lab, seed: u64, rounds: Range<u64>, score: &Mutex<Score>) {
    let mut random = Random::new(seed);
    for number in rounds.clone() {
        let start = Instant::now();
        let mut machines = [lab.laptop(), lab.desk()];
        if random.below(2) == 1 {
            machines.reverse();
        }
        let again = format!("ROUNDS={}..{} tests/full differential", rounds.start, number + 1);
        let mut round = Round::new(format!("round {number} of seed {seed} ({again})"), machines);
        let mut tally = Tally::default();
        let changes = round.play(number, &mut random, &mut tally);
        let (from, to) = (round.source.hostname(), round.target.hostname());
        println!("round {number}, {from} → {to}: {changes} changes, {:.1} s", start.elapsed().as_secs_f64());
        let mut score = score.lock().unwrap();
        score.rounds += 1;
        score.changes += changes;
        score.tally.add(tally);
        score.spent += round.spent;
    }
}
