//! Odds: people and programs that write while a sync runs, processes that die in it. Seeded, a few rounds each;
//! `PC_SWITCHER_ROUNDS=100` asks for more.

mod clock;
mod database;
mod edits;
mod halts;
mod noise;
mod person;

use std::ops::Range;

use pc_switcher_testkit::lab::{SharedLab, SharedLabGuard};

use crate::hosts::{install, options};

const DIRS: u64 = 20;
const FILES: u64 = 100;

/// A lab of its own: these tests take long, the others need not wait for them.
static LAB: SharedLab = SharedLab::new(|| options("odds"), |lab| install(lab.laptop()));

fn lab() -> Option<SharedLabGuard<'static>> {
    LAB.take()
}

/// Writes everything anew, drops a directory, renames another, makes one.
fn rewrite(word: &str) -> String {
    format!(
        "cd work; for d in $(seq -w 0 {}); do mkdir -p d$d; for f in $(seq -w 0 {}); do echo {word} >d$d/f$f; done; done
         rm -rf old-* new-* d18; mv d19 old-{word}
         mkdir new-{word}; for f in $(seq -w 0 {}); do echo {word} >new-{word}/f$f; done",
        DIRS - 1,
        FILES - 1,
        FILES - 1
    )
}

/// Returns the rounds in which a test tries its luck: so many, or those that `PC_SWITCHER_ROUNDS` names as `100` or `20..40`.
pub fn rounds(usual: u64) -> Range<u64> {
    let Ok(text) = std::env::var("PC_SWITCHER_ROUNDS") else { return 0..usual };
    let (first, end) = text.split_once("..").unwrap_or(("0", &text));
    let parsed = first.parse().ok().zip(end.parse().ok());
    let (first, end) = parsed
        .unwrap_or_else(|| panic!("`PC_SWITCHER_ROUNDS={text}` names no rounds, such as `100` or `20..40`"));
    first..end
}
