//! What is remembered of a session, as plain data.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pc_switcher_contract::{ModuleName, ModuleResult, Role, SessionId, SessionState, SnapshotSet};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::process::ProcessTag;

/// One session in the history of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Eight hex digits.
    pub id: SessionId,
    /// When it began, UTC.
    pub started: Timestamp,
    /// When it was over, UTC; `None` while it runs and for ever if it died.
    pub ended: Option<Timestamp>,
    /// The part that this machine had.
    pub role: Role,
    /// The machine the user sat at.
    pub source_hostname: String,
    /// The machine the user moved to; as typed, until it said its name.
    pub target_hostname: String,
    /// What was typed for it, which is what the source's ssh knows it by; `None` in a history of an older version.
    #[serde(default)]
    pub target_typed: Option<String>,
    /// The last state that was stored.
    pub state: SessionState,
    /// The exit code, once it is over.
    pub exit_code: Option<u8>,
    /// Modules in the order in which they run.
    pub enabled_modules: Vec<ModuleName>,
    /// What became of each module.
    pub module_results: BTreeMap<ModuleName, ModuleResult>,
    /// Sets that were taken.
    pub snapshots: Vec<SnapshotSet>,
    /// Number of warnings.
    pub warnings: u64,
    /// Number of errors.
    pub errors: u64,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// The resolved config, without secrets (facts/ssh.md S68).
    pub config: String,
    /// The final report.
    pub report: Option<Value>,
    /// Who runs it on this machine.
    pub process: Option<ProcessTag>,
}

/// How a remembered session stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It runs.
    Running(SessionState),
    /// Its process is gone, and it has no ending.
    Interrupted(SessionState),
    /// It is over.
    Ended(SessionState),
}

impl SessionRow {
    /// Says how the session stands; `alive` tells whether a process still lives.
    pub fn fate(&self, alive: &dyn Fn(&ProcessTag) -> bool) -> Fate {
        match self.state {
            state if state.is_terminal() => Fate::Ended(state),
            state if self.process.as_ref().is_some_and(alive) => Fate::Running(state),
            state => Fate::Interrupted(state),
        }
    }
}

impl SessionRow {
    /// Says in one word how the session ended: as its fate says, or `rolled back`.
    pub fn ending(&self, alive: &dyn Fn(&ProcessTag) -> bool) -> &'static str {
        if self.is_rolled_back() { "rolled back" } else { self.fate(alive).as_str() }
    }

    /// Returns the target as the source's ssh knows it.
    pub fn target_for_ssh(&self) -> &str {
        self.target_typed.as_deref().unwrap_or(&self.target_hostname)
    }

    /// Whether it did nothing, since another sync was at work.
    pub fn was_busy(&self) -> bool {
        self.exit_code == Some(5)
    }

    /// Whether the target took it back by itself.
    pub fn is_rolled_back(&self) -> bool {
        self.exit_code == Some(8)
    }
}

impl Fate {
    /// Returns one word: `running`, `interrupted`, or the final state in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Fate::Running(_) => "running",
            Fate::Interrupted(_) => "interrupted",
            Fate::Ended(SessionState::Completed) => "completed",
            Fate::Ended(SessionState::Aborted) => "aborted",
            Fate::Ended(_) => "failed",
        }
    }
}
