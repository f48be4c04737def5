//! What the source moved since the last sync is moved on the target, too, instead of being sent again.
//!
//! Both trees were the same then. So what stood at a path on the source stands at that path on the target, if the target has
//! it as the last sync left it; and it is compared as if it stood at its new place already. Two spaces of paths follow from
//! that: where things stand on the target now (and stood in its base), and where they will stand. Everything above this
//! module speaks of the second one; [`Moves::relocate`] takes listings there, [`Moves::stands`] takes paths back.
//!
//! Where anything is in doubt nothing is moved: the path is made anew and the old one deleted, as if nobody knew better.

mod known;
mod order;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{DirListing, Entry, Kind, Moved, Op};
use pc_switcher_contract::BytePath;

use crate::compare::Walk;

pub use known::{Known, Look, Seen};

/// One thing to be done before all other steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placing {
    /// A directory is made that something moves into; the comparison knows what it is to be.
    NewDir(BytePath),
    /// Something is moved.
    Move(Op),
}

/// What is moved on the target, and where paths lead by that.
#[derive(Debug, Default)]
pub struct Moves {
    /// In the order in which it can be done.
    pub placings: Vec<Placing>,
    /// Pairs of an old and a new path, for people.
    pub pairs: Vec<(BytePath, BytePath)>,
    target: Space,
    base: Space,
    /// What comes into a directory, by its new path.
    arrivals: HashMap<BytePath, Vec<Arrival>>,
    /// Directories, by their new path, of which both machines have the same but for what is named besides.
    settled: HashSet<BytePath>,
    /// The same, of those that the target has at their new path by itself.
    shared: HashSet<BytePath>,
}

/// Where paths of one tree lead.
#[derive(Debug, Default, Clone)]
struct Space {
    to: HashMap<BytePath, BytePath>,
    from: HashMap<BytePath, BytePath>,
    /// Everything above what leaves a place or comes to one, by the path in the tree and by the new one.
    above_from: HashSet<BytePath>,
    above_to: HashSet<BytePath>,
}

#[derive(Debug)]
struct Arrival {
    target: Option<Entry>,
    base: Option<Entry>,
}

/// What becomes of an attempt to plan moves.
#[derive(Debug)]
pub enum Planned {
    /// This is to be moved.
    Moves(Box<Moves>),
    /// These paths of the target have to be looked at before.
    Wanted(Vec<BytePath>),
}

impl Space {
    fn of<'a>(pairs: impl Iterator<Item = (&'a BytePath, &'a BytePath)>) -> Self {
        let mut space = Self::default();
        for (from, to) in pairs {
            space.to.insert(from.clone(), to.clone());
            space.from.insert(to.clone(), from.clone());
            space.above_from.extend(above(from));
            space.above_to.extend(above(to));
        }
        space
    }

    /// Takes a path of the tree to its new place.
    fn map(&self, path: &BytePath) -> BytePath {
        lead(&self.to, path)
    }

    /// Takes a new path back to where the tree has it.
    fn stands(&self, path: &BytePath) -> BytePath {
        lead(&self.from, path)
    }
}

/// Returns everything above a path, the root included.
fn above(path: &BytePath) -> impl Iterator<Item = BytePath> {
    std::iter::successors(path.parent(), |above| if above.is_empty() { None } else { above.parent() })
}

/// Takes the longest beginning of a path that leads elsewhere to where it leads.
fn lead(ways: &HashMap<BytePath, BytePath>, path: &BytePath) -> BytePath {
    if ways.is_empty() || path.is_empty() {
        return path.clone();
    }
    let found = std::iter::once(path.clone()).chain(above(path)).find_map(|at| Some((ways.get(&at)?, at)));
    match found {
        None => path.clone(),
        Some((to, at)) if at == *path => to.clone(),
        Some((to, at)) => to.join(&path.as_bytes()[at.as_bytes().len() + 1..]),
    }
}

impl Moves {
    /// Plans moves. `source` and `target` are what was moved on each machine since the last sync; `known` are paths of the
    /// target, `None` where only what both did alike counts. What `is_barred` says no to is not moved.
    pub fn plan(
        source: Vec<Moved>,
        target: &[Moved],
        known: Option<&mut Known>,
        is_barred: impl Fn(&Moved) -> bool,
    ) -> Planned {
        let theirs: HashMap<&BytePath, &BytePath> =
            target.iter().map(|moved| (&moved.from, &moved.to)).collect();
        let (mut open, mut shared) = (Vec::new(), Vec::new());
        for moved in source.into_iter().filter(|moved| !is_barred(moved)) {
            match theirs.get(&moved.from) {
                Some(to) if **to == moved.to => shared.push(moved),
                // Each machine moved it somewhere else.
                Some(_) => {}
                None => open.push(moved),
            }
        }
        let Some(known) = known else { return Planned::Moves(Box::new(Self::shared_alone(shared))) };
        loop {
            match order::order(&open, &shared, known) {
                order::Outcome::Done(done) => return Planned::Moves(done),
                order::Outcome::Wanted(wanted) => return Planned::Wanted(wanted),
                order::Outcome::Drop(dropped) => {
                    let mut index = 0;
                    open.retain(|_| {
                        index += 1;
                        !dropped.contains(&(index - 1))
                    });
                }
            }
        }
    }

    fn shared_alone(shared: Vec<Moved>) -> Self {
        let dirs: HashSet<BytePath> =
            shared.into_iter().filter(|moved| moved.is_dir).map(|moved| moved.to).collect();
        Self { settled: dirs.clone(), shared: dirs, ..Self::default() }
    }

    /// Whether nothing is moved on the target.
    pub fn is_empty(&self) -> bool {
        self.placings.is_empty()
    }

    /// Whether what lies below a directory is the same on both machines but for directories that are named besides: `on_target`
    /// asks about its path there.
    pub fn is_settled(&self, path: &BytePath, on_target: bool) -> bool {
        if on_target { self.shared.contains(path) } else { self.settled.contains(path) }
    }

    fn space(&self, walk: Walk) -> Option<&Space> {
        match walk {
            Walk::Source => None,
            Walk::Target => Some(&self.target),
            // Both machines had the same then.
            Walk::Base | Walk::Before => Some(&self.base),
        }
    }

    /// Takes a path of a tree to its new place.
    pub fn map(&self, walk: Walk, path: &BytePath) -> BytePath {
        self.space(walk).map_or_else(|| path.clone(), |space| space.map(path))
    }

    /// Takes a new path back to where a tree has it now.
    pub fn stands(&self, walk: Walk, path: &BytePath) -> BytePath {
        self.space(walk).map_or_else(|| path.clone(), |space| space.stands(path))
    }

    /// Whether something below a directory, by its new path, comes from or goes elsewhere in any tree.
    pub fn cross(&self, path: &BytePath) -> bool {
        [&self.target, &self.base].into_iter().any(|space| {
            space.above_to.contains(path)
                || (!space.above_from.is_empty() && space.above_from.contains(&space.stands(path)))
        })
    }

    /// Whether something comes to this very path.
    pub fn brings(&self, path: &BytePath) -> bool {
        self.target.from.contains_key(path) || self.base.from.contains_key(path)
    }

    /// Takes a listing of a tree to its new place, without what leaves the directory and with what comes. `None` if another
    /// one of this tree comes to that place: a base may have had something there that the target has no more.
    pub fn relocate(&self, walk: Walk, listing: DirListing) -> Option<DirListing> {
        let Some(space) = self.space(walk).filter(|space| !space.to.is_empty()) else { return Some(listing) };
        let mut listing = listing;
        let path = space.map(&listing.path);
        if space.stands(&path) != listing.path {
            return None;
        }
        if space.above_from.contains(&listing.path) {
            let dir = &listing.path;
            listing.entries.retain(|entry| !space.to.contains_key(&dir.join(entry.name.as_bytes())));
        }
        self.add_arrivals(walk, &path, &mut listing.entries);
        Some(DirListing { path, ..listing })
    }

    /// Returns what comes into a directory that a tree does not have, if anything does.
    pub fn arriving(&self, walk: Walk, path: &BytePath) -> Option<DirListing> {
        self.space(walk)?;
        let mut entries = Vec::new();
        self.add_arrivals(walk, path, &mut entries);
        let (path, skipped) = (path.clone(), Vec::new());
        (!entries.is_empty()).then_some(DirListing { path, root: None, entries, skipped, more: false })
    }

    /// Returns the names under which something comes into a directory, by its new path.
    pub fn arriving_names(&self, path: &BytePath) -> impl Iterator<Item = BytePath> {
        let arrivals = self.arrivals.get(path).map(Vec::as_slice).unwrap_or_default();
        arrivals
            .iter()
            .flat_map(|arrival| [&arrival.target, &arrival.base])
            .flatten()
            .map(|entry| entry.name.clone())
    }

    fn add_arrivals(&self, walk: Walk, path: &BytePath, entries: &mut Vec<Entry>) {
        let arrivals = self.arrivals.get(path).map(Vec::as_slice).unwrap_or_default();
        let coming = arrivals.iter().filter_map(|arrival| match walk {
            Walk::Source => None,
            Walk::Target => arrival.target.as_ref(),
            Walk::Base | Walk::Before => arrival.base.as_ref(),
        });
        let coming: HashMap<&BytePath, &Entry> = coming.map(|entry| (&entry.name, entry)).collect();
        if coming.is_empty() {
            return;
        }
        entries.retain(|entry| !coming.contains_key(&entry.name));
        // On the source a file that was moved has another identity since; of a directory only that it is one counts.
        let is_known = |entry: &&Entry| walk != Walk::Before || entry.kind == Kind::Dir;
        entries.extend(coming.into_values().filter(is_known).cloned());
        entries.sort_by(|a, b| a.name.cmp(&b.name));
    }
}
