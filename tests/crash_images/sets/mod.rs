//! Power cuts of the store of sets and of rollbacks, on one machine and on two.

mod afterwards;
mod back;
mod clock;
mod court;
mod dying;
mod host;
mod inside;
mod pair;
mod state;
mod story;

use std::collections::BTreeMap;
use std::fs;

use pc_switcher_testkit::seed::Random;

use self::back::Way;
use self::host::Host;
use self::story::{Lot, Story};
use crate::camera::{End, Written};
use crate::machine::Layout;
use crate::pool::Pool;

/// What each run must have pictures of: proofs of what was never done are none.
const NEEDED: [&str; 12] = [
    "create",
    "delete",
    "prune",
    "exchange",
    "cancel",
    "confirm",
    "trial begins",
    "trial back",
    "both prepare",
    "the leader commits",
    "the follower commits",
    pair::BACK,
];

/// What each run of so many pictures must have as well.
const NEEDED_OF_MANY: [&str; 8] =
    ["prepare", "abort", "good", "pin", "hard pin", "stay", "trial kept after all", pair::BACK_BY_ITSELF];
const MANY: usize = 3000;

/// So many days have all that is needed.
const DAYS: usize = 16;

/// What came out of pictures; a pair of two machines counts as one.
#[derive(Default)]
pub struct Score {
    pub images: usize,
    pub stories: usize,
    /// By what was done, and what was written last.
    pub by: BTreeMap<(&'static str, Option<Written>), usize>,
    /// Which ended as before.
    pub old: usize,
    pub bad: Vec<String>,
}

impl Score {
    fn add(
        &mut self,
        what: &'static str,
        written: Option<Written>,
        judged: Result<bool, String>,
        when: &str,
    ) {
        self.images += 1;
        *self.by.entry((what, written)).or_default() += 1;
        match judged {
            Ok(is_old) => self.old += usize::from(is_old),
            Err(why) => {
                let bad = format!("{when}, {what}: {why}");
                println!("BAD: {bad}");
                self.bad.push(bad);
            }
        }
    }
}

impl Score {
    /// What was needed and never photographed.
    fn lacks(&self) -> Vec<&'static str> {
        let more: &[&str] = if self.images < MANY { &[] } else { &NEEDED_OF_MANY };
        // A leader that goes back does so in one of two ways.
        let is_there = |wanted: &str| self.by.keys().any(|(what, _)| what.starts_with(wanted));
        NEEDED.iter().chain(more).copied().filter(|what| !is_there(what)).collect()
    }
}

/// Judges at least so many pictures, from seed to seed, with at most `most` of one machine's day; more of them until all that is needed
/// was among them.
pub fn score(images: usize, first_seed: u64, most: usize) {
    let pool = Pool::make();
    clock::begin(&pool);
    let mut score = Score::default();
    for seed in first_seed.. {
        if score.images >= images && (score.lacks().is_empty() || score.stories >= DAYS) {
            break;
        }
        match seed % 4 {
            0 => two(&pool, seed, most, &mut score),
            _ => one(&pool, seed, most, &mut score),
        }
        score.stories += 1;
        println!("seed {seed}: {} images, {} bad", score.images, score.bad.len());
    }
    for ((what, written), count) in &score.by {
        let written = written.map(|written| format!(", written {written:?}")).unwrap_or_default();
        println!("{count:6} {what}{written}");
    }
    println!(
        "{} images of {} days (seeds {first_seed} and on): {} ended as before, {} bad",
        score.images,
        score.stories,
        score.old,
        score.bad.len()
    );
    assert!(score.bad.is_empty(), "{} images are bad, see above", score.bad.len());
    assert!(score.lacks().is_empty(), "no images of {:?} are among them", score.lacks());
}

/// One machine by itself.
fn one(pool: &Pool, seed: u64, most: usize, score: &mut Score) {
    let mut random = Random::new(seed);
    let mut host = Host::make(pool, Layout::Laptop);
    let luck = Random::new(random.below(u64::MAX));
    let mut story = Story::new(&mut host, luck, format!("photo-{seed}"));
    // Every fourth day is of two machines.
    let day = seed - seed / 4;
    story.keep_sets(day);
    story.roll_back(Way::of_day(day));
    let mut lots = story.lots;
    host.machine.scrap();
    drop_some(&mut lots, most, &mut random);
    for lot in lots {
        for photo in &lot.photos {
            host.machine.boot(photo.images.clone());
            let judged = court::judge(&mut host, photo, &lot, &mut random);
            host.machine.scrap();
            score.add(lot.what, Some(photo.written), judged, &format!("seed {seed}, {}", photo.when));
        }
    }
}

/// Forgets pictures beyond a number: of whatever has most of them, so that nothing is left without.
fn drop_some(lots: &mut [Lot], most: usize, random: &mut Random) {
    let mut count: usize = lots.iter().map(|lot| lot.photos.len()).sum();
    while count > most {
        let largest = lots.iter_mut().max_by_key(|lot| lot.photos.len());
        let photos = &mut largest.expect("there is one").photos;
        let photo = photos.remove(random.below(photos.len() as u64) as usize);
        photo.images.iter().for_each(|image| fs::remove_file(image).unwrap());
        count -= 1;
    }
}

/// Two machines with one decision.
fn two(pool: &Pool, seed: u64, most: usize, score: &mut Score) {
    let mut random = Random::new(seed);
    let mut hosts = [Layout::Laptop, Layout::Desk].map(|layout| Host::make(pool, layout));
    let (lots, ends) = pair::tell(&mut hosts, &mut random, &format!("photo-{seed}"), seed / 4 % 2 == 1);
    hosts.iter_mut().for_each(|host| host.machine.scrap());
    for lot in &lots {
        for photos in lot.some(most / lots.len(), &mut random) {
            let judged = pair::judge(&mut hosts, &photos, lot.what, &ends).map(|end| end == End::Old);
            score.add(
                lot.what,
                None,
                judged,
                &format!("seed {seed}, {} and {}", photos[0].when, photos[1].when),
            );
        }
    }
    drop(lots);
    for image in fs::read_dir(pool.images()).unwrap().flatten() {
        let _ = fs::remove_file(image.path());
    }
}
