//! The way from the bus to one reader.
//!
//! Only progress is dropped: a newer report of a module replaces an older one that still waits, so progress never
//! takes more than one place per module. Everything else is kept. A full queue makes the emitter wait a moment,
//! once; a reader that stands still (a terminal stopped with Ctrl+S) is then not waited for until it has caught up.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pc_switcher_contract::{Event, EventKind};

use super::lock;

/// How long one emitter waits, at most, for a reader with a full queue.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a reader got.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// The next event.
    Event(Arc<Event>),
    /// Nothing in time.
    Nothing,
    /// Nothing, and nothing will come any more.
    Closed,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Event>>,
    closed: bool,
    slow: bool,
}

/// The shared queue; the bus holds one end, [`Reader`] the other.
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    room: Condvar,
    capacity: usize,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            room: Condvar::new(),
            capacity: capacity.max(1),
        }
    }

    /// Waits a bounded time until there is room; never called with the bus locked.
    pub(super) fn wait_for_room(&self) {
        let mut state = lock(&self.state);
        let until = Instant::now() + PATIENCE;
        while state.waiting.len() >= self.capacity && !state.slow && !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.slow = true;
                return;
            }
            state = self.room.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    pub(super) fn push(&self, event: Arc<Event>) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        if let EventKind::Progress { module, .. } = &event.kind {
            let older = state.waiting.iter().rposition(
                |waiting| matches!(&waiting.kind, EventKind::Progress { module: of, .. } if of == module),
            );
            if let Some(index) = older {
                state.waiting.remove(index);
            }
        }
        state.waiting.push_back(event);
        self.arrived.notify_one();
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.arrived.notify_all();
        self.room.notify_all();
    }

    fn take(&self, timeout: Duration) -> Received {
        let until = Instant::now() + timeout;
        let mut state = lock(&self.state);
        loop {
            if let Some(event) = state.waiting.pop_front() {
                if state.waiting.len() <= self.capacity / 2 {
                    state.slow = false;
                }
                self.room.notify_all();
                return Received::Event(event);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.closed {
                return Received::Closed;
            }
            if left.is_zero() {
                return Received::Nothing;
            }
            state =
                self.arrived.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    fn wait(&self, timeout: Duration) -> bool {
        let state = lock(&self.state);
        let (state, _) = self
            .arrived
            .wait_timeout_while(state, timeout, |state| state.waiting.is_empty() && !state.closed)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        !(state.closed && state.waiting.is_empty())
    }
}

/// One reader's end. Meant for a thread of its own: it blocks.
pub struct Reader {
    queue: Arc<Queue>,
}

impl Reader {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { queue }
    }

    /// Waits for the next event, at most `timeout`.
    pub fn next(&self, timeout: Duration) -> Received {
        self.queue.take(timeout)
    }

    /// Returns the next event if one waits.
    pub fn try_next(&self) -> Option<Arc<Event>> {
        match self.queue.take(Duration::ZERO) {
            Received::Event(event) => Some(event),
            Received::Nothing | Received::Closed => None,
        }
    }

    /// Waits until an event waits, without taking it; `false` once the stream is over and empty.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.queue.wait(timeout)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.queue.close();
    }
}
