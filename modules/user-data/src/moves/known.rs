//! Directories of the target, and of its base, as far as they were looked at.

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

/// Listings by the paths that directories have now, and had in the base. A directory that is not there has none.
#[derive(Debug, Default)]
pub struct Known {
    target: HashMap<BytePath, Option<DirListing>>,
    /// `None` if the target is just as its base.
    base: Option<HashMap<BytePath, Option<DirListing>>>,
    wanted: BTreeSet<BytePath>,
}

impl Known {
    /// Begins with nothing; `has_base` says whether the base is another tree than the target.
    pub fn new(has_base: bool) -> Self {
        Self { base: has_base.then(HashMap::new), ..Self::default() }
    }

    /// Takes what was found at a directory of the target, and of its base.
    pub fn add(&mut self, path: BytePath, target: Option<DirListing>, base: Option<DirListing>) {
        if let Some(known) = &mut self.base {
            known.insert(path.clone(), base.filter(is_there));
        }
        self.target.insert(path, target.filter(is_there));
    }

    /// Returns what stands at a path of the target.
    pub(super) fn target(&mut self, path: &BytePath) -> Look<'_> {
        look(&self.target, path, &mut self.wanted)
    }

    /// Returns what the base has at a path.
    pub(super) fn base(&mut self, path: &BytePath) -> Look<'_> {
        look(self.base.as_ref().unwrap_or(&self.target), path, &mut self.wanted)
    }

    /// Takes the directories that somebody wanted to know and nobody has looked at.
    pub(super) fn take_wanted(&mut self) -> Vec<BytePath> {
        std::mem::take(&mut self.wanted).into_iter().collect()
    }
}

/// Whether a listing is that of a directory that is there and could be read.
fn is_there(listing: &DirListing) -> bool {
    listing.skipped.iter().all(|skip| !matches!(skip.reason, SkipReason::Unreadable(_)))
}

fn look<'a>(
    known: &'a HashMap<BytePath, Option<DirListing>>,
    path: &BytePath,
    wanted: &mut BTreeSet<BytePath>,
) -> Look<'a> {
    let dir = path.parent().unwrap_or_default();
    let listing = match known.get(&dir) {
        Some(Some(listing)) => listing,
        Some(None) => return Look::Nothing,
        None => {
            wanted.insert(dir);
            return Look::Unknown;
        }
    };
    let name = path.name();
    match listing.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name)) {
        Ok(at) => Look::There(&listing.entries[at]),
        Err(_) if listing.skipped.iter().any(|skip| skip.name.as_bytes() == name) => Look::Skipped,
        Err(_) => Look::Nothing,
    }
}
