//! The orchestrator's own voice.

use std::sync::Arc;

use pc_switcher_contract::{
    EventKind, Hostname, LogLevel, ModuleName, ModuleResult, Plan, Reporter, SessionState, SnapshotSet,
};
use serde_json::{Map, Value};

use super::bus::EventBus;

/// Logs as `core` and says how the session goes. Only made by [`EventBus::core`]; no module gets one.
#[derive(Clone)]
pub struct CoreLog {
    bus: Arc<EventBus>,
    hostname: Hostname,
}

impl CoreLog {
    pub(super) fn new(bus: Arc<EventBus>, hostname: Hostname) -> Self {
        Self { bus, hostname }
    }

    /// Returns the same voice for things that happened on another machine.
    #[must_use]
    pub fn on(&self, hostname: &Hostname) -> Self {
        Self { bus: self.bus.clone(), hostname: hostname.clone() }
    }

    /// Shows what a module would do.
    pub fn plan(&self, module: ModuleName, plan: Plan) {
        self.bus.emit_any(EventKind::Plan { module, plan });
    }

    /// Returns the stream it speaks to.
    pub fn bus(&self) -> &Arc<EventBus> {
        &self.bus
    }

    /// Makes the voice of a module on this stream.
    pub fn reporter(&self, module: ModuleName) -> Reporter {
        Reporter::new(module, self.bus.clone())
    }

    /// Logs a line with structured context.
    pub fn log_with(&self, level: LogLevel, message: impl Into<String>, context: Map<String, Value>) {
        let message = message.into();
        self.bus.emit_any(EventKind::Log {
            level,
            module: ModuleName::literal("core"),
            hostname: self.hostname.clone(),
            message: if message.is_empty() { "(no text)".to_owned() } else { message },
            context,
        });
    }

    /// Logs a line.
    pub fn log(&self, level: LogLevel, message: impl Into<String>) {
        self.log_with(level, message, Map::new());
    }

    /// Logs for whoever mends the program.
    pub fn debug(&self, message: impl Into<String>) {
        self.log(LogLevel::Debug, message);
    }

    /// Logs a detail.
    pub fn full(&self, message: impl Into<String>) {
        self.log(LogLevel::Full, message);
    }

    /// Logs what a user wants to know.
    pub fn info(&self, message: impl Into<String>) {
        self.log(LogLevel::Info, message);
    }

    /// Logs what a user should look at.
    pub fn warning(&self, message: impl Into<String>) {
        self.log(LogLevel::Warning, message);
    }

    /// Logs an error: the session will be FAILED.
    pub fn error(&self, message: impl Into<String>) {
        self.log(LogLevel::Error, message);
    }

    /// Logs the failure that ends the run; once per run.
    pub fn critical(&self, message: impl Into<String>) {
        self.log(LogLevel::Critical, message);
    }

    /// Says that the session began.
    pub fn started(&self, target: impl Into<String>, modules: Vec<ModuleName>, dry_run: bool) {
        let source = self.hostname.clone();
        self.bus.emit_any(EventKind::Started { source, target: target.into(), modules, dry_run });
    }

    /// Says by which name the target goes.
    pub fn connected(&self, target: Hostname) {
        self.bus.emit_any(EventKind::Connected { target });
    }

    /// Says that the session is in a new state.
    pub fn state(&self, state: SessionState) {
        self.bus.emit_any(EventKind::State { state });
    }

    /// Says that a stage began.
    pub fn stage(&self, stage: impl Into<String>) {
        self.bus.emit_any(EventKind::Stage { stage: stage.into() });
    }

    /// Says that a set was taken.
    pub fn snapshots(&self, set: SnapshotSet) {
        self.bus.emit_any(EventKind::Snapshots { set });
    }

    /// Says what became of a module.
    pub fn module(&self, module: ModuleName, result: ModuleResult, summary: impl Into<String>) {
        self.bus.emit_any(EventKind::Module { module, result, summary: summary.into() });
    }

    /// Says that the session is over.
    pub fn ended(&self, state: SessionState, exit_code: u8) {
        self.bus.emit_any(EventKind::Ended { state, exit_code });
    }
}
