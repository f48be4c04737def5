//! A plain planner: enough to bring one walked tree to another.

use std::collections::{BTreeMap, HashMap, HashSet};

use pc_switcher_contract::BytePath;

use crate::proto::{Body, DirListing, Entry, Identity, Kind, Meta, Op, ReadWant, Rights};

/// What is to be done, and what has to be read for it.
pub struct Plan {
    pub ops: Vec<Op>,
    pub wants: Vec<ReadWant>,
}

type Tree = BTreeMap<BytePath, Entry>;

pub fn tree(listings: &[DirListing]) -> Tree {
    let below = |listing: &DirListing| {
        let path = listing.path.clone();
        listing.entries.clone().into_iter().map(move |entry| (path.join(entry.name.as_bytes()), entry))
    };
    listings.iter().flat_map(below).collect()
}

pub fn identity(entry: &Entry) -> Identity {
    Identity { ino: entry.ino, ctime: entry.ctime, mtime: entry.meta.mtime, size: entry.size }
}

/// A tree as it must be on both sides: nothing that belongs to one file system, hard links by their first name.
pub fn normal(listings: &[DirListing]) -> Vec<(BytePath, Entry, BytePath)> {
    let tree = tree(listings);
    let leaders = leaders(&tree);
    let mut all: Vec<_> = tree
        .into_iter()
        .map(|(path, entry)| {
            let leader = leaders.get(&entry.ino).filter(|_| entry.nlink > 1 && entry.kind != Kind::Dir);
            let leader = leader.cloned().unwrap_or_default();
            let nlink = if entry.kind == Kind::Dir { 0 } else { entry.nlink };
            (path, Entry { ino: 0, ctime: Default::default(), allocated: 0, nlink, ..entry }, leader)
        })
        .collect();
    let root = listings.iter().find_map(|listing| listing.root.clone()).unwrap();
    let root = Entry { ino: 0, ctime: Default::default(), allocated: 0, nlink: 0, ..root };
    all.insert(0, (BytePath::default(), root, BytePath::default()));
    all
}

fn leaders(tree: &Tree) -> HashMap<u64, BytePath> {
    let mut leaders = HashMap::new();
    for (path, entry) in tree {
        leaders.entry(entry.ino).or_insert_with(|| path.clone());
    }
    leaders
}

pub fn plan(source: &[DirListing], target: &[DirListing]) -> Plan {
    let (new, old) = (tree(source), tree(target));
    let leaders = leaders(&new);
    let mut plan = Plan { ops: Vec::new(), wants: Vec::new() };
    for (path, entry) in old.iter().rev() {
        match entry.kind {
            _ if new.contains_key(path) => {}
            Kind::Dir => plan.ops.push(Op::RemoveDir { path: path.clone() }),
            _ => plan.ops.push(Op::Remove { path: path.clone(), expect: identity(entry) }),
        }
    }
    let mut put = HashSet::new();
    let mut metas = Vec::new();
    for (path, entry) in &new {
        let there = old.get(path);
        let replaces = there.map(identity);
        let leader = leaders.get(&entry.ino).filter(|leader| entry.nlink > 1 && *leader != path);
        if let Some(leader) = leader.filter(|_| entry.kind != Kind::Dir) {
            let linked = there.zip(old.get(leader)).is_some_and(|(a, b)| a.ino == b.ino);
            if !linked || put.contains(leader) {
                plan.ops.push(Op::Link { path: path.clone(), to: leader.clone(), replaces });
            }
            continue;
        }
        let same_kind = there.is_some_and(|there| there.kind == entry.kind);
        let same_content = same_kind
            && there.is_some_and(|there| match entry.kind {
                Kind::File => (there.size, there.meta.mtime) == (entry.size, entry.meta.mtime),
                _ => there.target == entry.target,
            });
        if same_content {
            let changed = there.is_some_and(|there| there.meta != entry.meta);
            match entry.kind {
                Kind::Dir => metas.push(set_dir(path.clone(), &entry.meta, there.map(|there| &there.meta))),
                _ if changed => plan.ops.push(Op::SetMeta {
                    path: path.clone(),
                    meta: entry.meta.clone(),
                    expect: replaces,
                }),
                _ => {}
            }
            continue;
        }
        put.insert(path.clone());
        let body = match entry.kind {
            Kind::File => {
                let content = plan.wants.len() as u32;
                plan.wants.push(ReadWant { content, path: path.clone() });
                Body::File { content, size: entry.size }
            }
            Kind::Dir => Body::Dir,
            Kind::Symlink => Body::Symlink(entry.target.clone()),
            Kind::Fifo => Body::Fifo,
        };
        plan.ops.push(Op::Put { path: path.clone(), body, meta: entry.meta.clone(), replaces });
    }
    metas.reverse();
    plan.ops.extend(metas);
    let [root, there] = [source, target].map(|tree| tree.iter().find_map(|listing| listing.root.clone()));
    let (root, there) = (root.unwrap(), there.map(|root| root.meta));
    plan.ops.push(set_dir(BytePath::default(), &root.meta, there.as_ref()));
    plan
}

/// The step for a directory that is there.
pub fn set_dir(path: BytePath, meta: &Meta, there: Option<&Meta>) -> Op {
    let rights = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.xattrs.clone());
    let rights = match there.filter(|there| rights(there) != rights(meta)) {
        Some(there) => Rights::Were(Box::new(there.clone())),
        None => Rights::Same,
    };
    Op::SetDir { path, meta: meta.clone(), rights }
}
