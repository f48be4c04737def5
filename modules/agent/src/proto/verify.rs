//! Whether stored sets are what was taken.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SetId};

/// Asks for a look at sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// Which sets; all if there are none here.
    pub ids: Vec<SetId>,
    /// Whether the content of every file is read, so that the file system checks it.
    pub deep: bool,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// In which set.
    pub id: SetId,
    /// In which member, by its name; `None` if it is the set's record.
    pub member: Option<String>,
    /// At which path in the member; empty for the member as a whole.
    pub path: BytePath,
    /// What: a fragment that follows the place.
    pub what: String,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Sets.
    pub sets: u64,
    /// Their members.
    pub members: u64,
    /// Files whose content was read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
}
