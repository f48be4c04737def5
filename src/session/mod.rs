//! The state of one sync and its report.
//!
//! [`SyncSession`] only holds; who runs a sync tells it what happened. Its state changes through
//! [`SessionState::next`] alone. [`Report`] is made of it in a pure function.

mod report;
pub mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use pc_switcher_contract::{
    Hostname, IllegalTransition, ModuleName, ModuleResult, SessionId, SessionState, SnapshotSet, Step,
};
use serde::{Deserialize, Serialize};

pub use self::report::{Block, Closing, Failure, Report};

/// One sync, from the first line of its log to its report (seed rows D201–D210, D226, D227).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncSession {
    /// Eight hex digits.
    pub id: SessionId,
    /// When it began, UTC.
    pub started: Timestamp,
    /// When it was over, UTC.
    pub ended: Option<Timestamp>,
    /// The machine the user sits at, by its own name.
    pub source_hostname: Hostname,
    /// The machine the user moves to, by its own name; `None` until it said it.
    pub target_hostname: Option<Hostname>,
    /// What the user typed for the target.
    pub target: String,
    /// Modules in the order in which they run.
    pub enabled_modules: Vec<ModuleName>,
    /// What became of each module so far.
    pub module_results: BTreeMap<ModuleName, ModuleResult>,
    /// One line for people per module.
    pub summaries: BTreeMap<ModuleName, String>,
    /// Whether an ERROR was logged.
    pub has_errors: bool,
    /// Whether the user asked to stop.
    pub abort_requested: bool,
    /// The front's own lock.
    pub lock_path: Option<PathBuf>,
    /// Sets taken so far, in order.
    pub snapshots: Vec<SnapshotSet>,
    /// Whether folders of the target are in none of these.
    #[serde(default)]
    pub without_snapshots: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
    state: SessionState,
}

impl SyncSession {
    /// Begins a session in state INITIALIZING.
    pub fn new(
        id: SessionId,
        started: Timestamp,
        source_hostname: Hostname,
        target: impl Into<String>,
        enabled_modules: Vec<ModuleName>,
    ) -> Self {
        Self {
            id,
            started,
            ended: None,
            source_hostname,
            target_hostname: None,
            target: target.into(),
            enabled_modules,
            module_results: BTreeMap::new(),
            summaries: BTreeMap::new(),
            has_errors: false,
            abort_requested: false,
            lock_path: None,
            snapshots: Vec::new(),
            without_snapshots: false,
            dry_run: false,
            state: SessionState::Initializing,
        }
    }

    /// Returns where it stands.
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// Takes a step and returns the new state.
    ///
    /// # Errors
    /// If the state does not allow the step; it stays as it was.
    pub fn step(&mut self, step: Step) -> Result<SessionState, IllegalTransition> {
        self.state = self.state.next(step)?;
        Ok(self.state)
    }

    /// Notes what became of a module. A failure is never taken back; what a bracket says of its phases is one list.
    pub fn record(&mut self, module: ModuleName, result: ModuleResult, summary: impl Into<String>) {
        if self.module_results.get(&module) == Some(&ModuleResult::Failed) {
            return;
        }
        let (said, summary) = (self.summaries.entry(module.clone()).or_default(), summary.into());
        *said = match (self.module_results.get(&module), result) {
            (Some(ModuleResult::Success), ModuleResult::Success) if !said.is_empty() => {
                format!("{said}, {summary}")
            }
            _ => summary,
        };
        self.module_results.insert(module, result);
    }

    /// Notes SKIPPED for every module that has no result yet (rulings 11).
    pub fn skip_rest(&mut self, why: &str) {
        for module in self.enabled_modules.clone() {
            if !self.module_results.contains_key(&module) {
                self.record(module, ModuleResult::Skipped, why);
            }
        }
    }

    /// Returns the target by its own name, or as the user typed it until that is known.
    pub fn target_name(&self) -> &str {
        self.target_hostname.as_ref().map_or(&self.target, |name| name.as_str())
    }

    /// Returns modules with their results: the enabled ones in order, then others (brackets) that have one.
    pub fn results(&self) -> Vec<(&ModuleName, ModuleResult)> {
        let others = self.module_results.keys().filter(|name| !self.enabled_modules.contains(name));
        let all = self.enabled_modules.iter().chain(others);
        all.filter_map(|name| Some((name, *self.module_results.get(name)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_contract::Ending;

    pub(super) fn session() -> SyncSession {
        SyncSession::new(
            "abc12345".parse().unwrap(),
            "2025-11-15T12:00:00Z".parse().unwrap(),
            "laptop".parse().unwrap(),
            "desk.local",
            ["packages", "user-data", "docker"].map(|name| name.parse().unwrap()).into(),
        )
    }

    #[test]
    fn it_reads_what_it_wrote_in_every_state() {
        let mut session = session();
        let steps = [Step::Initialized, Step::Validated, Step::Stop, Step::End(Ending::Failed)];
        for step in steps {
            session.step(step).unwrap();
            session.record("user-data".parse().unwrap(), ModuleResult::Failed, "disk full");
            let text = serde_json::to_string(&session).unwrap();
            assert_eq!(serde_json::from_str::<SyncSession>(&text).unwrap(), session);
        }
        let text = serde_json::to_value(&session).unwrap();
        assert_eq!(text["state"], "FAILED");
        assert_eq!(text["module_results"]["user-data"], "FAILED");
        assert_eq!(text["started"], "2025-11-15T12:00:00Z");
    }

    #[test]
    fn an_illegal_step_changes_nothing() {
        let mut session = session();
        assert!(session.step(Step::End(Ending::Completed)).is_err());
        assert_eq!(session.state(), SessionState::Initializing);
    }

    #[test]
    fn a_failure_stays_and_the_rest_is_skipped_in_order() {
        let mut session = session();
        session.record("packages".parse().unwrap(), ModuleResult::Failed, "no network");
        session.record("packages".parse().unwrap(), ModuleResult::Success, "");
        session.skip_rest("not reached");
        let results: Vec<_> = session.results().iter().map(|(n, r)| format!("{n} {r}")).collect();
        assert_eq!(results, ["packages FAILED", "user-data SKIPPED", "docker SKIPPED"]);
    }
}
