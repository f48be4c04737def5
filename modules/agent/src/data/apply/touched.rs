//! Which identities are still those of the plan.
//!
//! Our own steps change the `ctime` of an inode that has several names. The last identity that we gave an inode is
//! remembered together with the one it had before we first touched it, so a later step that expects the old one is right
//! unless somebody else came in between.

use std::collections::HashMap;

use crate::data::seen::Seen;
use crate::proto::{Identity, Meta};

/// Inodes that earlier steps have touched.
#[derive(Default)]
pub(super) struct Touched {
    /// The number of each part's subvolume: two parts may lie on one, and an inode have names in both.
    trees: Vec<usize>,
    /// By subvolume and inode number.
    inodes: HashMap<(usize, u64), (Identity, Identity)>,
}

impl Touched {
    /// Begins with nothing touched in the parts with these roots.
    pub(super) fn none(roots: &[Seen]) -> Self {
        let first = |root: &Seen| roots.iter().position(|other| other.is_beside(root)).unwrap_or_default();
        Self { trees: roots.iter().map(first).collect(), inodes: HashMap::new() }
    }

    /// Returns the number of a part's subvolume.
    pub(super) fn tree(&self, part: usize) -> usize {
        self.trees.get(part).copied().unwrap_or(part)
    }

    /// Notes that we took an inode from `before` to `after`.
    pub(super) fn note(&mut self, part: usize, before: Identity, after: Identity) {
        let tree = self.tree(part);
        self.inodes
            .entry((tree, after.ino))
            .and_modify(|(first, last)| {
                if *last != before {
                    *first = before;
                }
                *last = after;
            })
            .or_insert((before, after));
    }

    /// Whether what stands there now is what the plan expected.
    pub(super) fn is_expected(&self, part: usize, now: &Seen, expected: &Identity) -> bool {
        if now.is_dir() {
            // Its times and size change while its entries do; that it must be empty is checked elsewhere.
            return now.ino() == expected.ino;
        }
        let now = now.identity();
        now == *expected
            || self
                .inodes
                .get(&(self.tree(part), now.ino))
                .is_some_and(|(first, last)| now == *last && expected == first)
    }
}

/// Whether an inode that was moved aside is the expected one; a rename changes its `ctime` and nothing else.
pub(super) fn is_same_version(moved: &Identity, expected: &Identity) -> bool {
    (moved.ino, moved.size, moved.mtime) == (expected.ino, expected.size, expected.mtime)
}

/// Whether an inode may be one whose metadata a commit had begun to set when it was cut off: the time of the last change of
/// its content is set last, and its content is the planned one.
pub(super) fn is_half_set(now: &Seen, expected: &Identity, wanted: &Meta) -> bool {
    let now = now.identity();
    (now.ino, now.size) == (expected.ino, expected.size)
        && (now.mtime == expected.mtime || now.mtime == wanted.mtime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::FileTime;

    fn identity(ctime: i64) -> Identity {
        let at = |seconds| FileTime { seconds, nanos: 0 };
        Identity { ino: 5, ctime: at(ctime), mtime: at(1), size: 3 }
    }

    #[test]
    fn an_edit_between_two_of_our_touches_breaks_the_chain() {
        let mut touched = Touched::default();
        touched.note(0, identity(1), identity(2));
        touched.note(0, identity(2), identity(3));
        assert_eq!(touched.inodes[&(0, 5)], (identity(1), identity(3)));
        touched.note(0, identity(7), identity(8));
        assert_eq!(touched.inodes[&(0, 5)], (identity(7), identity(8)));
    }

    #[test]
    fn what_was_touched_in_one_part_is_known_in_another_of_the_same_subvolume() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let [one, two, far] = [dir.path().join("a"), dir.path().join("b"), other.path().join("a")];
        std::fs::write(&one, "x").unwrap();
        std::fs::hard_link(&one, &two).unwrap();
        std::fs::write(&far, "x").unwrap();
        let seen = |path: &std::path::Path| Seen::of(std::fs::File::open(path).unwrap()).unwrap();
        let mut touched = Touched::none(&[seen(dir.path()), seen(dir.path()), seen(other.path())]);
        let (now, before) =
            (seen(&one), Identity { ctime: FileTime { seconds: 1, nanos: 0 }, ..seen(&one).identity() });
        touched.note(0, before, now.identity());
        assert!(touched.is_expected(1, &seen(&two), &before));
        assert!(!touched.is_expected(2, &now, &before));
    }
}
