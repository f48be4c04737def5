//! What one thread of a walk has to send: listings together in one message, and a large one in several.

use crate::proto::{AgentError, DirListing, encode};
use crate::server::Call;

/// Bytes from which on a message is sent: each costs both ends a switch of tasks.
const FULL: usize = 64 << 10;

/// Entries of one piece of a listing: a message stays far below the largest frame.
const PIECE: usize = 4096;

/// Listings that wait to be sent.
pub(super) struct Outbox<'a> {
    call: &'a Call,
    count: usize,
    bodies: Vec<u8>,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(call: &'a Call) -> Self {
        Self { call, count: 0, bodies: Vec::new() }
    }

    /// Adds a listing; sends what is there once it is enough.
    pub(super) fn add(&mut self, mut listing: DirListing) -> Result<(), AgentError> {
        while listing.entries.len() + listing.skipped.len() > PIECE {
            let rest = listing.entries.split_off(PIECE.min(listing.entries.len()));
            let room = PIECE - listing.entries.len().min(PIECE);
            let skips = listing.skipped.split_off(room.min(listing.skipped.len()));
            let path = listing.path.clone();
            self.push(&DirListing { more: true, ..listing })?;
            listing = DirListing { path, root: None, entries: rest, skipped: skips, more: false };
        }
        self.push(&listing)
    }

    fn push(&mut self, listing: &DirListing) -> Result<(), AgentError> {
        self.count += 1;
        self.bodies.extend(encode(listing));
        if self.bodies.len() >= FULL { self.send() } else { Ok(()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sends what is there.
    pub(super) fn send(&mut self) -> Result<(), AgentError> {
        if self.count == 0 {
            return Ok(());
        }
        // A sequence is its length and then its elements.
        let mut body = encode(&self.count);
        body.append(&mut self.bodies);
        self.count = 0;
        self.call.item_raw(&body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Skip, SkipReason, decode};

    #[test]
    fn a_large_directory_comes_in_pieces_that_are_the_whole() {
        let (call, seen) = Call::for_test(Vec::new());
        let skip = |at: usize| Skip {
            name: format!("{at:06}").as_str().into(),
            reason: SkipReason::Rule("r".into()),
        };
        let listing = |count: usize| DirListing {
            path: "big".into(),
            root: None,
            entries: Vec::new(),
            skipped: (0..count).map(skip).collect(),
            more: false,
        };
        let mut outbox = Outbox::new(&call);
        outbox.add(listing(3 * PIECE + 5)).unwrap();
        outbox.add(listing(0)).unwrap();
        outbox.send().unwrap();
        outbox.send().unwrap();
        let items = crate::data::tests::drive::raw_items(&seen);
        let pieces: Vec<DirListing> =
            items.iter().flat_map(|item| decode::<Vec<DirListing>>(item).unwrap()).collect();
        let more: Vec<bool> = pieces.iter().map(|piece| piece.more).collect();
        assert_eq!(more, [true, true, true, false, false]);
        let whole: Vec<Skip> = pieces.into_iter().flat_map(|piece| piece.skipped).collect();
        assert_eq!(whole, listing(3 * PIECE + 5).skipped);
    }
}
