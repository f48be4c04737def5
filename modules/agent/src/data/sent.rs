//! What this agent has read and sent, by digest: a later question for the same digest needs no second reading. Of a live tree
//! it is the only one who knows what was sent.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pc_switcher_contract::BytePath;

/// So many digests are remembered, about 64 MB; what comes after is read again when it is asked for.
const MOST: usize = 1 << 20;

/// The digests of one agent's life.
#[derive(Debug, Default)]
pub struct Sent(Mutex<HashMap<[u8; 16], [u8; 32]>>);

impl Sent {
    /// Remembers the digest of a file of a sealed snapshot, or of a live one that was whole.
    pub(super) fn note(&self, root: &BytePath, path: &BytePath, digest: [u8; 32]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() < MOST {
            held.insert(key(root, path), digest);
        }
    }

    /// Returns the digest of a file that was sent.
    pub(super) fn of(&self, root: &BytePath, path: &BytePath) -> Option<[u8; 32]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key(root, path)).copied()
    }
}

fn key(root: &BytePath, path: &BytePath) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    // No path holds a zero byte.
    hasher.update(root.as_bytes()).update(&[0]).update(path.as_bytes());
    let mut key = [0; 16];
    hasher.finalize_xof().fill(&mut key);
    key
}
