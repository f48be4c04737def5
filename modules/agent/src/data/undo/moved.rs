//! What a sync moved, path by path.
//!
//! A step that moves a directory says nothing of what lies below it. So both sets are listed at every place that something
//! left or came to: what was at a path before and is not after it is gone from there, and what stands there after it must be
//! what it was, wherever that was. An undo then takes it back like anything else: made anew at its old place, sharing its
//! content with the pre set, and removed from the new one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::judge::Meant;
use super::look::View;
use super::steps::Place;
use crate::proto::{Entry, Kind, Op};

/// Returns the places that a step moves something from or to.
pub(super) fn places(op: &Op) -> Vec<&BytePath> {
    match op {
        Op::Move { path, from, .. } => vec![path, from],
        Op::Swap { path, with, .. } => vec![path, with],
        Op::Aside { path, .. } => vec![path],
        _ => Vec::new(),
    }
}

/// Adds everything below these places to what a sync meant; what is named already stays as it is.
///
/// # Errors
/// If a set cannot be read.
pub(super) fn expand(
    mut meant: BTreeMap<Place, Meant>,
    moved: &BTreeSet<Place>,
    pre: &mut View,
    post: &mut View,
) -> Result<BTreeMap<Place, Meant>, (BytePath, Errno)> {
    let mut before = BTreeMap::new();
    let mut after = BTreeMap::new();
    for place in moved {
        list(pre, &place.0, &mut before)?;
        list(post, &place.0, &mut after)?;
    }
    let by_inode: HashMap<u64, &Entry> =
        before.values().flatten().map(|entry: &Entry| (entry.ino, entry)).collect();
    for path in before.keys() {
        if !after.contains_key(path) {
            meant.entry(path.clone()).or_insert(Meant::Gone);
        }
    }
    for (path, entry) in &after {
        // What was nowhere before is somebody's who came while the sync ran: then this is not what was meant.
        let was = entry.as_ref().and_then(|entry| by_inode.get(&entry.ino));
        meant.entry(path.clone()).or_insert_with(|| was.map_or(Meant::Gone, |was| Meant::as_it_was(was)));
    }
    Ok(meant)
}

/// Lists a path and everything below it, without what is no part of the tree; `None` for what is never mirrored.
fn list(
    view: &mut View,
    path: &BytePath,
    found: &mut BTreeMap<Place, Option<Entry>>,
) -> Result<(), (BytePath, Errno)> {
    let mut todo = vec![path.clone()];
    while let Some(path) = todo.pop() {
        let entry = match view.at(&path) {
            Ok(None) | Err(Errno::XDEV) => continue,
            Ok(entry) => entry,
            Err(Errno::INVAL) => None,
            Err(error) => return Err((path, error)),
        };
        if entry.as_ref().is_some_and(|entry| entry.kind == Kind::Dir) {
            let names = view.names(&path).map_err(|error| (path.clone(), error))?;
            todo.extend(names.iter().map(|name| path.join(name)));
        }
        found.insert(Place(path), entry);
    }
    Ok(())
}
