//! Files of which both machines have the same older version: what changed since, by itself.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::BytePath;

/// Beginning and end of a range that changed, and whether it is a hole now.
pub type ChangedRange = (u64, u64, bool);

/// How a file stands to the one at its path in an older snapshot, told by the trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// The number that it was asked about by.
    pub content: u32,
    /// The size of the older one.
    pub size: u64,
    /// How many ranges changed; none if both have the same content.
    pub ranges: u32,
    /// Whether the file system keeps checksums of the content of both.
    pub has_sums: bool,
}

/// What changed in a file since an older snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// The number that it was asked about by.
    pub content: u32,
    /// Its path relative to the tree's root.
    pub path: BytePath,
    /// Its size.
    pub size: u64,
    /// In order, without overlaps, at most [`Ranges::MOST`].
    pub ranges: Vec<ChangedRange>,
}

impl Ranges {
    /// A file of which more ranges changed is read whole.
    pub const MOST: usize = 1 << 17;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::MAX_BODY;
    use crate::proto::encode;

    #[test]
    fn the_ranges_of_a_file_go_into_one_frame() {
        let ranges = vec![(u64::MAX, u64::MAX, true); Ranges::MOST];
        let path = BytePath::new(vec![b'x'; 100_000]);
        let all = vec![Ranges { content: u32::MAX, path, size: u64::MAX, ranges }];
        assert!(encode(&(all, [0_u8; 32])).len() < MAX_BODY);
    }
}
