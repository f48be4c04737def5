//! How long a start waits for its early part: that ends itself when its time is over, but never between two exchanges.
//!
//! Whoever killed it from outside could not know how far it is, and would mount trees of which some are exchanged and some are not.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::data::apply::Watch;

/// The step behind which a rollback is brought to its end.
const POINT_OF_NO_RETURN: &str = "prepared";

#[derive(Debug)]
struct State {
    until: Instant,
    /// What was begun goes to its end.
    is_shielded: bool,
    is_over: bool,
}

/// The time that there is. Dropping it ends the watch.
#[derive(Debug)]
pub(super) struct Patience(Arc<(Mutex<State>, Condvar)>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Patience {
    /// Has `end` called when the time is over, unless that is kept from it. `end` ends this process: while it is called nobody can
    /// begin what must go to its end.
    pub(super) fn begin(length: Duration, end: impl FnOnce() + Send + 'static) -> Self {
        let state = State { until: Instant::now() + length, is_shielded: false, is_over: false };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let seen = Arc::clone(&shared);
        thread::spawn(move || {
            let (state, changed) = &*seen;
            let mut now = lock(state);
            loop {
                if now.is_over {
                    return;
                }
                let left = now.until.saturating_duration_since(Instant::now());
                if now.is_shielded {
                    now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
                } else if left.is_zero() {
                    return end();
                } else {
                    now = changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        });
        Self(shared)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let (state, changed) = &*self.0;
        change(&mut lock(state));
        changed.notify_all();
    }

    /// From here on it goes to its end, however long that takes. Whoever comes too late is ended here.
    pub(super) fn shield(&self) {
        let (state, changed) = &*self.0;
        let mut now = lock(state);
        while !now.is_shielded && now.until <= Instant::now() {
            now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        now.is_shielded = true;
        changed.notify_all();
    }

    /// Time runs again.
    pub(super) fn unshield(&self) {
        self.change(|state| state.is_shielded = false);
    }

    /// Adds the time that a question takes.
    pub(super) fn extend(&self, by: Duration) {
        self.change(|state| state.until += by);
    }

    #[cfg(test)]
    pub(super) fn is_shielded(&self) -> bool {
        lock(&self.0.0).is_shielded
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.change(|state| state.is_over = true);
    }
}

/// Looks on at a rollback, and shields it once it is decided.
pub(super) struct Shielding<'a> {
    pub(super) patience: &'a Patience,
    pub(super) watch: &'a dyn Watch,
}

impl Watch for Shielding<'_> {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        if step == POINT_OF_NO_RETURN {
            self.patience.shield();
        }
        self.watch.after(step)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    #[test]
    fn time_is_over_at_its_end_and_never_while_it_is_shielded() {
        let (sender, ended) = channel();
        let patience = Patience::begin(Duration::ZERO, move || sender.send(()).unwrap());
        ended.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(patience);

        let (sender, ended) = channel();
        let patience = Patience::begin(Duration::from_secs(3600), move || sender.send(()).unwrap());
        patience.shield();
        patience.change(|state| state.until = Instant::now());
        assert_eq!(ended.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        patience.unshield();
        ended.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn what_is_done_in_time_ends_the_watch() {
        let (sender, ended) = channel::<()>();
        let patience = Patience::begin(Duration::from_secs(3600), move || sender.send(()).unwrap());
        patience.extend(Duration::from_secs(1));
        drop(patience);
        // The sender goes with the thread that watched.
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Err(RecvTimeoutError::Disconnected));
    }
}
