//! Random pasts of two machines: what is planned with moves makes the target what the source is, loses no edit of the target
//! unasked, and finds the same within a scope as in everything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use pc_switcher_agent::proto::{Body, ChangedDir, DirListing, Kind, ListWant, Moved, Op};
use pc_switcher_contract::BytePath;

use super::{Known, Moves, Planned, Seen};
use crate::change::{Change, Found, Judge, settle};
use crate::compare::within::{Dice, Machine, Node, ROOT, everything, within};
use crate::compare::{Comparison, Walk};
use crate::scope::Scope;
use crate::steps::{Steps, steps};

/// What an agent tells of a machine that moved things.
fn moved(base: &Machine, now: &Machine) -> Vec<Moved> {
    let place = |node: &Node| (node.parent, node.name.clone());
    let both = now.nodes.iter().filter_map(|(ino, node)| Some((ino, base.nodes.get(ino)?, node)));
    let mut found: Vec<Moved> = both
        .filter(|(_, was, is)| place(was) != place(is))
        .map(|(ino, _, node)| Moved {
            from: base.path(*ino).as_str().into(),
            to: now.path(*ino).as_str().into(),
            is_dir: node.is_dir,
        })
        .collect();
    found.sort_by(|a, b| a.to.cmp(&b.to));
    found
}

fn listing(machine: &Machine, path: &BytePath) -> Option<DirListing> {
    let ino = machine.find(&path.to_string())?;
    if !machine.nodes[&ino].is_dir {
        return None;
    }
    let mut out = Vec::new();
    machine.list(&ListWant::one(path.clone()), true, &mut out);
    out.pop()
}

fn planned(
    [source, source_base]: [&Machine; 2],
    [target, target_base]: [&Machine; 2],
    judge: Judge,
) -> Moves {
    let (ours, theirs) = (moved(source_base, source), moved(target_base, target));
    let mut known = Known::new(judge.walks_base());
    for _ in 0..64 {
        match Moves::plan(ours.clone(), &theirs, Some(&mut known), |_| false) {
            Planned::Moves(moves) => return *moves,
            Planned::Wanted(wanted) => {
                for path in wanted {
                    let [now, then] = [target, target_base].map(|machine| {
                        let dir = path.parent().unwrap_or_default();
                        Seen::within(listing(machine, &dir).as_ref(), path.name())
                    });
                    known.add(path, now, then);
                }
            }
        }
    }
    panic!("it wants to know more and more");
}

/// Moves a node to another place; panics where the kernel would refuse.
fn place(machine: &mut Machine, ino: u64, path: &BytePath, may_replace: bool) {
    let dir = machine.find(&path.parent().unwrap_or_default().to_string()).expect("its directory");
    assert!(machine.nodes[&dir].is_dir && !machine.is_below(dir, ino), "into itself");
    let name = String::from_utf8(path.name().to_vec()).unwrap();
    if let Some(there) = machine.child(dir, &name) {
        assert!(may_replace && !machine.nodes[&there].is_dir, "`{path}` is taken");
        machine.nodes.remove(&there);
    }
    let node = machine.nodes.get_mut(&ino).unwrap();
    (node.parent, node.name) = (dir, name);
}

/// Does the steps as an agent would, and returns the inodes that were moved.
fn commit(target: &mut Machine, steps: &Steps, source: &Machine) -> usize {
    const ASIDE: u64 = 9;
    let mut moves = 0;
    let version = |path: &BytePath| source.nodes[&source.find(&path.to_string()).unwrap()].version;
    for op in &steps.ops {
        let at = |machine: &Machine, path: &BytePath| machine.find(&path.to_string());
        match op {
            Op::Move { path, from, expect, replaces } => {
                let ino = match at(target, from).filter(|ino| *ino == expect.ino) {
                    Some(ino) => ino,
                    None => expect.ino,
                };
                let is_aside = target.nodes[&ino].parent == ASIDE;
                assert!(is_aside || at(target, from) == Some(expect.ino), "{op:?}");
                place(target, ino, path, replaces.is_some());
                moves += 1;
            }
            Op::Swap { path, with, expect, other } => {
                let (one, two) = (at(target, path).unwrap(), at(target, with).unwrap());
                assert_eq!((one, two), (expect.ino, other.ino), "{op:?}");
                assert!(!target.is_below(one, two) && !target.is_below(two, one), "{op:?}");
                let [a, b] = [one, two].map(|ino| target.nodes[&ino].clone());
                let node = target.nodes.get_mut(&one).unwrap();
                (node.parent, node.name) = (b.parent, b.name);
                let node = target.nodes.get_mut(&two).unwrap();
                (node.parent, node.name) = (a.parent, a.name);
                moves += 1;
            }
            Op::Aside { path, expect } => {
                assert_eq!(at(target, path), Some(expect.ino), "{op:?}");
                target.nodes.get_mut(&expect.ino).unwrap().parent = ASIDE;
            }
            Op::Put { path, body, replaces, .. } => {
                let there = at(target, path);
                assert_eq!(there, replaces.map(|old| old.ino), "{op:?}");
                if let Some(there) = there {
                    assert!(!target.nodes.values().any(|node| node.parent == there), "{op:?} is not empty");
                    target.nodes.remove(&there);
                }
                let parent = at(target, &path.parent().unwrap_or_default()).expect("its directory");
                let name = String::from_utf8(path.name().to_vec()).unwrap();
                let is_dir = matches!(body, Body::Dir | Body::Bare);
                target.nodes.insert(target.next, Node { parent, name, is_dir, version: version(path) });
                target.next += 1;
            }
            Op::Remove { path, expect } => {
                assert_eq!(at(target, path), Some(expect.ino), "{op:?}");
                target.nodes.remove(&expect.ino);
            }
            Op::RemoveDir { path } => {
                let ino = at(target, path).unwrap();
                assert!(!target.nodes.values().any(|node| node.parent == ino), "{op:?} is not empty");
                target.nodes.remove(&ino);
            }
            Op::SetMeta { path, .. } | Op::SetDir { path, .. } => {
                let ino = at(target, path).unwrap();
                target.nodes.get_mut(&ino).unwrap().version = version(path);
            }
            Op::Link { .. } => panic!("nothing is linked here"),
        }
    }
    assert!(target.nodes.values().all(|node| node.parent != ASIDE), "something stays aside");
    moves
}

fn count_kinds(steps: &Steps, kinds: &mut BTreeMap<&'static str, usize>) {
    for op in &steps.ops {
        let kind = match op {
            Op::Move { replaces: Some(_), .. } => "over",
            Op::Move { .. } => "move",
            Op::Swap { .. } => "swap",
            Op::Aside { .. } => "aside",
            Op::Put { body: Body::Bare, .. } => "new directory",
            _ => continue,
        };
        *kinds.entry(kind).or_default() += 1;
    }
}

/// What moved on both machines alike is not looked at in the end but where something else was done, and nothing differs.
fn verify(source: &Machine, source_base: &Machine, after: &mut Machine, target_base: &Machine, seed: u64) {
    let other = |ino: &u64, node: &Node| target_base.nodes.get(ino) != Some(node);
    let gone = target_base.nodes.iter().filter(|(ino, node)| after.nodes.get(ino) != Some(node));
    let left: Vec<u64> = gone.map(|(_, node)| node.parent).collect();
    let changed = after.nodes.iter().filter(|(ino, node)| other(ino, node));
    let touched = changed.flat_map(|(ino, node)| [*ino, node.parent]).chain(left);
    after.changed = touched.filter(|ino| *ino != 0 && after.nodes.contains_key(ino)).collect();
    let (ours, theirs) = (moved(source_base, source), moved(target_base, after));
    let Planned::Moves(moves) = Moves::plan(ours, &theirs, None, |_| false) else {
        panic!("nothing is wanted")
    };
    assert!(moves.is_empty());
    let whole = |dir: &ChangedDir, on_target| dir.whole && !moves.is_settled(&dir.path, on_target);
    let here =
        source.named(source_base).into_iter().map(|dir| ChangedDir { whole: whole(&dir, false), ..dir });
    let there =
        after.named(target_base).into_iter().map(|dir| ChangedDir { whole: whole(&dir, true), ..dir });
    let mut named: Vec<ChangedDir> = here.chain(there).collect();
    if !named.is_empty() {
        named.push(ChangedDir {
            path: BytePath::default(),
            whole: false,
            names: Some(Vec::new()),
            silent: Vec::new(),
        });
    }
    let machines = [source, after, target_base, source_base];
    let (part, _) = within(Scope::of(named), Judge::default(), machines, &moves);
    assert!(part.found.is_empty() && part.unreadable.is_empty(), "seed {seed}: {:?}", part.found);
}

/// A tree by its paths.
fn face(machine: &Machine) -> BTreeMap<String, (bool, i64)> {
    let nodes = machine.nodes.iter();
    nodes.map(|(ino, node)| (machine.path(*ino), (node.is_dir, node.version))).collect()
}

/// Returns what a comparison found, after contents were compared.
fn settled(comparison: &Comparison) -> Vec<Found> {
    let mut found = comparison.found.clone();
    found.extend(comparison.suspects.iter().cloned().filter_map(|suspect| {
        let equal = suspect.ours.meta.mtime == suspect.theirs.meta.mtime;
        settle(suspect, equal)
    }));
    found
}

fn sorted(found: &[Found]) -> Vec<String> {
    let mut found: Vec<String> = found.iter().map(|found| format!("{found:?}")).collect();
    found.sort();
    found
}

/// Works on a machine, mostly by moving things.
fn work(machine: &mut Machine, dice: &mut Dice, version: i64) {
    if dice.roll(3) == 0 {
        return machine.change(dice, version);
    }
    let all: Vec<u64> = machine.nodes.keys().copied().filter(|ino| *ino != ROOT).collect();
    if all.len() < 2 {
        return;
    }
    let (one, two) = (all[dice.roll(all.len())], all[dice.roll(all.len())]);
    if dice.roll(2) == 0 && one != two && !machine.is_below(one, two) && !machine.is_below(two, one) {
        // Two things change places.
        let places = [one, two].map(|ino| (machine.nodes[&ino].parent, machine.nodes[&ino].name.clone()));
        for (ino, (parent, name)) in [(one, places[1].clone()), (two, places[0].clone())] {
            machine.touch(parent, version);
            let was = machine.nodes[&ino].version;
            machine.touch(ino, was);
            let node = machine.nodes.get_mut(&ino).unwrap();
            (node.parent, node.name) = (parent, name);
        }
        return;
    }
    let dirs: Vec<u64> = machine.nodes.keys().copied().filter(|ino| machine.nodes[ino].is_dir).collect();
    let dir = dirs[dice.roll(dirs.len())];
    let name = format!("n{}", dice.roll(5));
    if machine.is_below(dir, one) || machine.child(dir, &name).is_some() {
        return;
    }
    machine.touch(machine.nodes[&one].parent, version);
    machine.touch(dir, version);
    let was = machine.nodes[&one].version;
    machine.touch(one, was);
    let node = machine.nodes.get_mut(&one).unwrap();
    (node.parent, node.name) = (dir, name);
}

#[test]
fn moves_make_the_target_what_the_source_is_and_lose_nothing_unasked() {
    let (mut done, mut doubtful, mut listed, mut all) = (0, 0, 0, 0);
    let (mut kinds, mut told) = (BTreeMap::new(), 0);
    for seed in 0..6000_u64 {
        let mut dice = Dice(seed);
        let mut source_base = Machine::new();
        for version in 0..40 {
            source_base.change(&mut dice, version);
        }
        let target_base = source_base.twin();
        let (mut source, mut target) = (source_base.clone(), target_base.clone());
        for version in 0..dice.roll(9) {
            work(&mut source, &mut dice, 100 + version as i64);
        }
        let edits = if seed % 2 == 0 { 0 } else { dice.roll(4) };
        let (base_is_target, has_before) = (seed % 4 == 0, seed % 3 > 0);
        let judge = Judge { has_base: true, base_is_target, has_before, ..Judge::default() };
        for version in 0..edits {
            work(&mut target, &mut dice, 200 + version as i64);
        }
        let moves = planned([&source, &source_base], [&target, &target_base], judge);
        let machines = [&source, &target, &target_base, &source_base];
        let named = source.named(&source_base).into_iter().map(|dir| {
            let whole = dir.whole && !moves.is_settled(&dir.path, false);
            ChangedDir { whole, ..dir }
        });
        let theirs = target.named(&target_base).into_iter().map(|dir| {
            let whole = dir.whole && !moves.is_settled(&dir.path, true);
            ChangedDir { path: moves.map(Walk::Target, &dir.path), whole, ..dir }
        });
        let mut named: Vec<ChangedDir> = named.chain(theirs).collect();
        if !named.is_empty() {
            named.push(ChangedDir {
                path: BytePath::default(),
                whole: false,
                names: Some(Vec::new()),
                silent: Vec::new(),
            });
        }
        let full = everything(judge, machines, &moves);
        if seed % 2 == 0 || full.unreadable.is_empty() {
            let (part, count) = within(Scope::of(named), judge, machines, &moves);
            if part.unreadable.is_empty() {
                assert_eq!(sorted(&settled(&part)), sorted(&settled(&full)), "seed {seed}");
                listed += count;
                let dirs = |machine: &Machine| machine.nodes.values().filter(|node| node.is_dir).count();
                all += machines.into_iter().map(dirs).sum::<usize>();
            } else {
                doubtful += 1;
            }
        }
        let found = settled(&full);
        // Whatever the target made or changed since is the same on the source, stays, or is asked about.
        let asked: HashSet<String> = found
            .iter()
            .filter(|found| found.touched)
            .map(|found| moves.stands(Walk::Target, &found.path).to_string())
            .collect();
        let lost: BTreeSet<String> = found
            .iter()
            .filter(|found| {
                matches!(found.change, Change::Replace(_, _, Kind::File) | Change::Delete(_, Kind::File))
            })
            .map(|found| moves.stands(Walk::Target, &found.path).to_string())
            .collect();
        for path in &lost {
            let ino = target.find(path).unwrap();
            let edited = target.nodes[&ino].version >= 200;
            assert!(!edited || asked.contains(path), "seed {seed}: `{path}` would be lost");
        }
        let mut after = target.clone();
        let steps = steps(found, &[], &full.dir_meta, &HashMap::new(), 0, &moves);
        done += commit(&mut after, &steps, &source);
        assert_eq!(face(&after), face(&source), "seed {seed}: {:?}", steps.ops);
        count_kinds(&steps, &mut kinds);
        told += moved(&source_base, &source).len();
        verify(&source, &source_base, &mut after, &target_base, seed);
    }
    assert!(done > 6000, "{done} moves");
    assert!(doubtful < 200, "{doubtful} times everything was compared");
    assert!(listed < all, "{listed} of {all} directories listed");
    for kind in ["move", "over", "swap", "aside", "new directory"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 20), "{kind}: {kinds:?}");
    }
    println!("{told} told, {kinds:?}");
    println!("{done} moves, {doubtful} in doubt, {listed} of {all} directories listed");
}
