//! The one source of the time: everything else is handed a [`Clock`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
pub use pc_switcher_contract::context::Clock;

/// Returns the system's clock, UTC.
pub fn system() -> Clock {
    Arc::new(Timestamp::now)
}

/// A clock that moves only when it is told to; for tests.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Timestamp>>);

impl ManualClock {
    /// Makes a clock that stands at `at`.
    pub fn new(at: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(at)))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    /// Returns what is handed on.
    pub fn clock(&self) -> Clock {
        let now = self.0.clone();
        Arc::new(move || *now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let manual = ManualClock::new(Timestamp::UNIX_EPOCH);
        let clock = manual.clock();
        assert_eq!(clock(), clock());
        manual.advance(Duration::from_secs(5));
        assert_eq!(clock().as_second(), 5);
    }
}
