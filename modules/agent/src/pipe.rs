//! How fast the pipe to an agent takes what is written to it, and how much waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pc_switcher_contract::Uplink;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::frame::HEAD;

/// So many bytes may wait to be written before [`Pipe::written`] waits: enough that the pipe never runs dry, and little, so
/// that what is decided about the next ones comes into force soon.
const AHEAD: usize = 1 << 20;

/// The account of one connection. One task writes, any may look.
pub(crate) struct Pipe {
    since: Instant,
    bytes: AtomicU64,
    busy_nanos: AtomicU64,
    /// When the write that is under way began, in nanoseconds; 0 if none is.
    begun_nanos: AtomicU64,
    waiting: AtomicUsize,
    has_room: Notify,
    is_closed: AtomicBool,
}

impl Default for Pipe {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            bytes: AtomicU64::default(),
            busy_nanos: AtomicU64::default(),
            begun_nanos: AtomicU64::default(),
            waiting: AtomicUsize::default(),
            has_room: Notify::new(),
            is_closed: AtomicBool::default(),
        }
    }
}

impl Pipe {
    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Notes bytes of content that were handed to the writing task.
    pub(crate) fn queue(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Notes that a write begins.
    pub(crate) fn begin(&self) -> u64 {
        let now = self.now();
        self.begun_nanos.store(now, Ordering::SeqCst);
        now
    }

    /// Notes that the frame whose write began then is written, with so many bytes of body; `queued` are those that
    /// [`Pipe::queue`] knows of it.
    pub(crate) fn end(&self, begun: u64, body: usize, queued: Option<usize>) {
        self.begun_nanos.store(0, Ordering::SeqCst);
        self.busy_nanos.fetch_add(self.now().saturating_sub(begun), Ordering::SeqCst);
        self.bytes.fetch_add((HEAD + body) as u64, Ordering::SeqCst);
        if let Some(queued) = queued {
            let less = |waiting: usize| Some(waiting.saturating_sub(queued));
            let _ = self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
            self.has_room.notify_waiters();
        }
    }

    /// Nothing is written any more: nobody waits.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.has_room.notify_waiters();
    }

    /// Waits until little has yet to be written.
    pub(crate) async fn written(&self) {
        loop {
            // Made before the look: what happens in between is not missed.
            let room = self.has_room.notified();
            if self.waiting.load(Ordering::SeqCst) < AHEAD || self.is_closed.load(Ordering::SeqCst) {
                return;
            }
            room.await;
        }
    }

    /// Returns what was written so far, with the time of a write that is under way.
    pub(crate) fn uplink(&self) -> Uplink {
        let under_way = match self.begun_nanos.load(Ordering::SeqCst) {
            0 => 0,
            begun => self.now().saturating_sub(begun),
        };
        Uplink {
            bytes: self.bytes.load(Ordering::SeqCst),
            busy: Duration::from_nanos(self.busy_nanos.load(Ordering::SeqCst) + under_way),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_counts_while_bytes_are_waited_for() {
        let pipe = Pipe::default();
        tokio::time::advance(Duration::from_secs(1)).await;
        let begun = pipe.begin();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pipe.uplink(), Uplink { bytes: 0, busy: Duration::from_secs(2) });
        tokio::time::advance(Duration::from_secs(1)).await;
        pipe.end(begun, 500, None);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(pipe.uplink(), Uplink { bytes: 509, busy: Duration::from_secs(3) });
    }

    #[tokio::test]
    async fn whoever_waits_for_room_goes_on_when_there_is_some_or_nobody_writes_any_more() {
        let pipe = std::sync::Arc::new(Pipe::default());
        pipe.queue(AHEAD - 1);
        pipe.written().await;
        pipe.queue(1);
        let wait = async |pipe: std::sync::Arc<Pipe>| pipe.written().await;
        let waits = tokio::spawn(wait(pipe.clone()));
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        pipe.end(pipe.begin(), 60, Some(100));
        waits.await.unwrap();
        pipe.queue(AHEAD);
        let waits = tokio::spawn(wait(pipe.clone()));
        tokio::task::yield_now().await;
        pipe.close();
        waits.await.unwrap();
    }
}
