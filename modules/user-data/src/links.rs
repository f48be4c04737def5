//! Hard links: the target's names share inodes exactly where the source's do.

use std::collections::{BTreeMap, HashMap, HashSet};

use pc_switcher_contract::BytePath;

use crate::change::{Change, Found, LinkSeen};

/// Rewrites the changes of what has several names, of whatever kind: one name of each inode leads and keeps its change (or none); the
/// others become links to it where they are not already. Files that share an inode on the target alone come apart, and where
/// the part `is_torn` those that share one with names which were not seen.
pub fn resolve(found: &mut Vec<Found>, mut seen: Vec<LinkSeen>, is_torn: bool) {
    seen.sort_by(|a, b| a.path.cmp(&b.path));
    let concerned: HashSet<&BytePath> = seen.iter().map(|name| &name.path).collect();
    let at: HashMap<BytePath, usize> = found
        .iter()
        .enumerate()
        .filter(|(_, found)| concerned.contains(&found.path))
        .map(|(index, found)| (found.path.clone(), index))
        .collect();
    drop(concerned);
    let claimed = if is_torn { shared_elsewhere(&seen) } else { HashSet::new() };
    let mut groups: BTreeMap<u64, Vec<LinkSeen>> = BTreeMap::new();
    for name in seen {
        groups.entry(name.ours.ino).or_default().push(name);
    }
    let mut work = Work { found, at, claimed, dropped: HashSet::new() };
    for group in groups.into_values() {
        work.group(group);
    }
    let dropped = work.dropped;
    let mut index = 0;
    found.retain(|_| {
        index += 1;
        !dropped.contains(&(index - 1))
    });
}

/// Returns the inodes of the target that have more names than these.
fn shared_elsewhere(seen: &[LinkSeen]) -> HashSet<u64> {
    let mut names: HashMap<u64, (u32, u32)> = HashMap::new();
    for name in seen {
        if let (Some(target), Some(theirs)) = (&name.target, &name.theirs) {
            let (count, all) = names.entry(target.ino).or_default();
            *count += 1;
            *all = theirs.nlink;
        }
    }
    names.into_iter().filter(|(_, (count, all))| count < all).map(|(ino, _)| ino).collect()
}

struct Work<'a> {
    found: &'a mut Vec<Found>,
    at: HashMap<BytePath, usize>,
    /// Inodes of the target that already stand for an inode of the source.
    claimed: HashSet<u64>,
    dropped: HashSet<usize>,
}

impl Work<'_> {
    /// Whether the content at the path is right already, whatever its metadata.
    fn stays(&self, name: &LinkSeen) -> bool {
        let change = self.at.get(&name.path).map(|index| &self.found[*index].change);
        name.target.is_some() && matches!(change, None | Some(Change::Meta(..)))
    }

    fn group(&mut self, group: Vec<LinkSeen>) {
        let fit = group.iter().position(|name| {
            self.stays(name) && name.target.is_some_and(|target| !self.claimed.contains(&target.ino))
        });
        let leader = fit.unwrap_or(0);
        let fit = fit.filter(|fit| !self.must_be_made_anew(&group, *fit));
        let leader_path = group[leader].path.clone();
        let leader_ino = fit.and_then(|index| group[index].target).map(|target| target.ino);
        match leader_ino {
            Some(ino) => {
                self.claimed.insert(ino);
            }
            None if self.stays(&group[leader]) => {
                // Right content, but the inode stands for another file or cannot take the others: a new one.
                let old = group[leader].target;
                self.set(&group[leader], |name| match old {
                    Some(old) => Change::Replace(name.ours.clone(), old, name.ours.kind),
                    None => Change::Create(name.ours.clone()),
                });
            }
            None => {}
        }
        for (index, name) in group.iter().enumerate() {
            if index == leader {
                continue;
            }
            let joined = leader_ino.is_some() && name.target.map(|target| target.ino) == leader_ino;
            if joined && self.stays(name) {
                // One inode: the leader's change of metadata is this name's, too.
                self.dropped.extend(self.at.get(&name.path));
                continue;
            }
            let old = name.target.or_else(|| {
                let index = self.at.get(&name.path)?;
                match &self.found[*index].change {
                    Change::Replace(_, old, _) => Some(*old),
                    _ => None,
                }
            });
            self.set(name, |_| Change::Link(leader_path.clone(), old));
        }
    }

    /// Whether names join the leader's inode while its metadata changes, too. That takes two steps, and between them those
    /// names would show neither their old version nor their new one; names of a new inode get it whole.
    fn must_be_made_anew(&self, group: &[LinkSeen], leader: usize) -> bool {
        let changes = self.at.get(&group[leader].path).map(|index| &self.found[*index].change);
        let ino = |name: &LinkSeen| name.target.map(|target| target.ino);
        let joins = |name: &LinkSeen| !self.stays(name) || ino(name) != ino(&group[leader]);
        matches!(changes, Some(Change::Meta(..))) && group.iter().any(joins)
    }

    /// Sets the change of a name; what is known of the target's version stays.
    fn set(&mut self, name: &LinkSeen, change: impl FnOnce(&LinkSeen) -> Change) {
        let change = change(name);
        match self.at.get(&name.path) {
            Some(index) => self.found[*index].change = change,
            None => {
                let (path, theirs) = (name.path.clone(), name.theirs.clone());
                self.found.push(Found { path, change, touched: name.touched, theirs, was_there: true });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_agent::proto::{Entry, FileTime, Identity, Kind, Meta};

    fn ours(ino: u64) -> Entry {
        Entry {
            name: BytePath::default(),
            kind: Kind::File,
            meta: Meta::default(),
            size: 1,
            allocated: 0,
            ctime: FileTime::default(),
            ino,
            nlink: 2,
            target: BytePath::default(),
        }
    }

    fn id(ino: u64) -> Identity {
        Identity { ino, ctime: FileTime::default(), mtime: FileTime::default(), size: 1 }
    }

    fn seen(path: &str, source: u64, target: Option<u64>) -> LinkSeen {
        LinkSeen {
            path: path.into(),
            ours: ours(source),
            target: target.map(id),
            theirs: None,
            touched: false,
        }
    }

    fn run(mut found: Vec<Found>, seen: Vec<LinkSeen>) -> Vec<(String, Change)> {
        resolve(&mut found, seen, false);
        let mut out: Vec<_> = found.into_iter().map(|found| (found.path.to_string(), found.change)).collect();
        out.sort_by(|a, b| a.0.cmp(&b.0));
        out
    }

    fn create(path: &str, ino: u64) -> Found {
        Found {
            path: path.into(),
            change: Change::Create(ours(ino)),
            touched: false,
            theirs: None,
            was_there: false,
        }
    }

    #[test]
    fn new_names_of_one_inode_are_one_file_and_links() {
        let out = run(vec![create("b", 1), create("a", 1)], vec![seen("a", 1, None), seen("b", 1, None)]);
        assert!(matches!(&out[0], (path, Change::Create(_)) if path == "a"));
        assert_eq!(out[1], ("b".into(), Change::Link("a".into(), None)));
    }

    #[test]
    fn names_that_share_an_inode_already_need_nothing() {
        assert!(run(vec![], vec![seen("a", 1, Some(7)), seen("b", 1, Some(7))]).is_empty());
    }

    #[test]
    fn a_change_of_metadata_is_made_once_per_inode() {
        let meta = |path: &str| Found {
            path: path.into(),
            change: Change::Meta(ours(1), id(7)),
            touched: false,
            theirs: None,
            was_there: true,
        };
        let out = run(vec![meta("a"), meta("b")], vec![seen("a", 1, Some(7)), seen("b", 1, Some(7))]);
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn names_never_join_an_inode_whose_metadata_is_still_to_be_set() {
        let meta = Found {
            path: "a".into(),
            change: Change::Meta(ours(1), id(7)),
            touched: false,
            theirs: None,
            was_there: true,
        };
        let names = vec![seen("a", 1, Some(7)), seen("b", 1, Some(7)), seen("c", 1, None)];
        let out = run(vec![meta, create("c", 1)], names);
        assert_eq!(out[0], ("a".into(), Change::Replace(ours(1), id(7), Kind::File)));
        assert_eq!(out[1], ("b".into(), Change::Link("a".into(), Some(id(7)))));
        assert_eq!(out[2], ("c".into(), Change::Link("a".into(), None)));
    }

    #[test]
    fn copies_on_the_target_become_links() {
        let out = run(vec![], vec![seen("a", 1, Some(7)), seen("b", 1, Some(8))]);
        assert_eq!(out, [("b".into(), Change::Link("a".into(), Some(id(8))))]);
    }

    #[test]
    fn links_on_the_target_alone_come_apart() {
        let out = run(vec![], vec![seen("a", 1, Some(7)), seen("b", 2, Some(7))]);
        assert!(
            matches!(&out[..], [(path, Change::Replace(_, old, Kind::File))] if path == "b" && old.ino == 7)
        );
    }

    #[test]
    fn what_shares_an_inode_with_another_part_of_the_target_comes_apart() {
        let with = |path: &str, source, target, nlink| LinkSeen {
            theirs: Some(Entry { nlink, ..ours(target) }),
            ..seen(path, source, Some(target))
        };
        let names = || vec![with("a", 1, 7, 3), with("b", 1, 7, 3), with("c", 2, 8, 1)];
        let mut found = Vec::new();
        resolve(&mut found, names(), false);
        assert!(found.is_empty(), "names that were not seen are nobody's business: {found:?}");
        resolve(&mut found, names(), true);
        let changes: Vec<_> = found.iter().map(|found| (found.path.to_string(), &found.change)).collect();
        assert!(
            matches!(&changes[..], [(a, Change::Replace(_, old, Kind::File)), (b, Change::Link(to, Some(_)))]
            if a == "a" && b == "b" && old.ino == 7 && *to == "a".into())
        );
    }
}
