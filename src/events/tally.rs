//! What is counted on the way: warnings and errors, kept for the ending and for the report.

use jiff::Timestamp;
use pc_switcher_contract::{Event, EventKind, Hostname, LogLevel, ModuleName};
use serde::{Deserialize, Serialize};

/// A warning or error that is shown again at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// When it was logged, UTC.
    pub at: Timestamp,
    /// WARNING, ERROR or CRITICAL.
    pub level: LogLevel,
    /// Who said it.
    pub module: ModuleName,
    /// Where it happened.
    pub hostname: Hostname,
    /// The text.
    pub message: String,
}

/// Counts and first texts of all that was graver than INFO.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Number of warnings.
    pub warnings: u64,
    /// Number of errors, CRITICAL included.
    pub errors: u64,
    /// The first of them, at most [`Tally::KEPT`].
    pub remembered: Vec<Remembered>,
}

impl Tally {
    /// How many texts are kept; the rest is in the log.
    pub const KEPT: usize = 100;

    /// Whether an ERROR was logged: it makes the session FAILED.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Counts one event.
    pub(super) fn count(&mut self, event: &Event) {
        let EventKind::Log { level, module, hostname, message, .. } = &event.kind else { return };
        match level {
            LogLevel::Warning => self.warnings += 1,
            LogLevel::Error | LogLevel::Critical => self.errors += 1,
            LogLevel::Debug | LogLevel::Full | LogLevel::Info => return,
        }
        // An error must not be crowded out by a hundred warnings before it.
        let room = self.remembered.len() < Self::KEPT;
        let evicted = (!room && *level > LogLevel::Warning)
            .then(|| self.remembered.iter().rposition(|kept| kept.level == LogLevel::Warning))
            .flatten();
        if let Some(index) = evicted {
            self.remembered.remove(index);
        }
        if room || evicted.is_some() {
            self.remembered.push(Remembered {
                at: event.at,
                level: *level,
                module: module.clone(),
                hostname: hostname.clone(),
                message: message.clone(),
            });
        }
    }
}
