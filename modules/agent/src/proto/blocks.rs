//! Files that both machines have and that differ: digests of the blocks of one say which blocks of the other are sent.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::BytePath;

/// Blocks of one file, at most; those of larger files are larger.
const MANY: u64 = 1 << 16;

/// The digests of the blocks of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// The file's number.
    pub content: u32,
    /// Bytes of each block but the last.
    pub block: u64,
    /// The first 16 bytes of the BLAKE3 digest of each, holes read as zeros.
    pub digests: Vec<[u8; 16]>,
}

impl Blocks {
    /// Bytes of a block, where a file has not too many of these.
    pub const SMALLEST: u64 = 64 << 10;
    /// No block is larger; of larger files there are none.
    pub const LARGEST: u64 = 64 << 20;

    /// Returns how large the blocks of a file of this size are.
    pub fn block_of(size: u64) -> u64 {
        let mut block = Self::SMALLEST;
        while size.div_ceil(block) > MANY {
            block *= 2;
        }
        block
    }
}

/// A file of which those blocks are wanted that are others than these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksWant {
    /// Its path relative to the tree's root.
    pub path: BytePath,
    /// What the other machine has.
    pub blocks: Blocks,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::MAX_BODY;
    use crate::proto::encode;

    #[test]
    fn the_digests_of_a_file_of_any_size_go_into_one_frame() {
        let least = Blocks::SMALLEST;
        assert_eq!(Blocks::block_of(0), least);
        assert_eq!(Blocks::block_of(MANY * least), least);
        assert_eq!(Blocks::block_of(MANY * least + 1), 2 * least);
        assert_eq!(Blocks::block_of(u64::MAX / 4).count_ones(), 1);
        let digests = vec![[255; 16]; MANY as usize];
        let blocks = Blocks { content: u32::MAX, block: u64::MAX, digests };
        let path = BytePath::new(vec![b'x'; 100_000]);
        assert!(encode(&vec![BlocksWant { path, blocks }]).len() < MAX_BODY);
    }
}
