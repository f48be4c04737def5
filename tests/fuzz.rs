//! Everything that reads what others wrote, with every file of the fuzzers' corpora and with seeded mutations of them.
//!
//! `tests/full fuzz` runs the fuzzers themselves (fuzz/README.md); this finds on any toolchain what they found once.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

use fuzz::frames::one;
use fuzz::{TARGETS, Target};
use pc_switcher_agent::frame::MAX_BODY;
use pc_switcher_agent::proto::{BlocksWant, Listings, ReadWant, Request, RestWant, Shares, StreamFrame};

/// Mutations of each target's corpus; reading a config takes a hundred times as long as the rest.
const MUTATIONS: usize = 4000;
const MUTATED_CONFIGS: usize = 400;

/// Returns the corpus of a target, sorted by name.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Says which input it was if the test fails.
struct Input<'a>(&'a Path, &'a [u8]);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input, from {}: {}", self.0.display(), self.1.escape_ascii());
        }
    }
}

fn run((_, target): Target, from: &Path, bytes: &[u8]) {
    let _input = Input(from, bytes);
    target(bytes);
}

/// A generator that always says the same (Steele and others, splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % end.max(1) as u64) as usize
    }

    /// Changes a few bytes, cuts, doubles, or puts a stretch of another input in.
    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let to = (at + self.below(16)).min(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 => drop(bytes.drain(at..to)),
                4 => drop(bytes.splice(at..at, bytes[at..to].to_vec())),
                _ => {
                    let from = self.below(other.len() + 1);
                    let stretch = &other[from..(from + self.below(64)).min(other.len())];
                    drop(bytes.splice(at..to, stretch.iter().copied()));
                }
            }
        }
    }
}

#[test]
fn every_input_that_a_fuzzer_kept_still_keeps_the_promises() {
    for target in TARGETS {
        let corpus = corpus(target.0);
        assert!(corpus.len() > 3, "{} has no corpus", target.0);
        corpus.iter().for_each(|(from, bytes)| run(target, from, bytes));
    }
}

#[test]
fn seeded_mutations_of_the_corpora_keep_the_promises() {
    for target in TARGETS {
        let corpus = corpus(target.0);
        let mut dice = Dice(20_251_121);
        let rounds = if target.0 == "config" { MUTATED_CONFIGS } else { MUTATIONS };
        for _ in 0..rounds {
            let (from, bytes) = &corpus[dice.below(corpus.len())];
            let (_, other) = &corpus[dice.below(corpus.len())];
            let mut bytes = bytes.clone();
            dice.mutate(&mut bytes, other);
            run(target, from, &bytes);
        }
    }
}

/// The largest body with as many of the smallest elements as go into it.
fn full_of(head: &[u8], element: &[u8]) -> Vec<u8> {
    let count = (MAX_BODY - head.len() - 5) / element.len();
    let mut body = head.to_vec();
    let mut left = count;
    while left > 127 {
        body.push((left & 127) as u8 | 128);
        left >>= 7;
    }
    body.push(left as u8);
    body.extend(element.iter().copied().cycle().take(count * element.len()));
    body
}

#[test]
fn a_body_full_of_the_smallest_elements_is_read_within_its_memory_or_refused() {
    one::<StreamFrame>(&full_of(&[2, 0], &[3, 0]));
    one::<StreamFrame>(&full_of(&[0], &[0; 4]));
    one::<Vec<ReadWant>>(&full_of(&[], &[0; 2]));
    one::<Vec<RestWant>>(&full_of(&[], &[0; 3]));
    one::<Vec<BlocksWant>>(&full_of(&[], &[0; 4]));
    one::<Vec<Shares>>(&full_of(&[], &[0; 3]));
    one::<StreamFrame>(&full_of(&[7, 0, 0, 0], &[0; 3]));
    one::<StreamFrame>(&full_of(&[12, 0], &[0; 4]));
    one::<StreamFrame>(&full_of(&[12, 0, 0], &[0; 4]));
    one::<Listings>(&full_of(&[], &[0; 5]));
    one::<Listings>(&full_of(&[1, 0, 0, 0], &[0, 1]));
    one::<Request>(&full_of(&[3], &[0]));
}

#[test]
fn the_corpora_together_stay_below_a_megabyte() {
    let bytes: usize = TARGETS.iter().flat_map(|(name, _)| corpus(name)).map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes < 1_000_000, "{bytes} bytes: run `tests/full fuzz-shrink`");
}
