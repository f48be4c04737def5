//! Questions that need the user's own word.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::ModuleError;

/// A safety gate. Each has exactly one flag, and no flag covers another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateKind {
    /// The two machines have no common past.
    FirstSync,
    /// Another machine synced in between.
    OutOfOrder,
    /// Something changed on the target since the last sync.
    Conflicts,
    /// The sync would delete very much.
    MassDeletion,
    /// A source folder is empty, not mounted, or another file system than last time.
    ReplacedSource,
    /// A user of the synced folders works on the target right now.
    ActiveSession,
    /// A user has different ids on the two machines.
    IdMismatch,
    /// A machine has no btrfs, so no snapshots.
    NoSnapshots,
    /// The sync would lock the user out of the target; no flag opens this one.
    LockOut,
    /// The sync would remove a vault that lies in a synced folder of the target; no flag opens this one.
    LostVault,
    /// A machine was rolled back and was not started anew; no flag opens this one.
    Rollback,
}

impl GateKind {
    /// Returns the flag that opens the gate.
    pub fn flag(self) -> Option<&'static str> {
        match self {
            GateKind::FirstSync => Some("--allow-first-sync"),
            GateKind::OutOfOrder => Some("--allow-out-of-order"),
            GateKind::Conflicts => Some("--allow-conflicts"),
            GateKind::MassDeletion => Some("--allow-mass-deletion"),
            GateKind::ReplacedSource => Some("--allow-replaced-source"),
            GateKind::ActiveSession => Some("--allow-active-session"),
            GateKind::IdMismatch => Some("--allow-id-mismatch"),
            GateKind::NoSnapshots => Some("--allow-no-snapshots"),
            GateKind::LockOut | GateKind::LostVault | GateKind::Rollback => None,
        }
    }
}

/// One question at a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Which gate.
    pub kind: GateKind,
    /// All findings in one line, if there may be many of them.
    pub summary: Option<String>,
    /// What was found, a line each, machines by hostname.
    pub findings: Vec<String>,
    /// What happens if the answer is yes: one sentence.
    pub consequence: String,
}

/// The answer at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The flag was given.
    ByFlag,
    /// The user typed yes.
    ByUser,
    /// A dry run: it only warns.
    DryRun,
}

/// Whoever may open gates: flag, then terminal, else refusal.
#[async_trait]
pub trait Gatekeeper: Send + Sync {
    /// Asks at a gate.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Refused`] if it stays shut, [`crate::ErrorKind::Cancelled`] if the user stopped the run there.
    async fn pass(&self, gate: Gate) -> Result<Answer, ModuleError>;
}
