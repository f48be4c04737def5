//! Which directories of two trees have to be compared at all.
//!
//! Both trees once were the same. Where neither changed since, they still are, so only the directories are looked at that a
//! tree names as changed, and those below whatever is new, moved or gone.

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::ChangedDir;
use pc_switcher_contract::BytePath;

/// Directories to be compared, by how one comes to them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Those with all below them.
    whole: HashSet<BytePath>,
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
        let mut paths: HashSet<BytePath> = HashSet::new();
        for dir in named {
            if dir.whole {
                scope.whole.insert(dir.path.clone());
            }
            paths.insert(dir.path);
        }
        for path in &paths {
            let mut child = path.clone();
            loop {
                let Some(parent) = child.parent().filter(|_| !child.is_empty()) else {
                    scope.first.push(path.clone());
                    break;
                };
                if paths.contains(&parent) {
                    scope.below.entry(child).or_default().push(path.clone());
                    break;
                }
                child = parent;
            }
        }
        scope
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
        Scope::of(paths.iter().map(|(path, whole)| ChangedDir { path: (*path).into(), whole: *whole }))
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
    fn the_root_is_above_everything() {
        let scope = named(&[("", false), ("a/b", false)]);
        assert_eq!(texts(scope.first()), [""]);
        assert_eq!(texts(scope.below(&"a".into())), ["a/b"]);
        assert_eq!(named(&[]), Scope::default());
    }
}
