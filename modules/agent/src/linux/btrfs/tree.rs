//! The subvolumes of one file system as a tree of names.

use std::collections::HashMap;

use pc_switcher_contract::{BytePath, SubvolumeName};

use super::SubvolumeRef;

/// The id of the top level.
pub const FS_TREE: u64 = 5;

/// All subvolumes of a file system, by id.
#[derive(Debug, Clone, Default)]
pub struct SubvolumeTree {
    refs: HashMap<u64, SubvolumeRef>,
}

impl SubvolumeTree {
    /// Makes a tree of what [`super::Btrfs::subvolumes`] returned.
    pub fn new(refs: Vec<SubvolumeRef>) -> Self {
        Self { refs: refs.into_iter().map(|one| (one.id, one)).collect() }
    }

    /// Returns the flat name: only a subvolume that stands at the top level itself has one.
    pub fn flat_name(&self, id: u64) -> Option<SubvolumeName> {
        let one = self.refs.get(&id).filter(|one| one.parent_id == FS_TREE && one.dir.is_empty())?;
        std::str::from_utf8(&one.name).ok()?.parse().ok()
    }

    /// Returns the id behind a flat name.
    pub fn by_flat_name(&self, name: &SubvolumeName) -> Option<u64> {
        self.refs
            .values()
            .find(|one| {
                one.parent_id == FS_TREE && one.dir.is_empty() && one.name == name.as_str().as_bytes()
            })
            .map(|one| one.id)
    }

    /// Returns all flat names, sorted.
    pub fn flat_names(&self) -> Vec<SubvolumeName> {
        let mut names: Vec<_> = self.refs.keys().filter_map(|id| self.flat_name(*id)).collect();
        names.sort();
        names
    }

    /// Returns the path from the file system's top level; empty for the top level itself. `None` for one that is
    /// deleted or unknown.
    pub fn path(&self, id: u64) -> Option<BytePath> {
        self.path_from(id, FS_TREE)
    }

    /// Returns the path of `id` below the root of subvolume `above`, `None` if it is not below it.
    fn path_from(&self, id: u64, above: u64) -> Option<BytePath> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = id;
        while at != above {
            let one = self.refs.get(&at)?;
            names.push(&one.name);
            names.push(&one.dir);
            at = one.parent_id;
            if names.len() > 2 * self.refs.len() {
                return None;
            }
        }
        Some(names.iter().rev().fold(BytePath::default(), |path, name| path.join(name)))
    }

    /// Returns the subvolumes below `inside` of subvolume `id`, relative to it and sorted; also those in others below.
    pub fn below(&self, id: u64, inside: &BytePath) -> Vec<BytePath> {
        let mut found: Vec<BytePath> = self
            .refs
            .keys()
            .filter(|other| **other != id)
            .filter_map(|other| self.path_from(*other, id))
            .filter(|path| path.is_within(inside) && path != inside)
            .map(|path| relative(&path, inside))
            .collect();
        found.sort();
        found
    }
}

/// Returns `path` relative to `base`, which it must lie within.
pub(crate) fn relative(path: &BytePath, base: &BytePath) -> BytePath {
    let rest = path.as_bytes().get(base.as_bytes().len()..).unwrap_or_default();
    BytePath::new(rest.strip_prefix(b"/").unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> SubvolumeTree {
        let one = |id, parent_id, dir: &str, name: &str| SubvolumeRef {
            id,
            parent_id,
            dir: dir.into(),
            name: name.into(),
        };
        SubvolumeTree::new(vec![
            one(256, FS_TREE, "", "@"),
            one(257, FS_TREE, "", "@home"),
            one(258, FS_TREE, "sub", "@odd"),
            one(259, 257, "alice", "vm"),
            one(260, 259, "", "deep"),
            one(261, 300, "", "orphan"),
        ])
    }

    #[test]
    fn only_names_at_the_top_level_itself_are_flat() {
        let names: Vec<_> = tree().flat_names().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["@", "@home"]);
        assert_eq!(tree().by_flat_name(&"@home".parse().unwrap()), Some(257));
        assert_eq!(tree().flat_name(258), None);
        assert_eq!(tree().path(258), Some("sub/@odd".into()));
        assert_eq!(tree().path(261), None);
    }

    #[test]
    fn nested_ones_are_found_below_the_folder_alone() {
        assert_eq!(tree().below(257, &"".into()), ["alice/vm".into(), "alice/vm/deep".into()]);
        assert_eq!(tree().below(257, &"alice".into()), ["vm".into(), "vm/deep".into()]);
        assert_eq!(tree().below(257, &"ali".into()), Vec::<BytePath>::new());
        assert_eq!(tree().below(259, &"".into()), ["deep".into()]);
    }
}
