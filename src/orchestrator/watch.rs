//! The one loop in which a run waits: interruptions first, then failures in the background, then the work.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use pc_switcher_contract::ModuleError;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::CoreLog;
use crate::signal::Escalation;

/// How long work may go on after it was asked to stop.
pub const GRACE: Duration = Duration::from_secs(10);

/// Waits for work while it listens.
pub struct Watch {
    interrupts: mpsc::Receiver<(String, Escalation)>,
    background: mpsc::Receiver<ModuleError>,
    /// Set when everything must stop.
    pub cancel: CancellationToken,
    log: CoreLog,
    /// Whether the user asked to stop.
    pub abort_requested: bool,
    /// Whether waits are skipped: the user asked twice.
    pub skip_waits: bool,
    /// What failed in the background.
    pub failure: Option<ModuleError>,
}

impl Watch {
    /// Makes the loop's state. `interrupts` carry what the user did and what it asks for; `background` carries failures of
    /// monitors and connections.
    pub fn new(
        interrupts: mpsc::Receiver<(String, Escalation)>,
        background: mpsc::Receiver<ModuleError>,
        cancel: CancellationToken,
        log: CoreLog,
    ) -> Self {
        Self { interrupts, background, cancel, log, abort_requested: false, skip_waits: false, failure: None }
    }

    /// Whether the run should go to cleanup.
    pub fn is_stopping(&self) -> bool {
        self.abort_requested || self.failure.is_some()
    }

    fn interrupted(&mut self, what: &str, escalation: Escalation) {
        if !self.abort_requested {
            self.log
                .warning(format!("{what}: stopping; once more skips the waits, a third time exits at once"));
        }
        self.abort_requested = true;
        self.skip_waits |= escalation >= Escalation::SkipWaits;
        self.cancel.cancel();
    }

    /// Waits for `work`. After a stop it has the grace period, after a second Ctrl+C none.
    ///
    /// # Errors
    /// What the work ended with, a panic of it included; the background's failure if that stopped it; cancelled if the user
    /// did or it did not stop in time.
    pub async fn drive<T>(
        &mut self,
        work: impl Future<Output = Result<T, ModuleError>>,
    ) -> Result<T, ModuleError> {
        let work = AssertUnwindSafe(work).catch_unwind();
        tokio::pin!(work);
        let mut deadline = self.is_stopping().then(|| Instant::now() + GRACE);
        loop {
            if self.skip_waits {
                return Err(ModuleError::cancelled());
            }
            tokio::select! {
                biased;
                Some((what, escalation)) = self.interrupts.recv() => {
                    self.interrupted(&what, escalation);
                    deadline.get_or_insert(Instant::now() + GRACE);
                }
                Some(error) = self.background.recv(), if self.failure.is_none() => {
                    self.failure = Some(error);
                    self.cancel.cancel();
                    deadline.get_or_insert(Instant::now() + GRACE);
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(ModuleError::cancelled());
                }
                done = &mut work => return done.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))),
            }
        }
    }

    /// Waits for cleanup work for at most `limit`; a further Ctrl+C ends the wait. Returns whether it finished.
    pub async fn bounded(&mut self, limit: Duration, work: impl Future<Output = ()>) -> bool {
        let work = AssertUnwindSafe(work).catch_unwind();
        tokio::pin!(work);
        let limit = if self.skip_waits { Duration::from_millis(200) } else { limit };
        let deadline = Instant::now() + limit;
        loop {
            tokio::select! {
                biased;
                Some((what, escalation)) = self.interrupts.recv() => {
                    self.interrupted(&what, escalation);
                    if self.skip_waits {
                        return false;
                    }
                }
                () = tokio::time::sleep_until(deadline) => return false,
                done = &mut work => return done.is_ok(),
            }
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> ModuleError {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text =
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    ModuleError::failed(format!("panicked: {text}"))
}
