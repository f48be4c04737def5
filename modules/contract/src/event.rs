//! The one numbered stream of events from which everything visible is derived.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::{Hostname, IdError, ModuleName, SessionId};
use crate::module::Plan;
use crate::snapshot::SnapshotSet;
use crate::state::{ModuleResult, SessionState};
use crate::threshold::Fraction;

/// The six product levels with their weights.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// 10: for whoever mends the program.
    Debug,
    /// 15: every file, every progress step.
    Full,
    /// 20: what a user wants to know.
    Info,
    /// 30: done, but look at it.
    Warning,
    /// 40: makes the session FAILED.
    Error,
    /// 50: logged by the orchestrator alone, for the failure that ended the run.
    Critical,
}

impl LogLevel {
    /// All levels, lightest first.
    pub const ALL: [LogLevel; 6] = [
        LogLevel::Debug,
        LogLevel::Full,
        LogLevel::Info,
        LogLevel::Warning,
        LogLevel::Error,
        LogLevel::Critical,
    ];

    /// Returns the weight, 10 to 50.
    pub fn weight(self) -> u8 {
        match self {
            LogLevel::Debug => 10,
            LogLevel::Full => 15,
            LogLevel::Info => 20,
            LogLevel::Warning => 30,
            LogLevel::Error => 40,
            LogLevel::Critical => 50,
        }
    }

    /// Returns the name, for example `WARNING`.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "DEBUG",
            LogLevel::Full => "FULL",
            LogLevel::Info => "INFO",
            LogLevel::Warning => "WARNING",
            LogLevel::Error => "ERROR",
            LogLevel::Critical => "CRITICAL",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for LogLevel {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        LogLevel::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text)).ok_or(IdError {
            what: "log level",
            text: text.to_owned(),
            why: "one of DEBUG FULL INFO WARNING ERROR CRITICAL is wanted",
        })
    }
}

/// How far a module is. The fraction counts all of its work, validation included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Share of the module's whole work; `None` while it cannot be told.
    pub fraction: Option<Fraction>,
    /// What it does now, under 100 characters.
    pub item: String,
    /// Expected time to the end.
    pub eta: Option<Duration>,
    /// Bytes done and to do, for the rate; `None` where bytes mean nothing.
    pub bytes: Option<(u64, u64)>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum EventKind {
    /// The session began.
    Started {
        /// Name of the source machine.
        source: Hostname,
        /// What the user typed for the target.
        target: String,
        /// Modules in the order in which they run.
        modules: Vec<ModuleName>,
        /// Whether nothing will be written.
        dry_run: bool,
    },
    /// The target said its own name.
    Connected {
        /// That name.
        target: Hostname,
    },
    /// The session changed its state.
    State {
        /// The new state.
        state: SessionState,
    },
    /// A stage within a state began; tests and people wait for these lines.
    Stage {
        /// A stable kebab-case word, for example `pre-snapshots`.
        stage: String,
    },
    /// A snapshot set was taken.
    Snapshots {
        /// The set.
        set: SnapshotSet,
    },
    /// A log line.
    Log {
        /// How grave.
        level: LogLevel,
        /// Who says it; `core` is the orchestrator.
        module: ModuleName,
        /// The machine it happened on.
        hostname: Hostname,
        /// The text, never empty.
        message: String,
        /// Paths, error codes.
        context: Map<String, Value>,
    },
    /// A module is further on. The only kind that may be dropped.
    Progress {
        /// The module.
        module: ModuleName,
        /// How far.
        progress: Progress,
    },
    /// What a module would do; in dry runs.
    Plan {
        /// The module.
        module: ModuleName,
        /// Its plan.
        plan: Plan,
    },
    /// A module is done with.
    Module {
        /// The module.
        module: ModuleName,
        /// How it went.
        result: ModuleResult,
        /// A line for people, for example `1,204 files, 84 MiB`.
        summary: String,
    },
    /// The session is over.
    Ended {
        /// The final state.
        state: SessionState,
        /// The exit code.
        exit_code: u8,
    },
}

/// One entry of the stream: immutable and numbered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1, without gaps but for dropped progress.
    pub seq: u64,
    /// When it happened, UTC.
    pub at: Timestamp,
    /// The session.
    pub session: SessionId,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Where events go. The host numbers and stamps them.
pub trait Sink: Send + Sync {
    /// Takes one event; never blocks for long, never fails.
    fn emit(&self, kind: EventKind);
}

/// A module's voice: progress and log lines, already bound to its name.
#[derive(Clone)]
pub struct Reporter {
    module: ModuleName,
    sink: Arc<dyn Sink>,
}

impl Reporter {
    /// Makes the voice of `module`.
    pub fn new(module: ModuleName, sink: Arc<dyn Sink>) -> Self {
        Self { module, sink }
    }

    /// Reports how far the module is; the item is cut to 99 characters.
    pub fn progress(&self, mut progress: Progress) {
        if progress.item.chars().count() >= 100 {
            progress.item = progress.item.chars().take(98).chain(['…']).collect();
        }
        self.sink.emit(EventKind::Progress { module: self.module.clone(), progress });
    }

    /// Logs a line that happened on `hostname`. CRITICAL is the orchestrator's: it becomes ERROR here.
    pub fn log(&self, level: LogLevel, hostname: &Hostname, message: impl Into<String>) {
        self.log_with(level, hostname, message, Map::new());
    }

    /// Logs a line with structured context.
    pub fn log_with(
        &self,
        level: LogLevel,
        hostname: &Hostname,
        message: impl Into<String>,
        context: Map<String, Value>,
    ) {
        let message = message.into();
        let message = if message.is_empty() { "(no text)".to_owned() } else { message };
        self.sink.emit(EventKind::Log {
            level: level.min(LogLevel::Error),
            module: self.module.clone(),
            hostname: hostname.clone(),
            message,
            context,
        });
    }

    /// Reports a stage, for example `commit`.
    pub fn stage(&self, stage: impl Into<String>) {
        self.sink.emit(EventKind::Stage { stage: stage.into() });
    }

    /// Reports a set of snapshots.
    pub fn snapshots(&self, set: SnapshotSet) {
        self.sink.emit(EventKind::Snapshots { set });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Kept(Mutex<Vec<EventKind>>);
    impl Sink for Kept {
        fn emit(&self, kind: EventKind) {
            self.0.lock().unwrap().push(kind);
        }
    }

    #[test]
    fn a_module_cannot_log_critical() {
        let kept = Arc::new(Kept::default());
        let reporter = Reporter::new("user-data".parse().unwrap(), kept.clone());
        reporter.log(LogLevel::Critical, &"desk".parse().unwrap(), "");
        let events = kept.0.lock().unwrap();
        assert!(
            matches!(&events[0], EventKind::Log { level: LogLevel::Error, message, .. } if !message.is_empty())
        );
    }

    #[test]
    fn an_item_stays_under_a_hundred_characters() {
        let kept = Arc::new(Kept::default());
        let reporter = Reporter::new("user-data".parse().unwrap(), kept.clone());
        reporter.progress(Progress { fraction: None, item: "ä".repeat(300), eta: None, bytes: None });
        let events = kept.0.lock().unwrap();
        assert!(
            matches!(&events[0], EventKind::Progress { progress, .. } if progress.item.chars().count() < 100)
        );
    }

    #[test]
    fn levels_are_read_in_any_case_and_ordered_by_weight() {
        assert_eq!("full".parse(), Ok(LogLevel::Full));
        assert!("verbose".parse::<LogLevel>().is_err());
        assert!(LogLevel::ALL.windows(2).all(|pair| pair[0].weight() < pair[1].weight()));
    }
}
