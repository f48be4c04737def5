//! Taking back what a sync changed, path by path.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SessionId, SnapshotSet};

use super::apply::ApplyReport;

/// Asks to take a sync back on the machine that was its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoRequest {
    /// The session of the undo itself.
    pub session: SessionId,
    /// The sync's pre set: what is gone back to. The list of steps lies with it.
    pub pre: SnapshotSet,
    /// The sync's post set: what the sync left behind.
    pub post: SnapshotSet,
    /// The state of now, which keeps what the undo replaces; without it nothing is done, and the answer says what would be.
    pub now: Option<SnapshotSet>,
}

/// What becomes of a path that is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UndoneHow {
    /// It comes back: the sync had removed it.
    Restored,
    /// It gets its old version.
    Replaced,
    /// It gets its old owner, rights, attributes or time.
    Metadata,
    /// It goes: the sync had made it.
    Removed,
}

/// What is said of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UndoWord {
    /// It is taken back.
    Undone(UndoneHow),
    /// Somebody changed it after the sync, and it stays as it is; what was found.
    Touched(String),
    /// It is out of reach of an undo, with all below it; why.
    Beyond(String),
}

/// One path, absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoLine {
    /// The path.
    pub path: BytePath,
    /// What is said of it.
    pub word: UndoWord,
}

/// How an undo ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoReport {
    /// Paths that were already what they were before the sync.
    pub already: u64,
    /// How the commit went; empty if nothing was done.
    pub commit: ApplyReport,
}
