//! A comparison within a scope, held against one of everything, over random pasts of two machines.

use std::collections::{BTreeMap, BTreeSet};

use pc_switcher_agent::proto::{ChangedDir, DirListing, Entry, FileTime, Kind, ListWant, Meta};
use pc_switcher_contract::BytePath;

use super::{Comparison, Pairing, WALKS};
use crate::change::Judge;
use crate::moves::Moves;
use crate::scope::Scope;

pub(crate) const ROOT: u64 = 256;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) parent: u64,
    pub(crate) name: String,
    pub(crate) is_dir: bool,
    pub(crate) version: i64,
}

/// A machine's tree: inodes with the place and version of each.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) changed: BTreeSet<u64>,
    pub(crate) next: u64,
}

pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        let root = Node { parent: 0, name: String::new(), is_dir: true, version: 0 };
        Self { nodes: BTreeMap::from([(ROOT, root)]), changed: BTreeSet::new(), next: 257 }
    }

    pub(crate) fn touch(&mut self, ino: u64, version: i64) {
        self.nodes.get_mut(&ino).unwrap().version = version;
        self.changed.insert(ino);
    }

    pub(crate) fn child(&self, dir: u64, name: &str) -> Option<u64> {
        self.nodes.iter().find(|(_, node)| node.parent == dir && node.name == name).map(|(ino, _)| *ino)
    }

    pub(crate) fn path(&self, mut ino: u64) -> String {
        let mut names = Vec::new();
        while ino != ROOT {
            let node = &self.nodes[&ino];
            names.push(node.name.clone());
            ino = node.parent;
        }
        names.reverse();
        names.join("/")
    }

    pub(crate) fn is_below(&self, mut ino: u64, top: u64) -> bool {
        while ino != ROOT && ino != top {
            ino = self.nodes[&ino].parent;
        }
        ino == top
    }

    pub(crate) fn find(&self, path: &str) -> Option<u64> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |dir, name| self.child(dir, name))
    }

    pub(crate) fn remove(&mut self, ino: u64, version: i64) {
        let below: Vec<u64> = self.nodes.keys().copied().filter(|other| self.is_below(*other, ino)).collect();
        self.touch(self.nodes[&ino].parent, version);
        for ino in below {
            self.nodes.remove(&ino);
            self.changed.remove(&ino);
        }
    }

    pub(crate) fn change(&mut self, dice: &mut Dice, version: i64) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        let dirs: Vec<u64> = all.iter().copied().filter(|ino| self.nodes[ino].is_dir).collect();
        let (dir, any) = (dirs[dice.roll(dirs.len())], all[dice.roll(all.len())]);
        let name = format!("n{}", dice.roll(5));
        match dice.roll(8) {
            0..=3 if self.child(dir, &name).is_none() => {
                let node = Node { parent: dir, name, is_dir: dice.roll(2) == 0, version };
                self.nodes.insert(self.next, node);
                self.changed.insert(self.next);
                self.next += 1;
                self.touch(dir, version);
            }
            4 | 5 => self.touch(any, version),
            6 if any != ROOT => self.remove(any, version),
            7 if any != ROOT && !self.is_below(dir, any) => {
                if let Some(there) = self.child(dir, &name) {
                    if self.is_below(any, there) || self.is_below(dir, there) {
                        return;
                    }
                    self.remove(there, version);
                }
                self.touch(self.nodes[&any].parent, version);
                self.touch(dir, version);
                self.touch(any, version);
                let node = self.nodes.get_mut(&any).unwrap();
                (node.parent, node.name) = (dir, name);
            }
            _ => {}
        }
    }

    /// Returns the same tree on another machine, where it has other inodes; both forget what changed.
    pub(crate) fn twin(&mut self) -> Machine {
        let far = |ino: u64| if ino > ROOT { ino + 10_000 } else { ino };
        let nodes = self
            .nodes
            .iter()
            .map(|(ino, node)| (far(*ino), Node { parent: far(node.parent), ..node.clone() }));
        self.changed.clear();
        Machine { nodes: nodes.collect(), changed: BTreeSet::new(), next: self.next + 10_000 }
    }

    /// Returns the entries of a directory.
    fn entries(&self, dir: u64) -> BTreeSet<(&str, u64)> {
        let within = self.nodes.iter().filter(|(_, node)| node.parent == dir);
        within.map(|(ino, node)| (node.name.as_str(), *ino)).collect()
    }

    /// What an agent tells about this machine since `base`.
    pub(crate) fn named(&self, base: &Machine) -> Vec<ChangedDir> {
        let mut found: BTreeMap<u64, (bool, BTreeSet<BytePath>)> = BTreeMap::new();
        for ino in self.changed.iter().filter(|ino| self.nodes.contains_key(*ino)) {
            let node = &self.nodes[ino];
            if node.is_dir {
                let place = |node: &Node| (node.parent, node.name.clone());
                let moved = base.nodes.get(ino).map(place) != Some(place(node));
                let (whole, names) = found.entry(*ino).or_default();
                *whole |= moved;
                let (is, was) = (self.entries(*ino), base.entries(*ino));
                names.extend(is.symmetric_difference(&was).map(|(name, _)| (*name).into()));
            }
            if *ino != ROOT {
                found.entry(node.parent).or_default().1.insert(node.name.as_str().into());
            }
        }
        let dir = |(ino, (whole, names)): (u64, (bool, BTreeSet<BytePath>))| ChangedDir {
            path: self.path(ino).as_str().into(),
            whole,
            names: base.nodes.contains_key(&ino).then(|| names.into_iter().collect()),
            silent: Vec::new(),
        };
        found.into_iter().map(dir).collect()
    }

    pub(crate) fn entry(&self, ino: u64) -> Entry {
        let node = &self.nodes[&ino];
        let time = FileTime { seconds: node.version, nanos: 0 };
        Entry {
            name: node.name.as_str().into(),
            kind: if node.is_dir { Kind::Dir } else { Kind::File },
            meta: Meta { mtime: time, ..Meta::default() },
            size: 1 + node.version.unsigned_abs() % 3,
            allocated: 0,
            ctime: time,
            ino,
            nlink: 1,
            target: BytePath::default(),
        }
    }

    pub(crate) fn list(&self, want: &ListWant, on_demand: bool, out: &mut Vec<DirListing>) {
        let path = want.path.to_string();
        let ino = self.find(&path).unwrap_or_else(|| panic!("`{path}` is asked for and not there"));
        let mut inos: Vec<u64> =
            self.nodes.iter().filter(|(_, node)| node.parent == ino).map(|(ino, _)| *ino).collect();
        inos.sort_by(|a, b| self.nodes[a].name.cmp(&self.nodes[b].name));
        let is_wanted = |name: &str| want.names.as_ref().is_none_or(|names| names.contains(&name.into()));
        inos.retain(|ino| is_wanted(&self.nodes[ino].name));
        let root = (on_demand || path.is_empty()).then(|| self.entry(ino));
        let entries = inos.iter().map(|ino| self.entry(*ino)).collect();
        out.push(DirListing { path: want.path.clone(), root, entries, skipped: vec![], more: false });
        for ino in inos.into_iter().filter(|ino| want.whole && self.nodes[ino].is_dir) {
            self.list(&ListWant::all(self.path(ino).as_str().into()), on_demand, out);
        }
    }
}

pub(crate) fn everything(judge: Judge, machines: [&Machine; 4], moves: &Moves) -> Comparison {
    let mut pairing = Pairing::new(judge, moves);
    let root = ListWant::all(BytePath::default());
    for ((walk, machine), _) in WALKS.into_iter().zip(machines).zip(judge.walks()).filter(|(_, walks)| *walks)
    {
        let mut listings = Vec::new();
        machine.list(&root, false, &mut listings);
        listings.into_iter().for_each(|listing| pairing.add(walk, listing));
    }
    pairing.finish().unwrap()
}

/// Returns the comparison and how many listings it took.
pub(crate) fn within(
    scope: Scope,
    judge: Judge,
    machines: [&Machine; 4],
    moves: &Moves,
) -> (Comparison, usize) {
    let mut pairing = Pairing::within(scope, judge, moves);
    let mut count = 0;
    loop {
        let asks = pairing.take_asks();
        if asks.iter().all(Vec::is_empty) {
            break;
        }
        for ((walk, machine), asks) in WALKS.into_iter().zip(machines).zip(asks) {
            assert!(judge.walks()[walk as usize] || asks.is_empty(), "nobody lists {walk:?}");
            for ask in asks {
                let mut listings = Vec::new();
                machine.list(&ask, true, &mut listings);
                count += listings.len();
                listings.into_iter().for_each(|listing| pairing.add(walk, listing));
            }
        }
    }
    assert!(pairing.is_complete());
    (pairing.finish().unwrap(), count)
}

#[test]
fn what_lies_outside_the_scope_would_have_shown_nothing() {
    let judge = Judge { has_base: true, has_before: true, ..Judge::default() };
    let (mut changes, mut listed, mut all) = (0, 0, 0);
    for seed in 0..1500 {
        let mut dice = Dice(seed);
        let mut source_base = Machine::new();
        for version in 0..40 {
            source_base.change(&mut dice, version);
        }
        let target_base = source_base.twin();
        let (mut source, mut target) = (source_base.clone(), target_base.clone());
        for version in 0..dice.roll(6) {
            source.change(&mut dice, 100 + version as i64);
        }
        for version in 0..dice.roll(3) {
            target.change(&mut dice, 200 + version as i64);
        }
        let machines = [&source, &target, &target_base, &source_base];
        let scope = Scope::of(source.named(&source_base).into_iter().chain(target.named(&target_base)));
        let full = everything(judge, machines, &Moves::default());
        let (part, count) = within(scope, judge, machines, &Moves::default());
        let sorted = |comparison: &Comparison| {
            let mut found: Vec<String> = comparison.found.iter().map(|found| format!("{found:?}")).collect();
            found.extend(comparison.suspects.iter().map(|suspect| format!("{suspect:?}")));
            found.sort();
            found
        };
        assert_eq!(sorted(&part), sorted(&full), "seed {seed}");
        for dir in part.found.iter().filter_map(|found| found.path.parent()) {
            assert_eq!(part.dir_meta.get(&dir), full.dir_meta.get(&dir), "seed {seed}: `{dir}`");
        }
        changes += full.found.len();
        listed += count;
        all +=
            machines.iter().map(|machine| machine.nodes.values().filter(|n| n.is_dir).count()).sum::<usize>();
    }
    assert!(changes > 1500 && listed < all, "{changes} changes, {listed} of {all} directories listed");
}
