//! Handing over the directories of a set.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SetId};

/// Asks for directories of a set, opened with the access rights of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// Which set.
    pub id: SetId,
    /// Absolute directories as they are now on the machine.
    pub paths: Vec<BytePath>,
    /// The user with whose access rights they are opened.
    pub uid: u32,
    /// What the socket is called that listens for them, in the kernel's own namespace of such names.
    pub socket: String,
}

/// What became of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldDirectory {
    /// The directory as it is now on the machine.
    pub path: BytePath,
    /// Why the set does not hold it; `None` if it was handed over, in the order of this list.
    pub lacking: Option<String>,
}
