//! Brings the listings of up to four walks together, directory by directory, in whatever order they come.
//!
//! Invariant: a directory is compared once, when its parent has said where it is and all expected listings are there. What
//! waits in memory is only the distance between the walks.
//!
//! Where a [`Scope`] says what has to be compared at all, the listings are asked for one by one: see [`Pairing::take_asks`].

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{DirListing, Entry, ListWant, Meta};
use pc_switcher_contract::BytePath;

use crate::change::{
    Change, Child, Found, Judge, LeftAlone, LinkSeen, Sides, Suspect, compare_dir, identity, same_rights,
};
use crate::moves::Moves;
use crate::scope::Scope;

/// Which walk a listing is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// The source's tree.
    Source = 0,
    /// The target's tree.
    Target = 1,
    /// The target's tree after the last sync.
    Base = 2,
    /// The source's tree after the last sync.
    Before = 3,
}

/// All of them, in the order of their numbers.
pub const WALKS: [Walk; 4] = [Walk::Source, Walk::Target, Walk::Base, Walk::Before];

/// All that a comparison of two trees found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Changes in any order.
    pub found: Vec<Found>,
    /// Files to be compared by content.
    pub suspects: Vec<Suspect>,
    /// Files with several names.
    pub links: Vec<LinkSeen>,
    /// The source's metadata of every directory that both have, by path: its time is set again when its entries change.
    pub dir_meta: HashMap<BytePath, Meta>,
    /// Directories of the target that hold something which is never deleted.
    pub holding: Vec<BytePath>,
    /// Names left alone.
    pub left_alone: Vec<LeftAlone>,
    /// Names that could not be read: path, whether on the source, the system's word.
    pub unreadable: Vec<(BytePath, bool, String)>,
    /// Directories that differ in nothing but their time, where that does not count.
    pub times: Vec<BytePath>,
    /// Entries of the source's tree.
    pub source_entries: u64,
    /// Entries of the target's tree.
    pub target_entries: u64,
}

impl Comparison {
    /// Returns why a comparison of some directories may say less than one of all. Where the part `is_torn`, names elsewhere count
    /// though nothing changed: they may lie in another part.
    pub fn doubt(&self, is_torn: bool) -> Option<&'static str> {
        if !self.unreadable.is_empty() {
            // What one machine names may lie in what is of another kind on the other one.
            return Some("a directory that changed is not where it should be");
        }
        let mut names: HashMap<(bool, u64), u32> = HashMap::new();
        for link in &self.links {
            *names.entry((true, link.ours.ino)).or_default() += 1;
            if let Some(target) = link.target {
                *names.entry((false, target.ino)).or_default() += 1;
            }
        }
        let suspects = self.suspects.iter().map(|suspect| &suspect.path);
        let changed: HashSet<&BytePath> =
            self.found.iter().map(|found| &found.path).chain(suspects).collect();
        let counts = |link: &&LinkSeen| is_torn || changed.contains(&link.path);
        let hidden = self.links.iter().filter(counts).any(|link| {
            let theirs = link.theirs.as_ref().filter(|_| link.target.is_some());
            names[&(true, link.ours.ino)] < link.ours.nlink
                || theirs.is_some_and(|theirs| names[&(false, theirs.ino)] < theirs.nlink)
        });
        hidden.then_some("a file that changed has names elsewhere")
    }
}

#[derive(Default)]
struct Waiting {
    listings: [Option<DirListing>; 4],
    expected: Option<Expected>,
}

/// What is known of a directory before its listings are.
#[derive(Clone, Copy)]
struct Expected {
    sides: Sides,
    lists: [bool; 4],
    /// Whether the listings of everything below it come as well.
    whole: bool,
    /// Whether everything below it is compared.
    everything: bool,
}

/// Collects listings and compares what is complete.
pub struct Pairing<'a> {
    judge: Judge,
    waiting: HashMap<BytePath, Waiting>,
    result: Comparison,
    source_dirs: HashMap<BytePath, Meta>,
    scope: Option<Scope>,
    moves: &'a Moves,
    /// Files to be compared by content, whatever size and time say.
    silent: Option<&'a HashSet<BytePath>>,
    asks: [Vec<ListWant>; 4],
    /// Directories of which something is expected and not there.
    pending: usize,
}

impl<'a> Pairing<'a> {
    /// Begins with the root, which every walk lists. What is moved is compared at its new place.
    pub fn new(judge: Judge, moves: &'a Moves) -> Self {
        let mut pairing = Self::empty(judge, None, moves);
        let lists = judge.walks();
        let expected = Expected { sides: Sides::Both, lists, whole: true, everything: true };
        pairing.expect(BytePath::default(), expected);
        pairing
    }

    /// Begins with what the scope says; all its directories are listed on demand.
    pub fn within(scope: Scope, judge: Judge, moves: &'a Moves) -> Self {
        let first = scope.first().to_vec();
        let mut pairing = Self::empty(judge, Some(scope), moves);
        for path in first {
            pairing.ask(path, Sides::Both, judge.walks(), false);
        }
        pairing
    }

    fn empty(judge: Judge, scope: Option<Scope>, moves: &'a Moves) -> Self {
        Self {
            judge,
            waiting: HashMap::new(),
            result: Comparison::default(),
            source_dirs: HashMap::new(),
            scope,
            moves,
            silent: None,
            asks: Default::default(),
            pending: 0,
        }
    }

    /// Has these files compared by content, whatever size and time say.
    pub fn suspect(&mut self, silent: &'a HashSet<BytePath>) {
        self.silent = Some(silent).filter(|silent| !silent.is_empty());
    }

    /// Takes the listings to be asked for now, by walk. Without a scope there are none.
    pub fn take_asks(&mut self) -> [Vec<ListWant>; 4] {
        std::mem::take(&mut self.asks)
    }

    /// Whether everything that was expected has come.
    pub fn is_complete(&self) -> bool {
        self.pending == 0
    }

    /// Takes one listing.
    pub fn add(&mut self, walk: Walk, listing: DirListing) {
        let Some(listing) = self.moves.relocate(walk, listing) else { return };
        let path = listing.path.clone();
        self.waiting.entry(path.clone()).or_default().listings[walk as usize] = Some(listing);
        let mut ready = vec![path];
        while let Some(path) = ready.pop() {
            self.try_compare(path, &mut ready);
        }
    }

    fn expect(&mut self, path: BytePath, expected: Expected) {
        self.pending += 1;
        let waiting = self.waiting.entry(path.clone()).or_default();
        waiting.expected = Some(expected);
        // A tree that does not have the directory lists nothing, and yet something may come there.
        let walked = self.judge.walks();
        for walk in WALKS.into_iter().filter(|walk| walked[*walk as usize] && !expected.lists[*walk as usize])
        {
            waiting.listings[walk as usize] = self.moves.arriving(walk, &path);
        }
    }

    /// Expects a directory's listings and asks for them.
    fn ask(&mut self, path: BytePath, sides: Sides, lists: [bool; 4], everything: bool) {
        let everything = everything || self.scope.as_ref().is_some_and(|scope| scope.is_whole(&path));
        // Where something is moved out or in it goes step by step.
        let whole = everything && !self.moves.cross(&path);
        let mut names = self.scope.as_ref().filter(|_| !everything).and_then(|scope| scope.names(&path));
        if let Some(names) = &mut names {
            names.extend(self.moves.arriving_names(&path));
        }
        for (walk, asks) in WALKS.into_iter().zip(&mut self.asks).filter(|(walk, _)| lists[*walk as usize]) {
            asks.push(ListWant { path: self.moves.stands(walk, &path), whole, names: names.clone() });
        }
        self.expect(path, Expected { sides, lists, whole, everything });
    }

    /// Goes on with a child directory: where everything below its parent is listed it is expected, otherwise the scope says
    /// what is asked for.
    fn descend(&mut self, child: Child, parent: Expected, ready: &mut Vec<BytePath>) {
        let Child { path, sides, lists } = child;
        let Some(scope) = self.scope.as_ref().filter(|_| !parent.whole) else {
            self.expect(path.clone(), Expected { sides, lists, ..parent });
            ready.push(path);
            return;
        };
        if parent.everything && !self.moves.brings(&path) && sides != Sides::Ignore {
            return self.ask(path, sides, lists, true);
        }
        match sides {
            Sides::Both => {
                for path in scope.below(&path).to_vec() {
                    self.ask(path, Sides::Both, lists, false);
                }
            }
            Sides::Source | Sides::Target => self.ask(path, sides, lists, true),
            Sides::Ignore => {}
        }
    }

    fn try_compare(&mut self, path: BytePath, ready: &mut Vec<BytePath>) {
        let complete = self.waiting.get(&path).and_then(|waiting| {
            let expected = waiting.expected?;
            let all = expected
                .lists
                .iter()
                .zip(&waiting.listings)
                .all(|(wanted, listing)| !wanted || listing.is_some());
            all.then_some(expected)
        });
        let Some(expected) = complete else { return };
        let Some(Waiting { listings: [ours, theirs, base, before], .. }) = self.waiting.remove(&path) else {
            return;
        };
        self.pending -= 1;
        let sides = expected.sides;
        if path.is_empty() {
            self.compare_roots(ours.as_ref(), theirs.as_ref(), base.as_ref());
        }
        self.count(sides, ours.as_ref(), theirs.as_ref());
        let listings = [ours.as_ref(), theirs.as_ref(), base.as_ref(), before.as_ref()];
        let done = compare_dir(&path, sides, listings, self.judge, self.silent);
        // A directory that was asked for by itself brings its own entry along.
        let own = || ours.as_ref().and_then(|dir| dir.root.as_ref()).map(|entry| entry.meta.clone());
        if sides == Sides::Both
            && let Some(meta) = self.source_dirs.remove(&path).or_else(own)
        {
            self.result.dir_meta.insert(path.clone(), meta);
        }
        if done.holds_excluded {
            self.result.holding.push(path);
        }
        for child in done.children {
            if child.sides == Sides::Both
                && let Some(entry) = ours.as_ref().and_then(|dir| by_name(dir, child.path.name()))
            {
                self.source_dirs.insert(child.path.clone(), entry.meta.clone());
            }
            self.descend(child, expected, ready);
        }
        self.result.found.extend(done.found);
        self.result.suspects.extend(done.suspects);
        self.result.links.extend(done.links);
        self.result.left_alone.extend(done.left_alone);
        self.result.unreadable.extend(done.unreadable);
        self.result.times.extend(done.times);
    }

    fn compare_roots(
        &mut self,
        ours: Option<&DirListing>,
        theirs: Option<&DirListing>,
        base: Option<&DirListing>,
    ) {
        let root = |dir: Option<&DirListing>| dir.and_then(|dir| dir.root.clone());
        if let (Some(ours), Some(theirs)) = (root(ours), root(theirs)) {
            self.source_dirs.insert(BytePath::default(), ours.meta.clone());
            let times = ours.meta.mtime == theirs.meta.mtime || self.judge.ignore_dir_times;
            if !times || !same_rights(&ours, &theirs) {
                let was = root(base).is_none_or(|base| same_rights(&base, &theirs));
                let touched = self.judge.has_base && !was && !same_rights(&ours, &theirs);
                self.result.found.push(Found {
                    path: BytePath::default(),
                    change: Change::Meta(ours, identity(&theirs)),
                    touched,
                    theirs: Some(theirs),
                    was_there: true,
                });
            }
        }
    }

    fn count(&mut self, sides: Sides, ours: Option<&DirListing>, theirs: Option<&DirListing>) {
        if sides != Sides::Ignore {
            self.result.source_entries += ours.map_or(0, |dir| dir.entries.len() as u64);
            self.result.target_entries += theirs.map_or(0, |dir| dir.entries.len() as u64);
        }
    }

    /// Ends the comparison.
    ///
    /// # Errors
    /// If a listing that was announced never came: the walks contradict themselves.
    pub fn finish(self) -> Result<Comparison, String> {
        match self.waiting.into_iter().find(|(_, waiting)| waiting.expected.is_some()) {
            Some((path, _)) => Err(format!("the listing of `{path}` never came")),
            None => Ok(self.result),
        }
    }
}

fn by_name<'a>(dir: &'a DirListing, name: &[u8]) -> Option<&'a Entry> {
    dir.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name)).ok().map(|at| &dir.entries[at])
}

#[cfg(test)]
pub(crate) mod within;

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_agent::proto::{FileTime, Kind};
    use proptest::prelude::*;

    fn entry(name: &str, kind: Kind) -> Entry {
        Entry {
            name: name.into(),
            kind,
            meta: Meta::default(),
            size: 1,
            allocated: 0,
            ctime: FileTime::default(),
            ino: 1,
            nlink: 1,
            target: BytePath::default(),
        }
    }

    #[test]
    fn a_name_of_another_kind_on_the_target_raises_no_doubt_of_its_other_names() {
        let named = |kind, ino, nlink| Entry { ino, nlink, ..entry("a", kind) };
        let link = |ours: Entry, theirs: Entry| LinkSeen {
            path: "a".into(),
            target: (ours.kind == theirs.kind).then(|| crate::change::identity(&theirs)),
            ours,
            theirs: Some(theirs),
            touched: false,
        };
        let doubt = |ours, theirs| {
            Comparison { links: vec![link(ours, theirs)], ..Comparison::default() }.doubt(true).is_some()
        };
        assert!(doubt(named(Kind::Symlink, 1, 2), named(Kind::Symlink, 7, 1)));
        assert!(doubt(named(Kind::Symlink, 1, 1), named(Kind::Symlink, 7, 2)));
        assert!(!doubt(named(Kind::Symlink, 1, 1), named(Kind::File, 7, 2)));
    }

    fn listing(path: &str, entries: &[(&str, Kind)]) -> DirListing {
        let root = path.is_empty().then(|| entry("", Kind::Dir));
        let entries = entries.iter().map(|(name, kind)| entry(name, *kind)).collect();
        DirListing { path: path.into(), root, entries, skipped: vec![], more: false }
    }

    /// Source: /a/b/f, /c/g. Target: /a/old, /d/h. Base: /a/old, /d/h, /e/i.
    fn walks() -> Vec<(Walk, DirListing)> {
        use Kind::{Dir, File};
        vec![
            (Walk::Source, listing("", &[("a", Dir), ("c", Dir)])),
            (Walk::Source, listing("a", &[("b", Dir)])),
            (Walk::Source, listing("a/b", &[("f", File)])),
            (Walk::Source, listing("c", &[("g", File)])),
            (Walk::Target, listing("", &[("a", Dir), ("d", Dir)])),
            (Walk::Target, listing("a", &[("old", File)])),
            (Walk::Target, listing("d", &[("h", File)])),
            (Walk::Base, listing("", &[("a", Dir), ("d", Dir), ("e", Dir)])),
            (Walk::Base, listing("a", &[("old", File)])),
            (Walk::Base, listing("d", &[("h", File)])),
            (Walk::Base, listing("e", &[("i", File)])),
        ]
    }

    proptest! {
        #[test]
        fn the_order_in_which_listings_come_does_not_matter(order in Just((0..11_usize).collect::<Vec<_>>()).prop_shuffle()) {
            let walks = walks();
            let moves = Moves::default();
            let mut pairing = Pairing::new(Judge { has_base: true, ..Judge::default() }, &moves);
            for at in order {
                let (walk, listing) = walks[at].clone();
                pairing.add(walk, listing);
            }
            let mut paths: Vec<String> = pairing.finish().unwrap().found.iter().map(|f| f.path.to_string()).collect();
            paths.sort();
            prop_assert_eq!(paths, ["a/b", "a/b/f", "a/old", "c", "c/g", "d", "d/h"]);
        }
    }

    #[test]
    fn a_listing_that_never_comes_is_an_error_and_no_deletion() {
        let moves = Moves::default();
        let mut pairing = Pairing::new(Judge::default(), &moves);
        pairing.add(Walk::Source, listing("", &[("a", Kind::Dir)]));
        pairing.add(Walk::Target, listing("", &[("a", Kind::Dir)]));
        pairing.add(Walk::Target, listing("a", &[("x", Kind::File)]));
        assert_eq!(pairing.finish().unwrap_err(), "the listing of `a` never came");
    }
}
