//! Typed errors: what, on which host, what to try.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::gate::GateKind;
use crate::ids::Hostname;

/// Something that validation found and the user must mend first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The machine it was found on, if on one.
    pub hostname: Option<Hostname>,
    /// What is wrong: a lower-case fragment without a period.
    pub message: String,
    /// The exact fix, if there is one.
    pub hint: Option<String>,
}

impl Problem {
    /// Makes a problem of the given machine.
    pub fn on(hostname: &Hostname, message: impl Into<String>) -> Self {
        Self { hostname: Some(hostname.clone()), message: message.into(), hint: None }
    }

    /// Makes a problem of no machine in particular.
    pub fn general(message: impl Into<String>) -> Self {
        Self { hostname: None, message: message.into(), hint: None }
    }

    /// Adds the fix.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(hostname) = &self.hostname {
            write!(f, "{hostname}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// What sort of failure ended a module; the exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The work could not be done.
    Failed,
    /// Too little disk space, now or in the forecast.
    DiskSpace,
    /// A gate stayed shut.
    Refused(GateKind),
    /// The problems that validation found.
    Invalid,
    /// The other machine did not answer any more.
    Unreachable,
    /// Another sync holds a lock.
    Busy,
    /// The user asked to stop.
    Cancelled,
    /// What was asked for makes no sense, for example a sync of a machine with itself.
    Usage,
    /// The target took the sync back by itself.
    RolledBack,
}

/// Why a module could not go on.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct ModuleError {
    /// The sort of failure.
    pub kind: ErrorKind,
    /// What failed and on which host: a lower-case fragment without a period.
    pub message: String,
    /// What to try next, one sentence each.
    pub hints: Vec<String>,
    /// The cause below.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ModuleError {
    /// Makes an error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new(), source: None }
    }

    /// Makes an error of kind [`ErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// Makes the error of a module that stopped because it was asked to.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "stopped on request")
    }

    /// Adds what to try next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}

impl From<ExecError> for ModuleError {
    fn from(error: ExecError) -> Self {
        let kind = match &error {
            ExecError::Transport { .. } => ErrorKind::Unreachable,
            ExecError::Cancelled => ErrorKind::Cancelled,
            ExecError::NoSpace { .. } => ErrorKind::DiskSpace,
            _ => ErrorKind::Failed,
        };
        ModuleError::new(kind, error.to_string())
    }
}

/// Why a command or a call to an agent gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum ExecError {
    /// The program could not be started.
    #[error("{hostname}: cannot start `{program}`: {why}")]
    Spawn {
        /// Where.
        hostname: String,
        /// The program.
        program: String,
        /// The system's word.
        why: String,
    },
    /// The connection broke; what the other side did is not known (ssh's own exit 255 included).
    #[error("{hostname}: the connection is lost: {why}")]
    Transport {
        /// Where.
        hostname: String,
        /// What was seen.
        why: String,
    },
    /// No answer in time.
    #[error("{hostname}: `{what}` did not answer within {seconds} s")]
    Timeout {
        /// Where.
        hostname: String,
        /// The command or call.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// The program or the agent said no.
    #[error("{hostname}: {what}: {why}")]
    Failed {
        /// Where.
        hostname: String,
        /// The command or call.
        what: String,
        /// Its words.
        why: String,
    },
    /// The disk is full.
    #[error("{hostname}: {what}: no space left on the disk")]
    NoSpace {
        /// Where.
        hostname: String,
        /// The call.
        what: String,
    },
    /// A limit or rule of the protocol was broken.
    #[error("{hostname}: protocol error: {why}")]
    Protocol {
        /// Where.
        hostname: String,
        /// The rule.
        why: String,
    },
    /// The caller gave up.
    #[error("stopped on request")]
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_what_and_how_to_mend_it() {
        let host = "desk".parse().unwrap();
        let problem = Problem::on(&host, "`/.snapshots` is missing").hint("mkdir /.snapshots");
        assert_eq!(problem.to_string(), "desk: `/.snapshots` is missing (mkdir /.snapshots)");
    }

    #[test]
    fn a_lost_connection_stays_a_lost_connection_for_the_exit_code() {
        let lost = ExecError::Transport { hostname: "desk".into(), why: "exit 255".into() };
        assert_eq!(ModuleError::from(lost).kind, ErrorKind::Unreachable);
    }
}
