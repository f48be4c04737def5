//! Bringing back what a set holds.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SessionId, SetId, UtcStamp};

use super::store::CreateSet;

/// Asks for some paths of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// From which set.
    pub id: SetId,
    /// What: absolute paths as they are now on the machine.
    pub paths: Vec<BytePath>,
    /// Where to.
    pub place: RestorePlace,
    /// Stands in the names of what is put beside.
    pub stamp: UtcStamp,
    /// Stands in the names of what is not in its place yet; nobody has used it before.
    pub tag: SessionId,
    /// The user with whose access rights all of it is done.
    pub uid: u32,
}

/// Where restored things go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestorePlace {
    /// Beside what is there now, under a name of its own.
    Beside,
    /// Into this directory, under the same name.
    Into(BytePath),
    /// In the place of what is there now, after this set was taken.
    InPlace(Box<CreateSet>),
}

/// What became of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The path that was asked for.
    pub path: BytePath,
    /// Where it is now.
    pub to: BytePath,
    /// How many files, directories and others.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What stood in its place and changed after the safety set was taken: it was kept here.
    pub kept: Option<BytePath>,
    /// What could not be restored as it was, a line each.
    pub notes: Vec<String>,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreReply {
    /// All is in its place.
    Done {
        /// Path by path.
        restored: Vec<Restored>,
        /// The set that was taken before.
        safety: Option<SetId>,
    },
    /// Nothing was done: the set does not hold this path.
    Missing {
        /// Which.
        path: BytePath,
        /// The set that holds it and is nearest in time.
        nearest: Option<SetId>,
    },
}
