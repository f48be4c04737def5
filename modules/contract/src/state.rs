//! The session's seven states and the one function that changes them.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where a session stands. Every ending passes [`SessionState::Cleanup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SessionState {
    /// Config is read, locks are taken, the target is reached.
    Initializing,
    /// All modules look for problems; nothing changes.
    Validating,
    /// Snapshots, modules, verification.
    Executing,
    /// Monitors stop, the running module is aborted, locks are freed.
    Cleanup,
    /// All that was asked for is done.
    Completed,
    /// The user stopped it.
    Aborted,
    /// Something failed or an ERROR was logged.
    Failed,
}

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Both machines are reached and locked.
    Initialized,
    /// No module found a problem.
    Validated,
    /// The work is over, or something ended it early.
    Stop,
    /// Cleanup is over and this is the verdict.
    End(Ending),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Ending {
    /// All modules fine, no ERROR logged.
    Completed,
    /// The user asked to stop.
    Aborted,
    /// A failure or an ERROR log.
    Failed,
}

/// A step that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a session in state {from} cannot take the step {step:?}")]
pub struct IllegalTransition {
    /// The state it was in.
    pub from: SessionState,
    /// The step that was tried.
    pub step: Step,
}

impl SessionState {
    /// Returns the state after `step`: the only way a state changes.
    pub fn next(self, step: Step) -> Result<SessionState, IllegalTransition> {
        use SessionState::{Aborted, Cleanup, Completed, Executing, Failed, Initializing, Validating};
        match (self, step) {
            (Initializing, Step::Initialized) => Ok(Validating),
            (Validating, Step::Validated) => Ok(Executing),
            (Initializing | Validating | Executing, Step::Stop) => Ok(Cleanup),
            (Cleanup, Step::End(Ending::Completed)) => Ok(Completed),
            (Cleanup, Step::End(Ending::Aborted)) => Ok(Aborted),
            (Cleanup, Step::End(Ending::Failed)) => Ok(Failed),
            (from, step) => Err(IllegalTransition { from, step }),
        }
    }

    /// Whether the session is over.
    pub fn is_terminal(self) -> bool {
        matches!(self, SessionState::Completed | SessionState::Aborted | SessionState::Failed)
    }

    /// Returns the name as it is logged, for example `EXECUTING`.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionState::Initializing => "INITIALIZING",
            SessionState::Validating => "VALIDATING",
            SessionState::Executing => "EXECUTING",
            SessionState::Cleanup => "CLEANUP",
            SessionState::Completed => "COMPLETED",
            SessionState::Aborted => "ABORTED",
            SessionState::Failed => "FAILED",
        }
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ModuleResult {
    /// It did its work.
    Success,
    /// It wrote nothing: disabled, not reached, or nothing it could do here.
    Skipped,
    /// It failed or was stopped in the middle.
    Failed,
}

impl ModuleResult {
    /// Returns the name as it is logged, for example `SUCCESS`.
    pub fn as_str(self) -> &'static str {
        match self {
            ModuleResult::Success => "SUCCESS",
            ModuleResult::Skipped => "SKIPPED",
            ModuleResult::Failed => "FAILED",
        }
    }
}

impl fmt::Display for ModuleResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [SessionState; 7] = [
        SessionState::Initializing,
        SessionState::Validating,
        SessionState::Executing,
        SessionState::Cleanup,
        SessionState::Completed,
        SessionState::Aborted,
        SessionState::Failed,
    ];
    const STEPS: [Step; 6] = [
        Step::Initialized,
        Step::Validated,
        Step::Stop,
        Step::End(Ending::Completed),
        Step::End(Ending::Aborted),
        Step::End(Ending::Failed),
    ];

    #[test]
    fn exactly_eight_transitions_are_legal() {
        let legal =
            STATES.iter().flat_map(|s| STEPS.iter().map(|t| s.next(*t))).filter(Result::is_ok).count();
        assert_eq!(legal, 8);
    }

    #[test]
    fn a_terminal_state_is_reached_only_from_cleanup() {
        for state in STATES {
            for step in STEPS {
                if let Ok(next) = state.next(step) {
                    assert_eq!(next.is_terminal(), state == SessionState::Cleanup, "{state} {step:?}");
                }
            }
        }
    }
}
