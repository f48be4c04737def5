//! What can go wrong in the lab: every text says what failed, on which machine, and what to try.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// Result of the lab's operations.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// An error of the lab itself, or of a checked command inside a machine.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This host cannot run the lab at all.
    #[error("this host cannot run the lab: {why}")]
    Unavailable {
        /// What is missing, and how to get it.
        why: String,
    },
    /// A name, path or number that the lab does not take.
    #[error("{what}")]
    Invalid {
        /// The value and the rule.
        what: String,
    },
    /// Another process holds the lab of this name.
    #[error(
        "lab `{name}` is in use by another process; `lab down --name {name}` ends it, another name runs beside it"
    )]
    InUse {
        /// Name of the lab.
        name: String,
    },
    /// No lab of this name runs.
    #[error("lab `{name}` is not running; `lab up --name {name}` starts it")]
    NotUp {
        /// Name of the lab.
        name: String,
    },
    /// The machine is switched off.
    #[error("machine `{machine}` is switched off; boot it first")]
    Off {
        /// Name of the machine.
        machine: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {waited:?}{detail}")]
    NotReady {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// End of the machine's console, or empty.
        detail: String,
    },
    /// A tool of the host failed.
    #[error("`{command}` failed on the host ({status}): {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A checked command inside a machine failed.
    #[error("`{command}` failed on `{machine}` ({status}): {stderr}")]
    Command {
        /// Name of the machine.
        machine: String,
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A command inside a machine outlived its timeout and was killed.
    #[error("`{command}` on `{machine}` was killed after {after:?}; it had said: {said}")]
    TimedOut {
        /// Name of the machine.
        machine: String,
        /// The command line.
        command: String,
        /// Its timeout.
        after: Duration,
        /// Output so far, stdout and stderr.
        said: String,
    },
    /// A call of the operating system failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl LabError {
    /// Wraps an operating system error with what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Wraps an operating system error on a path with the verb that was tried.
    pub(crate) fn path(verb: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{verb} `{}`", path.into().display()))
    }
}
