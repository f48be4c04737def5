//! Snapshots: one tree, when and of what it was taken.

use serde::{Deserialize, Serialize};

use super::id::Id;

/// A snapshot of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// RFC 3339.
    pub time: String,
    /// The snapshot before it, of the same paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// Its tree.
    pub tree: Id,
    /// What was backed up.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Where.
    #[serde(default)]
    pub hostname: String,
    /// By whom.
    #[serde(default)]
    pub username: String,
    /// By whom, as a number.
    #[serde(default)]
    pub uid: u32,
    /// The group.
    #[serde(default)]
    pub gid: u32,
    /// Words for people and for `restic forget`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The snapshot of which this one is what could be saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// The writer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
}
