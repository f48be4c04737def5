//! Which moves can be done, and in which order.
//!
//! Everything is played through on what is known of the target: each thing goes to its place when the directory above it is in
//! place and nothing stands there. What stands there and moves on goes first. If two wait for each other they are exchanged,
//! and if one of them holds the other, or is yet to be made, the one in the way is taken aside. Whatever does not come out is
//! dropped, and it begins anew without it.

use std::collections::{BTreeMap, HashMap, HashSet};

use pc_switcher_agent::proto::{Entry, Identity, Kind, Moved, Op};
use pc_switcher_contract::BytePath;

use super::known::{Known, Look};
use super::{Arrival, Moves, Placing, Space, above};
use crate::change::identity;

/// What came out.
pub(super) enum Outcome {
    Done(Box<Moves>),
    /// These have to be known first.
    Wanted(Vec<BytePath>),
    /// These cannot be moved, by their numbers; the others may.
    Drop(HashSet<usize>),
}

/// One thing that has to come to a place.
struct Thing {
    /// Its number among the moves; a directory yet to be made has none.
    number: Option<usize>,
    to: BytePath,
    /// Where it stands, in the paths of the target as it is before anything is done.
    slot: BytePath,
    entry: Option<Entry>,
    replaces: Option<Identity>,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waits,
    /// Taken away from this path.
    Aside(BytePath),
    Placed,
}

/// Plays the moves through.
pub(super) fn order(open: &[Moved], shared: &[Moved], known: &mut Known) -> Outcome {
    let space = Space::of(open.iter().map(|moved| (&moved.from, &moved.to)));
    let (things, left, mut dropped) = things(open, &space, known);
    let wanted = known.take_wanted();
    if !wanted.is_empty() {
        return Outcome::Wanted(wanted);
    }
    if !dropped.is_empty() {
        return Outcome::Drop(dropped);
    }
    let mut play = Play::new(things, &space);
    play.run();
    if !play.stuck.is_empty() {
        dropped.extend(play.stuck.iter().filter_map(|at| play.things[*at].number));
        // A directory yet to be made goes with what needs it.
        if dropped.is_empty() {
            dropped.extend(0..open.len());
        }
        return Outcome::Drop(dropped);
    }
    let moves = finish(open, shared, &left, play, known);
    let wanted = known.take_wanted();
    if wanted.is_empty() { Outcome::Done(Box::new(moves)) } else { Outcome::Wanted(wanted) }
}

/// Returns what has to come to places, the numbers of moves that are none after all, and of those that cannot be done.
fn things(open: &[Moved], space: &Space, known: &mut Known) -> (Vec<Thing>, HashSet<usize>, HashSet<usize>) {
    let (mut left, mut dropped) = (HashSet::new(), HashSet::new());
    let (mut things, mut new_dirs) = (Vec::new(), BTreeMap::new());
    for (number, moved) in open.iter().enumerate() {
        let Some(entry) = as_left(moved, known) else {
            dropped.insert(number);
            continue;
        };
        // It is there once everything above it is in place.
        if along(space, &moved.from) == moved.to {
            left.insert(number);
            continue;
        }
        let Some(replaces) = occupant(moved, space, known, &mut new_dirs) else {
            dropped.insert(number);
            continue;
        };
        things.push(Thing {
            number: Some(number),
            to: moved.to.clone(),
            slot: moved.from.clone(),
            entry: Some(entry),
            replaces,
            state: State::Waits,
        });
    }
    things.extend(new_dirs.into_keys().map(|to| Thing {
        number: None,
        slot: BytePath::default(),
        to,
        entry: None,
        replaces: None,
        state: State::Waits,
    }));
    things.sort_by(|a, b| crate::steps::path_order(&a.to, &b.to));
    (things, left, dropped)
}

/// Takes a path to where it stands when all that is above it has moved, but not it itself.
fn along(space: &Space, path: &BytePath) -> BytePath {
    let dir = path.parent().unwrap_or_default();
    if dir.is_empty() { path.clone() } else { space.map(&dir).join(path.name()) }
}

/// Returns what the target has where something was moved from on the source, if it is just what the last sync left there.
fn as_left(moved: &Moved, known: &mut Known) -> Option<Entry> {
    let Look::There(then) = known.base(&moved.from) else {
        let _ = known.target(&moved.from);
        return None;
    };
    let then = then.clone();
    let Look::There(now) = known.target(&moved.from) else { return None };
    let is_same = match (then.kind, now.kind) {
        (Kind::Dir, Kind::Dir) => moved.is_dir && then.ino == now.ino,
        (Kind::Dir, _) | (_, Kind::Dir) => false,
        _ => !moved.is_dir && then.kind == now.kind && identity(&then) == identity(now),
    };
    is_same.then(|| now.clone())
}

/// Returns what stands at a new place and is overwritten there, if anything is; the outer `None` if nothing can come there.
/// Directories above it that have yet to be made are noted.
fn occupant(
    moved: &Moved,
    space: &Space,
    known: &mut Known,
    new_dirs: &mut BTreeMap<BytePath, ()>,
) -> Option<Option<Identity>> {
    for dir in above(&moved.to).filter(|dir| !dir.is_empty()) {
        if space.from.contains_key(&dir) {
            // It comes there itself, and brings what is above along.
            break;
        }
        let slot = space.stands(&dir);
        match known.target(&slot) {
            Look::There(entry) if entry.kind == Kind::Dir && space.map(&slot) == dir => break,
            Look::Skipped | Look::Unknown => return None,
            Look::There(_) | Look::Nothing => drop(new_dirs.insert(dir, ())),
        }
    }
    let dir = moved.to.parent().unwrap_or_default();
    if new_dirs.contains_key(&dir) {
        return Some(None);
    }
    let slot = slot_of(space, &moved.to);
    if space.to.contains_key(&slot) {
        // It moves on.
        return Some(None);
    }
    let there = match known.target(&slot) {
        Look::Nothing => return Some(None),
        Look::There(entry) if entry.kind != Kind::Dir => entry.clone(),
        Look::There(_) | Look::Skipped | Look::Unknown => return None,
    };
    // An edit that the target made there must be asked about.
    match known.base(&slot) {
        Look::There(then) if identity(then) == identity(&there) => Some(Some(identity(&there))),
        _ => None,
    }
}

/// Returns where something that stands at a new path before all moves would stand.
fn slot_of(space: &Space, to: &BytePath) -> BytePath {
    let dir = to.parent().unwrap_or_default();
    if dir.is_empty() { to.clone() } else { space.stands(&dir).join(to.name()) }
}

struct Play<'a> {
    things: Vec<Thing>,
    space: &'a Space,
    /// Things by their new path, by where they stood, and by the slot in which they stand.
    by_to: HashMap<BytePath, usize>,
    by_from: HashMap<BytePath, usize>,
    by_slot: HashMap<BytePath, usize>,
    placings: Vec<Placing>,
    stuck: HashSet<usize>,
}

impl<'a> Play<'a> {
    fn new(things: Vec<Thing>, space: &'a Space) -> Self {
        let by_to = things.iter().enumerate().map(|(at, thing)| (thing.to.clone(), at)).collect();
        let moved = || things.iter().enumerate().filter(|(_, thing)| thing.entry.is_some());
        let by_from: HashMap<BytePath, usize> = moved().map(|(at, thing)| (thing.slot.clone(), at)).collect();
        let by_slot = by_from.clone();
        Self { by_to, by_from, by_slot, things, space, placings: Vec::new(), stuck: HashSet::new() }
    }

    fn run(&mut self) {
        loop {
            let waiting: Vec<usize> = (0..self.things.len()).filter(|at| !self.is_placed(*at)).collect();
            for at in &waiting {
                self.place(*at);
                if !self.stuck.is_empty() {
                    return;
                }
            }
            let still = waiting.iter().filter(|at| !self.is_placed(**at)).count();
            if still == 0 {
                return;
            }
            if still == waiting.len() {
                self.stuck.extend(waiting);
                return;
            }
        }
    }

    fn is_placed(&self, at: usize) -> bool {
        self.things[at].state == State::Placed
    }

    /// Brings one thing to its place, after all that it waits for.
    fn place(&mut self, first: usize) {
        let mut waits = vec![first];
        let mut seen: HashSet<usize> = HashSet::from([first]);
        while let Some(&at) = waits.last() {
            let parent = self.parent(at).filter(|parent| !self.is_placed(*parent));
            let occupant = || self.occupant(at).filter(|other| *other != at);
            let next = match (self.is_placed(at), parent) {
                (true, _) => None,
                (false, Some(parent)) => Some(parent),
                (false, None) => occupant(),
            };
            match next {
                Some(next) if seen.insert(next) => waits.push(next),
                // Who waits for what is above it in the list comes later.
                Some(_) if parent.is_some() => drop(waits.pop()),
                _ => {
                    waits.pop();
                    if !self.is_placed(at) && self.settle(at).is_none() {
                        self.stuck.insert(at);
                        return;
                    }
                }
            }
        }
    }

    /// The thing that is the directory above another one's new place.
    fn parent(&self, at: usize) -> Option<usize> {
        above(&self.things[at].to).find_map(|dir| self.by_to.get(&dir).copied())
    }

    /// The thing that stands at the new place of another one.
    fn occupant(&self, at: usize) -> Option<usize> {
        let dir = self.things[at].to.parent()?;
        if self.by_to.get(&dir).is_some_and(|dir| self.things[*dir].entry.is_none()) {
            // What is yet to be made is empty.
            return None;
        }
        let slot = slot_of(self.space, &self.things[at].to);
        self.by_slot.get(&slot).copied().filter(|other| self.things[*other].state == State::Waits)
    }

    /// Brings a thing to its place now; `None` if that does not go.
    fn settle(&mut self, at: usize) -> Option<()> {
        match self.occupant(at) {
            Some(other) if other != at => self.settle_in_a_ring(at, other)?,
            _ => {
                let to = self.things[at].to.clone();
                self.bring(at, to)?;
            }
        }
        self.things[at].state = State::Placed;
        Some(())
    }

    fn bring(&mut self, at: usize, path: BytePath) -> Option<()> {
        let Thing { entry, replaces, state, .. } = &self.things[at];
        let Some(entry) = entry else {
            self.placings.push(Placing::NewDir(path));
            return Some(());
        };
        let from = match state {
            State::Aside(from) => from.clone(),
            _ => self.now(&self.things[at].slot)?,
        };
        if from != path || matches!(state, State::Aside(_)) {
            let (expect, replaces) = (identity(entry), *replaces);
            if matches!(state, State::Aside(_)) && (replaces.is_some() || from == path) {
                return None;
            }
            self.placings.push(Placing::Move(Op::Move { path, from, expect, replaces }));
        }
        let slot = self.things[at].slot.clone();
        if self.by_slot.get(&slot) == Some(&at) {
            self.by_slot.remove(&slot);
        }
        Some(())
    }

    /// Two wait for each other, perhaps around several others.
    fn settle_in_a_ring(&mut self, at: usize, other: usize) -> Option<()> {
        let path = self.things[at].to.clone();
        let can_swap = self.things[at].entry.is_some()
            && self.things[at].state == State::Waits
            && self.things[at].replaces.is_none()
            && !self.is_inside(at, other);
        if !can_swap {
            if self.things[at].entry.is_some() && self.things[at].state == State::Waits {
                self.take_aside(at)?;
            }
            self.take_aside(other)?;
            return self.bring(at, path);
        }
        let with = self.now(&self.things[at].slot)?;
        let ident = |at: usize| self.things[at].entry.as_ref().map(identity);
        let (expect, brought) = (ident(other)?, ident(at)?);
        self.placings.push(Placing::Move(Op::Swap { path, with, expect, other: brought }));
        let slot = self.things[at].slot.clone();
        self.by_slot.remove(&self.things[other].slot);
        self.by_slot.insert(slot.clone(), other);
        self.things[other].slot = slot;
        Some(())
    }

    fn take_aside(&mut self, at: usize) -> Option<()> {
        let path = self.now(&self.things[at].slot)?;
        let expect = self.things[at].entry.as_ref().map(identity)?;
        // What is taken aside is found again by its inode, so it can be but one name of that.
        let is_same = |other: &Thing| {
            matches!(other.state, State::Aside(_))
                && other.entry.as_ref().is_some_and(|entry| entry.ino == expect.ino)
        };
        if self.things[at].replaces.is_some() || self.things.iter().any(is_same) {
            return None;
        }
        self.placings.push(Placing::Move(Op::Aside { path: path.clone(), expect }));
        self.by_slot.remove(&self.things[at].slot);
        self.things[at].state = State::Aside(path);
        Some(())
    }

    /// The moved thing that holds a slot, the nearest one.
    fn holder(&self, slot: &BytePath) -> Option<(usize, BytePath)> {
        above(slot).find_map(|dir| Some((*self.by_from.get(&dir)?, dir)))
    }

    fn is_inside(&self, at: usize, other: usize) -> bool {
        let mut slot = self.things[at].slot.clone();
        // What is in place lies in nothing that waits.
        while let Some((holder, _)) = self.holder(&slot).filter(|(holder, _)| !self.is_placed(*holder)) {
            if holder == other {
                return true;
            }
            slot = self.things[holder].slot.clone();
        }
        false
    }

    /// Returns where a slot is at this moment; `None` if it cannot be reached.
    fn now(&self, slot: &BytePath) -> Option<BytePath> {
        let Some((holder, dir)) = self.holder(slot) else { return Some(slot.clone()) };
        let thing = &self.things[holder];
        let above = match &thing.state {
            State::Placed => thing.to.clone(),
            State::Aside(_) => return None,
            State::Waits => self.now(&thing.slot)?,
        };
        Some(above.join(&slot.as_bytes()[dir.as_bytes().len() + 1..]))
    }
}

/// Puts together where paths lead.
fn finish(
    open: &[Moved],
    shared: &[Moved],
    left: &HashSet<usize>,
    play: Play<'_>,
    known: &mut Known,
) -> Moves {
    let mut arrivals: HashMap<BytePath, Vec<Arrival>> = HashMap::new();
    let renamed = |entry: &Entry, to: &BytePath| Entry { name: BytePath::new(to.name()), ..entry.clone() };
    let mut base_too = Vec::new();
    for moved in shared {
        if let Look::There(entry) = known.base(&moved.from) {
            let base = Some(renamed(entry, &moved.to));
            arrivals
                .entry(moved.to.parent().unwrap_or_default())
                .or_default()
                .push(Arrival { target: None, base });
            base_too.push(moved);
        }
    }
    let done =
        || open.iter().enumerate().filter(|(number, _)| !left.contains(number)).map(|(_, moved)| moved);
    for moved in done() {
        let base = match known.base(&moved.from) {
            Look::There(entry) => Some(renamed(entry, &moved.to)),
            _ => None,
        };
        let target = match known.target(&moved.from) {
            Look::There(entry) => Some(renamed(entry, &moved.to)),
            _ => None,
        };
        arrivals.entry(moved.to.parent().unwrap_or_default()).or_default().push(Arrival { target, base });
    }
    let shared_dirs: HashSet<BytePath> =
        base_too.iter().filter(|moved| moved.is_dir).map(|moved| moved.to.clone()).collect();
    let dirs = open.iter().filter(|moved| moved.is_dir).map(|moved| moved.to.clone());
    let pair = |moved: &Moved| (moved.from.clone(), moved.to.clone());
    Moves {
        placings: play.placings,
        pairs: done().map(pair).collect(),
        target: Space::of(done().map(|moved| (&moved.from, &moved.to))),
        base: Space::of(done().chain(base_too.iter().copied()).map(|moved| (&moved.from, &moved.to))),
        arrivals,
        settled: dirs.chain(shared_dirs.iter().cloned()).collect(),
        shared: shared_dirs,
    }
}
