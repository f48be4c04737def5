//! Content that need not be sent, because the target has it already or gets it in another file.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::BytePath;

use super::few;
use super::fs::{FileTime, Tree};

/// Asks what files share with one another and with files of an older snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharesRequest {
    /// The tree that the files lie in.
    pub tree: Tree,
    /// The same root in the older snapshot; without one, and where nothing is known of it, the tree itself.
    pub base: Option<BytePath>,
}

/// A file that shares with another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// One that was asked about earlier, by its number.
    Asked(u32),
    /// One of the older snapshot.
    File {
        /// Relative to the root.
        path: BytePath,
        /// Its size.
        size: u64,
        /// Last change of its content.
        mtime: FileTime,
    },
}

/// A range of a file that is the same as one of another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Where it begins.
    pub at: u64,
    /// Its length; together with both beginnings a multiple of a block, but for the end of the file.
    pub len: u64,
    /// Where it begins in the other file.
    pub from_at: u64,
    /// The other file, as an index into [`Shares::origins`].
    pub origin: u32,
}

/// What one file shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The number that it was asked about by.
    pub content: u32,
    /// The files that it shares with.
    #[serde(deserialize_with = "few")]
    pub origins: Vec<Origin>,
    /// In order, without overlaps.
    #[serde(deserialize_with = "few")]
    pub ranges: Vec<Share>,
}

/// A file of which the target makes some ranges by itself: all others are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestWant {
    /// The number that its content travels under.
    pub content: u32,
    /// Its path relative to the tree's root.
    pub path: BytePath,
    /// Beginning and end of what the target has, in order, without overlaps.
    #[serde(deserialize_with = "few")]
    pub had: Vec<(u64, u64)>,
}

/// Where a range of a file begins, where it begins in the file that it is made of, and how long it is.
pub type CloneRange = (u64, u64, u64);

/// What the target makes ranges of a file of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloneFrom {
    /// The new file at this path of the same part, whose content is whole.
    New(BytePath),
    /// A file of a read-only snapshot on the target.
    Sealed {
        /// Absolute path of a root in the snapshot.
        root: BytePath,
        /// Relative to that root.
        path: BytePath,
    },
}
