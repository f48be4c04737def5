//! Paths of the target, and of its base, as far as they were looked at.

use std::collections::{BTreeSet, HashMap};

use pc_switcher_agent::proto::{DirListing, Entry, SkipReason};
use pc_switcher_contract::BytePath;

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look<'a> {
    /// Nothing.
    Nothing,
    /// Something that is not mirrored.
    Skipped,
    /// This.
    There(&'a Entry),
    /// Nobody has looked yet.
    Unknown,
}

/// What a listing says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing stands there.
    Nothing,
    /// Something that is not mirrored does.
    Skipped,
    /// This does.
    There(Box<Entry>),
}

impl Seen {
    /// Looks for a name in the listing of its directory; one that is not there, or could not be read, holds nothing.
    pub fn within(listing: Option<&DirListing>, name: &[u8]) -> Self {
        let is_unread = |listing: &DirListing| {
            listing.skipped.iter().any(|skip| matches!(skip.reason, SkipReason::Unreadable(_)))
        };
        let Some(listing) = listing.filter(|listing| !is_unread(listing)) else { return Seen::Nothing };
        match listing.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name)) {
            Ok(at) => Seen::There(Box::new(listing.entries[at].clone())),
            Err(_) if listing.skipped.iter().any(|skip| skip.name.as_bytes() == name) => Seen::Skipped,
            Err(_) => Seen::Nothing,
        }
    }
}

/// What stands at paths as they are now, and were in the base.
#[derive(Debug, Default)]
pub struct Known {
    target: HashMap<BytePath, Seen>,
    /// `None` if the target is just as its base.
    base: Option<HashMap<BytePath, Seen>>,
    wanted: BTreeSet<BytePath>,
}

impl Known {
    /// Begins with nothing; `has_base` says whether the base is another tree than the target.
    pub fn new(has_base: bool) -> Self {
        Self { base: has_base.then(HashMap::new), ..Self::default() }
    }

    /// Takes what was found at a path of the target, and of its base.
    pub fn add(&mut self, path: BytePath, target: Seen, base: Seen) {
        if let Some(known) = &mut self.base {
            known.insert(path.clone(), base);
        }
        self.target.insert(path, target);
    }

    /// Returns what stands at a path of the target.
    pub(super) fn target(&mut self, path: &BytePath) -> Look<'_> {
        look(&self.target, path, &mut self.wanted)
    }

    /// Returns what the base has at a path.
    pub(super) fn base(&mut self, path: &BytePath) -> Look<'_> {
        look(self.base.as_ref().unwrap_or(&self.target), path, &mut self.wanted)
    }

    /// Takes the paths that somebody wanted to know and nobody has looked at.
    pub(super) fn take_wanted(&mut self) -> Vec<BytePath> {
        std::mem::take(&mut self.wanted).into_iter().collect()
    }
}

fn look<'a>(
    known: &'a HashMap<BytePath, Seen>,
    path: &BytePath,
    wanted: &mut BTreeSet<BytePath>,
) -> Look<'a> {
    match known.get(path) {
        Some(Seen::Nothing) => Look::Nothing,
        Some(Seen::Skipped) => Look::Skipped,
        Some(Seen::There(entry)) => Look::There(entry),
        None => {
            wanted.insert(path.clone());
            Look::Unknown
        }
    }
}
