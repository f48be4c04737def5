//! Tells a sync how far the work is, and the work when to stop.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pc_switcher_contract::{Fraction, ModuleContext, Progress as Shown, Reporter};
use tokio_util::sync::CancellationToken;

use crate::engine::{Observer, Progress};

/// How often people are told.
const PACE: Duration = Duration::from_millis(100);

/// Hears how the work goes on.
pub(super) struct Listener {
    reporter: Reporter,
    cancel: CancellationToken,
    told: Mutex<Option<Instant>>,
}

impl Listener {
    pub(super) fn of(ctx: &ModuleContext) -> Self {
        Self { reporter: ctx.reporter.clone(), cancel: ctx.cancel.clone(), told: Mutex::default() }
    }
}

impl Observer for Listener {
    fn progress(&self, progress: Progress) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| told.elapsed() < PACE) {
            return;
        }
        *told = Some(Instant::now());
        let Progress { bytes, total_bytes, item, .. } = progress;
        // While nobody knows how much it will be there is no share of it.
        let known = total_bytes > 0;
        self.reporter.progress(Shown {
            fraction: known.then(|| Fraction::of(bytes, total_bytes)),
            item: item.display().to_string(),
            eta: None,
            bytes: known.then_some((bytes.min(total_bytes), total_bytes)),
        });
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}
