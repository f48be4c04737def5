//! What one thread of a walk has to send: listings together in one message, and a large one in several.

use std::iter::Peekable;
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

/// The longest entry that is sent: a step may hold the attributes of two.
const LONGEST: usize = 3 << 19;

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
    pub(super) fn add(&mut self, listing: DirListing) -> Result<(), AgentError> {
        let DirListing { path, mut root, entries, mut skipped, .. } = listing;
        let mut entries = entries.into_iter().peekable();
        let mut long = Vec::new();
        let mut fits = |entry: &Entry| {
            let length = length(entry);
            if length > LONGEST {
                let why = format!("its attributes take {length} bytes, and {LONGEST} are what can be sent");
                long.push(Skip { name: entry.name.clone(), reason: SkipReason::Unreadable(why) });
            }
            length <= LONGEST
        };
        loop {
            let mut room = Room::default();
            let piece = room.take(&mut entries, length);
            let piece: Vec<Entry> = piece.into_iter().filter(&mut fits).collect();
            if entries.peek().is_some() {
                let (path, skipped) = (path.clone(), Vec::new());
                self.push(&DirListing { path, root: root.take(), entries: piece, skipped, more: true })?;
                continue;
            }
            skipped.append(&mut long);
            skipped.sort_by(|a, b| a.name.cmp(&b.name));
            let mut skipped = skipped.into_iter().peekable();
            let (mut piece, mut names) = (piece, room.take(&mut skipped, length_of_skip));
            while skipped.peek().is_some() {
                let entries = std::mem::take(&mut piece);
                self.push(&DirListing {
                    path: path.clone(),
                    root: root.take(),
                    entries,
                    skipped: names,
                    more: true,
                })?;
                names = Room::default().take(&mut skipped, length_of_skip);
            }
            return self.push(&DirListing { path, root, entries: piece, skipped: names, more: false });
        }
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

/// What one piece of a listing holds so far.
#[derive(Default)]
struct Room {
    count: usize,
    bytes: usize,
}

impl Room {
    /// Takes what fits; a single one always does, however long it is.
    fn take<T>(
        &mut self,
        all: &mut Peekable<impl Iterator<Item = T>>,
        length: impl Fn(&T) -> usize,
    ) -> Vec<T> {
        let mut taken = Vec::new();
        while let Some(one) = all.next_if(|one| {
            let bytes = self.bytes + length(one);
            let fits = self.count == 0 || (self.count < PIECE && bytes <= LONG);
            if fits {
                (self.count, self.bytes) = (self.count + 1, bytes);
            }
            fits
        }) {
            taken.push(one);
        }
        taken
    }
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

    fn entry(name: &str, attributes: usize) -> Entry {
        let xattrs = vec![(b"user.large".to_vec(), vec![7; 60_000]); attributes];
        Entry {
            name: name.into(),
            kind: Kind::File,
            meta: Meta { xattrs, ..Meta::default() },
            size: 0,
            allocated: 0,
            ctime: FileTime::default(),
            ino: 1,
            nlink: 1,
            target: BytePath::default(),
        }
    }

    #[test]
    fn entries_with_large_attributes_come_in_messages_that_fit_into_a_frame() {
        let (call, seen) = Call::for_test(Vec::new());
        let entries: Vec<Entry> = (0..150).map(|at| entry(&format!("{at:06}"), 1)).collect();
        let mut outbox = Outbox::new(&call, None);
        let (path, skipped) = (BytePath::from("big"), Vec::new());
        outbox.add(DirListing { path, root: None, entries: entries.clone(), skipped, more: false }).unwrap();
        outbox.send().unwrap();
        let items = crate::data::tests::drive::raw_items(&seen);
        assert!(items.len() > 2 && items.iter().all(|item| item.len() < MAX_BODY));
        let pieces = items.iter().flat_map(|item| decode::<Listings>(item).unwrap().0);
        assert_eq!(pieces.flat_map(|piece| piece.entries).collect::<Vec<_>>(), entries);
    }

    #[test]
    fn an_entry_that_no_message_holds_is_told_as_one_that_cannot_be_read() {
        let (call, seen) = Call::for_test(Vec::new());
        let mut outbox = Outbox::new(&call, None);
        let entries = vec![entry("a", 1), entry("b", 80), entry("c", 1)];
        let skipped = vec![Skip { name: "bb".into(), reason: SkipReason::Socket }];
        outbox.add(DirListing { path: "d".into(), root: None, entries, skipped, more: false }).unwrap();
        outbox.send().unwrap();
        let items = crate::data::tests::drive::raw_items(&seen);
        let pieces: Vec<DirListing> =
            items.iter().flat_map(|item| decode::<Listings>(item).unwrap().0).collect();
        let names = |of: &dyn Fn(&DirListing) -> Vec<String>| pieces.iter().flat_map(of).collect::<Vec<_>>();
        let entries = names(&|piece| piece.entries.iter().map(|entry| entry.name.to_string()).collect());
        let skipped = names(&|piece| piece.skipped.iter().map(|skip| skip.name.to_string()).collect());
        assert_eq!((entries, skipped), (vec!["a".into(), "c".into()], vec!["b".to_owned(), "bb".into()]));
    }
}
