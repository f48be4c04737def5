//! Compresses content just before it goes to the target, when [`super::pace`] says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pc_switcher_agent::proto::{Packer, StreamFrame};
use pc_switcher_contract::{AgentLink, Uplink};

use super::pace::{LOOK, Pace, Seen};
use crate::config::Compress;

/// What was compressed on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PackedBytes {
    /// Bytes that were compressed.
    pub plain: u64,
    /// What was sent instead of them.
    pub sent: u64,
    /// Bytes of content that were sent in all, before they were compressed.
    pub all: u64,
    /// What the link took when everything waited for it, in bytes a second, if that was so.
    pub link: Option<f64>,
}

/// Compresses frames, one after the other.
pub(super) struct Packing {
    link: Arc<dyn AgentLink>,
    pace: Pace,
    packer: Option<Packer>,
    counted: PackedBytes,
    tried: u64,
    spent: Duration,
    last: (Instant, Uplink, u64),
}

impl Packing {
    pub(super) fn new(wish: Compress, link: &Arc<dyn AgentLink>) -> Self {
        Self {
            link: Arc::clone(link),
            pace: Pace::new(wish),
            packer: None,
            counted: PackedBytes::default(),
            tried: 0,
            spent: Duration::ZERO,
            last: (Instant::now(), link.uplink().unwrap_or_default(), 0),
        }
    }

    /// Returns what was compressed, if anything was.
    pub(super) fn packed(&self) -> Option<PackedBytes> {
        (self.counted.plain > 0).then_some(PackedBytes { link: self.pace.link(), ..self.counted })
    }

    /// Returns a frame as it is to be sent. While it is open whether that is compressed, it waits until the link is ready for
    /// it: what was handed over before is too late to be compressed.
    pub(super) async fn pack(&mut self, frame: Vec<u8>) -> Vec<u8> {
        if self.pace.is_open() {
            self.link.written().await;
            self.look();
        }
        let bytes = frame.len() as u64;
        self.counted.all += bytes;
        if !self.pace.packs() {
            return frame;
        }
        if self.packer.is_none() {
            // Without memory for its tables all goes as it is.
            self.packer = Packer::new().ok();
        }
        let Some(packer) = self.packer.as_mut().filter(|packer| packer.is_worthy(&frame)) else {
            return frame;
        };
        let began = Instant::now();
        let packed = packer.pack(&frame);
        self.spent += began.elapsed();
        self.tried += bytes;
        let Some(packed) = packed else { return frame };
        debug_assert!(!StreamFrame::is_content(&packed));
        self.counted.plain += bytes;
        self.counted.sent += packed.len() as u64;
        packed
    }

    fn look(&mut self) {
        let (then, before, sent_before) = self.last;
        let elapsed = then.elapsed();
        if elapsed < LOOK {
            return;
        }
        // Where nothing is measured, nothing is decided.
        let Some(now) = self.link.uplink() else { return };
        self.pace.look(Seen {
            elapsed,
            bytes: now.bytes.saturating_sub(before.bytes),
            busy: now.busy.saturating_sub(before.busy),
            plain: self.counted.all - sent_before,
            tried: std::mem::take(&mut self.tried),
            spent: std::mem::take(&mut self.spent),
        });
        self.last = (Instant::now(), now, self.counted.all);
    }
}
