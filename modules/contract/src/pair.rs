//! The record of the last sync between two machines.

use serde::{Deserialize, Serialize};

use crate::ids::{Hostname, SessionId};
use crate::snapshot::SnapshotSet;
use crate::time::UtcStamp;

/// One machine's end of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairEnd {
    /// The name the machine gave itself.
    pub hostname: Hostname,
    /// Its machine id, which survives a new hostname.
    pub machine_id: String,
    /// The set both ends agree on: the source's pre set, the target's post set.
    pub set: SnapshotSet,
}

/// What two machines had in common after their last sync: the source's **pre** set equals the target's **post** set.
///
/// The source's post set would hide edits made on the source while the sync ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairRecord {
    /// Version of this format; another version means a full compare.
    pub format: u32,
    /// The session that wrote it.
    pub session: SessionId,
    /// When it was written.
    pub stamp: UtcStamp,
    /// The machine that was the source.
    pub source: PairEnd,
    /// The machine that was the target.
    pub target: PairEnd,
    /// Digest of the exclusion rules that were in force.
    pub rule_hash: String,
}

impl PairRecord {
    /// The format this build reads and writes.
    pub const FORMAT: u32 = 1;

    /// Returns the end of the machine with this id.
    pub fn end_of(&self, machine_id: &str) -> Option<&PairEnd> {
        [&self.source, &self.target].into_iter().find(|end| end.machine_id == machine_id)
    }
}
