//! An agent that dies in the midst of its work, while the machine goes on: what the next one finds is in memory, too.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use pc_switcher_agent::data::apply::Watch;
use rustix::io::Errno;

use super::host::Host;

/// Dies after the step of this number.
struct Dies<'a> {
    watch: &'a dyn Watch,
    number: usize,
    seen: AtomicUsize,
}

struct Died;

impl Watch for Dies<'_> {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        let told = self.watch.after(step);
        if self.seen.fetch_add(1, Ordering::SeqCst) == self.number {
            // No hook is told: it is meant.
            resume_unwind(Box::new(Died));
        }
        told
    }
}

/// Does work that dies once, after the step of a number, if it has so many. Whoever comes next finishes what was cut off, and does the
/// work again unless it `is_over` then.
pub fn insist(
    host: &Host,
    watch: &dyn Watch,
    number: Option<usize>,
    is_over: impl Fn() -> bool,
    work: impl Fn(&dyn Watch),
) {
    let Some(number) = number else { return work(watch) };
    let dies = Dies { watch, number, seen: AtomicUsize::new(0) };
    let Err(why) = catch_unwind(AssertUnwindSafe(|| work(&dies))) else { return };
    if !why.is::<Died>() {
        resume_unwind(why);
    }
    host.redo(watch).unwrap();
    if !is_over() {
        work(watch);
    }
}
