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

/// Judges at least so many pictures, from seed to seed, with at most `most` of one machine's day.
pub fn score(images: usize, first_seed: u64, most: usize) {
    let pool = Pool::make();
    clock::begin(&pool);
    let mut score = Score::default();
    for seed in first_seed.. {
        if score.images >= images {
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
}

/// One machine by itself.
fn one(pool: &Pool, seed: u64, most: usize, score: &mut Score) {
    let mut random = Random::new(seed);
    let mut host = Host::make(pool, Layout::Laptop);
    let luck = Random::new(random.below(u64::MAX));
    let mut story = Story::new(&mut host, luck, format!("photo-{seed}"));
    story.keep_sets();
    // Every fourth day is of two machines.
    story.roll_back(Way::of_day(seed - seed / 4));
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

/// Forgets pictures beyond a number, in no order.
fn drop_some(lots: &mut [Lot], most: usize, random: &mut Random) {
    let mut count: usize = lots.iter().map(|lot| lot.photos.len()).sum();
    while count > most {
        let lot = random.below(lots.len() as u64) as usize;
        let photos = &mut lots[lot].photos;
        if !photos.is_empty() {
            let photo = photos.remove(random.below(photos.len() as u64) as usize);
            photo.images.iter().for_each(|image| fs::remove_file(image).unwrap());
            count -= 1;
        }
    }
}

/// Two machines with one decision.
fn two(pool: &Pool, seed: u64, most: usize, score: &mut Score) {
    let mut random = Random::new(seed);
    let mut hosts = [Layout::Laptop, Layout::Desk].map(|layout| Host::make(pool, layout));
    let (lots, ends) = pair::tell(&hosts, &mut random, &format!("photo-{seed}"));
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
