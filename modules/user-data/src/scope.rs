//! Which directories of two trees have to be compared at all.
//!
//! Both trees once were the same. Where neither changed since, they still are, so only the directories are looked at that a
//! tree names as changed, and those below whatever is new, moved or gone; and in these only the names that may differ.

use std::collections::{BTreeSet, HashMap, HashSet};

use pc_switcher_agent::proto::ChangedDir;
use pc_switcher_contract::BytePath;

/// Bytes of names of one directory, at most: with more all of it is listed.
const LONG: usize = 256 << 10;

/// Directories to be compared, by how one comes to them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Those with all below them.
    whole: HashSet<BytePath>,
    /// Of each of the others, the names that may differ, and those that lead to others below; `None` if any may differ.
    names: HashMap<BytePath, Option<BTreeSet<BytePath>>>,
    /// By a child of a directory that is compared itself: the first ones to compare at or below that child, if it is a
    /// directory on both machines.
    below: HashMap<BytePath, Vec<BytePath>>,
    /// The first ones to compare.
    first: Vec<BytePath>,
}

impl Scope {
    /// Brings together what both machines name.
    pub fn of(named: impl IntoIterator<Item = ChangedDir>) -> Self {
        let mut scope = Self::default();
        for ChangedDir { path, whole, names, .. } in named {
            if whole {
                scope.whole.insert(path.clone());
            }
            let known = scope.names.entry(path).or_insert_with(|| Some(BTreeSet::new()));
            match (known.as_mut(), names.filter(|_| !whole)) {
                (Some(known), Some(names)) => known.extend(names),
                (Some(_), None) => *known = None,
                (None, _) => {}
            }
        }
        let paths: Vec<BytePath> = scope.names.keys().cloned().collect();
        for path in paths {
            let mut child = path.clone();
            loop {
                let Some(parent) = child.parent().filter(|_| !child.is_empty()) else {
                    scope.first.push(path);
                    break;
                };
                if let Some(names) = scope.names.get_mut(&parent) {
                    if let Some(names) = names {
                        names.insert(BytePath::new(child.name()));
                    }
                    scope.below.entry(child).or_default().push(path);
                    break;
                }
                child = parent;
            }
        }
        scope
    }

    /// Returns the names of a directory that have to be compared, in order; `None` for all of them.
    pub fn names(&self, path: &BytePath) -> Option<Vec<BytePath>> {
        let names = self.names.get(path)?.as_ref()?;
        let bytes: usize = names.iter().map(|name| name.as_bytes().len() + 2).sum();
        (bytes <= LONG).then(|| names.iter().cloned().collect())
    }

    /// Returns the directories to begin with; both machines have them.
    pub fn first(&self) -> &[BytePath] {
        &self.first
    }

    /// Returns what to compare at or below a child that is a directory on both machines.
    pub fn below(&self, child: &BytePath) -> &[BytePath] {
        self.below.get(child).map_or(&[], Vec::as_slice)
    }

    /// Whether everything below this directory is to be compared.
    pub fn is_whole(&self, path: &BytePath) -> bool {
        self.whole.contains(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[(&str, bool)]) -> Scope {
        let dir = |(path, whole): &(&str, bool)| ChangedDir {
            path: (*path).into(),
            whole: *whole,
            names: Some(Vec::new()),
            silent: Vec::new(),
        };
        Scope::of(paths.iter().map(dir))
    }

    fn texts(paths: &[BytePath]) -> Vec<String> {
        let mut texts: Vec<String> = paths.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }

    #[test]
    fn each_directory_is_reached_from_the_nearest_one_above_it() {
        let scope =
            named(&[("a", false), ("a/b/c", false), ("a/b/d/e", true), ("a/b/d/e/f", false), ("x/y", false)]);
        assert_eq!(texts(scope.first()), ["a", "x/y"]);
        assert_eq!(texts(scope.below(&"a/b".into())), ["a/b/c", "a/b/d/e"]);
        assert_eq!(texts(scope.below(&"a/b/d/e/f".into())), ["a/b/d/e/f"]);
        assert!(scope.below(&"a/z".into()).is_empty());
        assert!(scope.is_whole(&"a/b/d/e".into()) && !scope.is_whole(&"a".into()));
    }

    #[test]
    fn names_of_both_machines_and_those_on_the_way_are_looked_at() {
        let dir = |path: &str, names: Option<&[&str]>| ChangedDir {
            path: path.into(),
            whole: false,
            names: names.map(|names| names.iter().map(|name| (*name).into()).collect()),
            silent: Vec::new(),
        };
        let scope = Scope::of([
            dir("a", Some(&["x"])),
            dir("a", Some(&["w", "x"])),
            dir("a/b/c", Some(&["y"])),
            dir("d", Some(&["z"])),
            dir("d", None),
            dir("d/e", Some(&[])),
        ]);
        let names = |path: &str| scope.names(&path.into()).map(|names| texts(&names));
        let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(names("a"), some(&["b", "w", "x"]));
        assert_eq!(names("a/b/c"), some(&["y"]));
        assert_eq!(names("d"), None, "one machine does not know which");
        assert_eq!(names("d/e"), some(&[]));
        let many: Vec<String> = (0..4000).map(|n| format!("{n:0100}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(Scope::of([dir("a", Some(&many))]).names(&"a".into()), None);
    }

    #[test]
    fn the_root_is_above_everything() {
        let scope = named(&[("", false), ("a/b", false)]);
        assert_eq!(texts(scope.first()), [""]);
        assert_eq!(texts(scope.below(&"a".into())), ["a/b"]);
        assert_eq!(named(&[]), Scope::default());
    }
}
