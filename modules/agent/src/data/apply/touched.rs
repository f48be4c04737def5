//! Which identities are still those of the plan.
//!
//! Our own steps change the `ctime` of an inode that has several names. The last identity that we gave an inode is
//! remembered together with the one it had before we first touched it, so a later step that expects the old one is right
//! unless somebody else came in between.

use std::collections::HashMap;

use crate::data::seen::Seen;
use crate::proto::{Identity, Meta};

/// Inodes that earlier steps have touched, by part and inode number.
#[derive(Default)]
pub(super) struct Touched(HashMap<(usize, u64), (Identity, Identity)>);

impl Touched {
    /// Notes that we took an inode from `before` to `after`.
    pub(super) fn note(&mut self, part: usize, before: Identity, after: Identity) {
        self.0
            .entry((part, after.ino))
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
            || self.0.get(&(part, now.ino)).is_some_and(|(first, last)| now == *last && expected == first)
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
        assert_eq!(touched.0[&(0, 5)], (identity(1), identity(3)));
        touched.note(0, identity(7), identity(8));
        assert_eq!(touched.0[&(0, 5)], (identity(7), identity(8)));
    }
}
