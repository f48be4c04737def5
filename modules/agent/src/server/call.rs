//! One call as its handler sees it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};

#[cfg(test)]
use crate::frame::WINDOW;
use crate::frame::{self, FrameKind, MAX_BODY, Packer};
use crate::proto::{AgentError, encode};

/// The way out, shared by all calls. A broken pipe marks the agent as closing.
pub(super) struct Outlet {
    pub(super) out: Mutex<Box<dyn Write + Send>>,
    pub(super) closing: AtomicBool,
    /// Packs answers, if the front is on another machine.
    pub(super) packer: Option<Mutex<Packer>>,
}

impl Outlet {
    pub(super) fn send(&self, call: u32, kind: FrameKind, body: &[u8]) {
        let packer = self.packer.as_ref().filter(|_| frame::is_worthy(body));
        let packed = packer.and_then(|packer| guard(packer).pack(body));
        let mut out = guard(&self.out);
        let written = match packed {
            Some(packed) => frame::write_packed(&mut *out, call, kind, &packed),
            None => frame::write(&mut *out, call, kind, body),
        };
        if written.and_then(|()| out.flush()).is_err() {
            self.closing.store(true, Ordering::SeqCst);
        }
    }
}

impl Outlet {
    /// Answers a ping, unless somebody is writing: then those bytes are sign of life enough. The reading thread must never
    /// wait here, or it would not notice that the front is gone.
    pub(super) fn pong(&self) {
        if let Ok(mut out) = self.out.try_lock()
            && frame::write(&mut *out, 0, FrameKind::Pong, &[]).and_then(|()| out.flush()).is_err()
        {
            self.closing.store(true, Ordering::SeqCst);
        }
    }
}

/// Refuses what no message can hold: on the wire it would end the agent.
pub(super) fn fitting(body: &[u8]) -> Result<(), AgentError> {
    match body.len() {
        0..=MAX_BODY => Ok(()),
        len => Err(AgentError::failed(format!(
            "an answer of {len} bytes is longer than a message can be, which is {MAX_BODY} bytes"
        ))),
    }
}

pub(super) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Flow control and cancellation of one call.
pub(super) struct CallState {
    pub(super) cancelled: AtomicBool,
    pub(super) credit: Mutex<i64>,
    pub(super) more: Condvar,
    pub(super) uploads: Sender<Option<Vec<u8>>>,
    /// Bytes that the front may still send; below zero it broke the protocol.
    pub(super) upload_window: AtomicI64,
}

impl CallState {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let _credit = guard(&self.credit);
        self.more.notify_all();
        // A handler that waits for uploads wakes up on this end mark.
        let _ = self.uploads.send(None);
    }
}

/// One call: replies go out under flow control, uploads come in, both end when the caller gives up.
pub struct Call {
    pub(super) id: u32,
    pub(super) outlet: Arc<Outlet>,
    pub(super) state: Arc<CallState>,
    pub(super) uploads: Receiver<Option<Vec<u8>>>,
    pub(super) shields: Arc<AtomicUsize>,
}

impl Call {
    /// Sends one item; waits while the front is behind. Safe to use from several threads.
    ///
    /// # Errors
    /// [`AgentError::cancelled`] if the caller gave up or the connection is gone.
    pub fn item(&self, item: &impl serde::Serialize) -> Result<(), AgentError> {
        self.item_raw(&encode(item))
    }

    /// Sends one encoded item.
    ///
    /// # Errors
    /// As [`Call::item`], or if it is longer than a message can be.
    pub fn item_raw(&self, body: &[u8]) -> Result<(), AgentError> {
        fitting(body)?;
        let mut credit = guard(&self.state.credit);
        while *credit <= 0 && !self.is_cancelled() {
            credit = self.state.more.wait(credit).unwrap_or_else(PoisonError::into_inner);
        }
        if self.is_cancelled() {
            return Err(AgentError::cancelled());
        }
        *credit -= body.len() as i64;
        drop(credit);
        self.outlet.send(self.id, FrameKind::Item, body);
        Ok(())
    }

    /// Returns the next upload frame, `None` at their end.
    ///
    /// # Errors
    /// [`AgentError::cancelled`] if the caller gave up.
    pub fn next_upload(&self) -> Result<Option<Vec<u8>>, AgentError> {
        if self.is_cancelled() {
            return Err(AgentError::cancelled());
        }
        let next = self.uploads.recv().unwrap_or(None);
        self.taken(next)
    }

    /// As [`Call::next_upload`], but also ends when something comes out of `stop`.
    ///
    /// # Errors
    /// As [`Call::next_upload`].
    pub fn next_upload_or(&self, stop: &Receiver<()>) -> Result<Option<Vec<u8>>, AgentError> {
        if self.is_cancelled() {
            return Err(AgentError::cancelled());
        }
        let next = crossbeam_channel::select! {
            recv(self.uploads) -> next => next.unwrap_or(None),
            recv(stop) -> _ => None,
        };
        self.taken(next)
    }

    fn taken(&self, next: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, AgentError> {
        if self.is_cancelled() {
            return Err(AgentError::cancelled());
        }
        if let Some(body) = &next {
            self.state.upload_window.fetch_add(body.len() as i64, Ordering::SeqCst);
            self.outlet.send(self.id, FrameKind::Credit, &(body.len() as u32).to_le_bytes());
        }
        Ok(next)
    }

    /// Whether the caller gave up or the connection is gone.
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst) || self.outlet.closing.load(Ordering::SeqCst)
    }

    /// Keeps the agent alive until the guard is dropped, though the connection may be gone: for a commit that is past its
    /// commit record.
    pub fn shield(&self) -> Shield {
        self.shields.fetch_add(1, Ordering::SeqCst);
        Shield(Arc::clone(&self.shields))
    }

    /// Makes a call of nobody's: nothing is heard of it, and nobody gives it up.
    pub(crate) fn alone() -> Call {
        let (uploads, recv) = crossbeam_channel::unbounded();
        Call {
            id: 0,
            outlet: Arc::new(Outlet {
                out: Mutex::new(Box::new(std::io::sink())),
                closing: AtomicBool::new(false),
                packer: None,
            }),
            state: Arc::new(CallState {
                cancelled: AtomicBool::new(false),
                credit: Mutex::new(i64::MAX),
                more: Condvar::new(),
                uploads,
                upload_window: AtomicI64::new(0),
            }),
            uploads: recv,
            shields: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Gives up, as a caller does.
    #[cfg(test)]
    pub(crate) fn cancel_for_test(&self) {
        self.state.cancel();
    }

    /// Makes a call that is connected to nothing but the returned receiver of frames: for tests of handlers.
    #[cfg(test)]
    pub(crate) fn for_test(uploads: Vec<Vec<u8>>) -> (Call, Receiver<Vec<u8>>) {
        struct Pipe(Sender<Vec<u8>>);
        impl Write for Pipe {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.send(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (wire, seen) = crossbeam_channel::unbounded();
        let (send, recv) = crossbeam_channel::unbounded();
        for body in uploads {
            let _ = send.send(Some(body));
        }
        let _ = send.send(None);
        let call = Call {
            id: 1,
            outlet: Arc::new(Outlet {
                out: Mutex::new(Box::new(Pipe(wire))),
                closing: AtomicBool::new(false),
                packer: None,
            }),
            state: Arc::new(CallState {
                cancelled: AtomicBool::new(false),
                credit: Mutex::new(i64::MAX),
                more: Condvar::new(),
                uploads: send,
                upload_window: AtomicI64::new(WINDOW),
            }),
            uploads: recv,
            shields: Arc::new(AtomicUsize::new(0)),
        };
        (call, seen)
    }
}

/// See [`Call::shield`].
pub struct Shield(Arc<AtomicUsize>);

impl Drop for Shield {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
