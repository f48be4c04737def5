//! What one thread of a walk has to send: listings together in one message, and a large one in several.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::data::manifest;
use crate::proto::{AgentError, DirDigest, DirListing, Entry, MOST, Skip, SkipReason, encode};
use crate::server::Call;

/// Bytes from which on a message is sent: each costs both ends a switch of tasks.
const FULL: usize = 64 << 10;

/// Entries of one piece of a listing.
const PIECE: usize = 4096;

/// Bytes of long names, targets and attributes in one piece: a message stays below the largest frame.
const LONG: usize = 1 << 20;

/// Listings that wait to be sent.
pub(super) struct Outbox<'a> {
    call: &'a Call,
    manifest: Option<&'a Mutex<manifest::Writer>>,
    count: usize,
    bodies: Vec<u8>,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(call: &'a Call, manifest: Option<&'a Mutex<manifest::Writer>>) -> Self {
        Self { call, manifest, count: 0, bodies: Vec::new() }
    }

    /// Adds a listing; sends what is there once it is enough.
    pub(super) fn add(&mut self, mut listing: DirListing) -> Result<(), AgentError> {
        while let Some((entries, skips)) = first_piece(&listing) {
            let rest = listing.entries.split_off(entries);
            let skipped = listing.skipped.split_off(skips);
            let path = listing.path.clone();
            self.push(&DirListing { more: true, ..listing })?;
            listing = DirListing { path, root: None, entries: rest, skipped, more: false };
        }
        self.push(&listing)
    }

    /// Adds what a directory can be compared by.
    pub(super) fn add_digest(&mut self, digest: &DirDigest) -> Result<(), AgentError> {
        self.push(digest)
    }

    fn push(&mut self, element: &impl Serialize) -> Result<(), AgentError> {
        self.count += 1;
        self.bodies.extend(encode(element));
        if self.bodies.len() >= FULL || self.count == MOST { self.send() } else { Ok(()) }
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
        if let Some(manifest) = self.manifest {
            manifest.lock().unwrap_or_else(PoisonError::into_inner).add(&body)?;
        }
        self.call.item_raw(&body)
    }
}

/// How many entries and skips make a first piece, if the listing is too large for one.
fn first_piece(listing: &DirListing) -> Option<(usize, usize)> {
    let (mut count, mut bytes) = (0, 0);
    let mut is_over = |long: usize| {
        (count, bytes) = (count + 1, bytes + long);
        // A single entry always goes, however long it is.
        count > 1 && (count > PIECE || bytes > LONG)
    };
    if let Some(at) = listing.entries.iter().position(|entry| is_over(length(entry))) {
        return Some((at, 0));
    }
    let at = listing.skipped.iter().position(|skip| is_over(length_of_skip(skip)))?;
    Some((listing.entries.len(), at))
}

fn length(entry: &Entry) -> usize {
    let attributes: usize = entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    entry.name.as_bytes().len() + entry.target.as_bytes().len() + attributes
}

fn length_of_skip(skip: &Skip) -> usize {
    let why = match &skip.reason {
        SkipReason::Rule(why) | SkipReason::Unreadable(why) => why.len(),
        SkipReason::Socket | SkipReason::Device | SkipReason::Subvolume => 0,
    };
    skip.name.as_bytes().len() + why
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::BytePath;

    use super::*;
    use crate::frame::MAX_BODY;
    use crate::proto::{FileTime, Kind, Listings, Meta, decode};

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
        let mut outbox = Outbox::new(&call, None);
        outbox.add(listing(3 * PIECE + 5)).unwrap();
        outbox.add(listing(0)).unwrap();
        outbox.send().unwrap();
        outbox.send().unwrap();
        let items = crate::data::tests::drive::raw_items(&seen);
        let pieces: Vec<DirListing> =
            items.iter().flat_map(|item| decode::<Listings>(item).unwrap().0).collect();
        let more: Vec<bool> = pieces.iter().map(|piece| piece.more).collect();
        assert_eq!(more, [true, true, true, false, false]);
        let whole: Vec<Skip> = pieces.into_iter().flat_map(|piece| piece.skipped).collect();
        assert_eq!(whole, listing(3 * PIECE + 5).skipped);
    }

    #[test]
    fn entries_with_large_attributes_come_in_messages_that_fit_into_a_frame() {
        let (call, seen) = Call::for_test(Vec::new());
        let entry = |at: usize| Entry {
            name: format!("{at:06}").as_str().into(),
            kind: Kind::File,
            meta: Meta { xattrs: vec![(b"user.large".to_vec(), vec![7; 60_000])], ..Meta::default() },
            size: 0,
            allocated: 0,
            ctime: FileTime::default(),
            ino: 1,
            nlink: 1,
            target: BytePath::default(),
        };
        let entries: Vec<Entry> = (0..150).map(entry).collect();
        let mut outbox = Outbox::new(&call, None);
        let (path, skipped) = (BytePath::from("big"), Vec::new());
        outbox.add(DirListing { path, root: None, entries: entries.clone(), skipped, more: false }).unwrap();
        outbox.send().unwrap();
        let items = crate::data::tests::drive::raw_items(&seen);
        assert!(items.len() > 2 && items.iter().all(|item| item.len() < MAX_BODY));
        let pieces = items.iter().flat_map(|item| decode::<Listings>(item).unwrap().0);
        assert_eq!(pieces.flat_map(|piece| piece.entries).collect::<Vec<_>>(), entries);
    }
}
