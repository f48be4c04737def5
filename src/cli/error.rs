//! How a command ends: the only place that knows exit codes (`docs/exit-codes.md`).

use std::io::{self, Write};

use pc_switcher_contract::{ErrorKind, ModuleError};
use thiserror::Error;

use crate::config::{ConfigErrors, ConfigProblem};
use crate::history::HistoryError;
use crate::paths::NoHome;

/// How a run ended, as the shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// 0: all done, warnings allowed.
    Completed,
    /// 1: something failed.
    Failed,
    /// 2: the command line or the config is wrong.
    Usage,
    /// 3: validation found problems.
    Invalid,
    /// 4: the target does not answer.
    Unreachable,
    /// 5: another sync runs.
    Busy,
    /// 6: too little disk space.
    DiskSpace,
    /// 7: a safety gate stayed shut.
    Refused,
    /// 8: the machine was rolled back without being asked.
    RolledBack,
    /// 130: the user stopped it.
    Aborted,
}

impl Exit {
    /// All of them, the one that counts first if several apply.
    pub const BY_WEIGHT: [Exit; 10] = [
        Exit::Aborted,
        Exit::RolledBack,
        Exit::DiskSpace,
        Exit::Refused,
        Exit::Busy,
        Exit::Unreachable,
        Exit::Invalid,
        Exit::Usage,
        Exit::Failed,
        Exit::Completed,
    ];

    /// Returns the number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Completed => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Invalid => 3,
            Exit::Unreachable => 4,
            Exit::Busy => 5,
            Exit::DiskSpace => 6,
            Exit::Refused => 7,
            Exit::RolledBack => 8,
            Exit::Aborted => 130,
        }
    }

    /// Returns what a failure of that kind ends with.
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Failed => Exit::Failed,
            ErrorKind::DiskSpace => Exit::DiskSpace,
            ErrorKind::Refused(_) => Exit::Refused,
            ErrorKind::Invalid => Exit::Invalid,
            ErrorKind::Unreachable => Exit::Unreachable,
            ErrorKind::Busy => Exit::Busy,
            ErrorKind::Cancelled => Exit::Aborted,
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::RolledBack => Exit::RolledBack,
        }
    }

    /// Returns the one that counts if several apply.
    pub fn gravest(all: impl IntoIterator<Item = Exit>) -> Exit {
        let all: Vec<Exit> = all.into_iter().collect();
        Exit::BY_WEIGHT.into_iter().find(|exit| all.contains(exit)).unwrap_or(Exit::Completed)
    }
}

/// Why a command could not do what it should.
#[derive(Debug, Error)]
pub enum CliError {
    /// The config or the flags that speak about it.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The command line.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do instead.
        help: Option<String>,
    },
    /// A machine could not be reached or refused something.
    #[error(transparent)]
    Machine(#[from] ModuleError),
    /// Something that is protected would be lost.
    #[error("{message}")]
    Refused {
        /// What is protected, and why.
        message: String,
        /// What to do first.
        help: Option<String>,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl From<NoHome> for CliError {
    fn from(error: NoHome) -> Self {
        CliError::Usage { message: error.to_string(), help: None }
    }
}

impl From<HistoryError> for CliError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Output(error) => CliError::Output(error),
            HistoryError::UnknownSession { id, hint } => {
                CliError::Usage { message: format!("no log of session `{id}`"), help: Some(hint) }
            }
            other => match std::error::Error::source(&other) {
                Some(cause) => CliError::Failed(format!("{other}: {cause}")),
                None => CliError::Failed(other.to_string()),
            },
        }
    }
}

impl CliError {
    /// Returns how the command ends. A reader that closed its pipe has seen enough: that is no failure.
    pub fn exit(&self) -> Exit {
        match self {
            CliError::Config(_) | CliError::Usage { .. } => Exit::Usage,
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Completed,
            CliError::Machine(error) => Exit::of(error.kind),
            CliError::Refused { .. } => Exit::Refused,
            CliError::Failed(_) | CliError::Output(_) => Exit::Failed,
        }
    }

    /// Writes the error for people; says nothing about a closed pipe.
    pub fn write(&self, err: &mut dyn Write, colour: bool) -> io::Result<()> {
        match self {
            CliError::Config(errors) => {
                errors.0.iter().try_for_each(|problem| write_problem(err, "error", problem, colour))
            }
            CliError::Usage { message, help } => {
                let problem = ConfigProblem { help: help.clone(), ..ConfigProblem::general(message) };
                write_problem(err, "error", &problem, colour)
            }
            CliError::Refused { message, help } => {
                // Several that are wrong are told one by one.
                let mut lines = message.split('\n').peekable();
                while let Some(line) = lines.next() {
                    let help = help.clone().filter(|_| lines.peek().is_none());
                    write_problem(
                        err,
                        "error",
                        &ConfigProblem { help, ..ConfigProblem::general(line) },
                        colour,
                    )?;
                }
                Ok(())
            }
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            CliError::Machine(error) => {
                let help = (!error.hints.is_empty()).then(|| error.hints.join("; "));
                let problem = ConfigProblem { help, ..ConfigProblem::general(error.to_string()) };
                write_problem(err, "error", &problem, colour)
            }
            other => write_problem(err, "error", &ConfigProblem::general(other.to_string()), colour),
        }
    }
}

/// Writes one problem under its heading: `error`, `warning` or `note`.
pub fn write_problem(
    err: &mut dyn Write,
    heading: &str,
    problem: &ConfigProblem,
    colour: bool,
) -> io::Result<()> {
    let code = match heading {
        "error" => "1;31",
        "warning" => "1;33",
        _ => "1;36",
    };
    match colour {
        true => writeln!(err, "\x1b[{code}m{heading}:\x1b[0m {problem}"),
        false => writeln!(err, "{heading}: {problem}"),
    }
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::GateKind;

    use super::*;

    #[test]
    fn every_code_is_the_one_in_the_documents() {
        let page = include_str!("../../docs/exit-codes.md");
        for exit in Exit::BY_WEIGHT {
            assert!(page.contains(&format!("| {} |", exit.code())), "{exit:?}");
        }
        let codes: std::collections::BTreeSet<u8> = Exit::BY_WEIGHT.into_iter().map(Exit::code).collect();
        assert_eq!(codes.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]);
    }

    #[test]
    fn if_several_apply_the_order_of_the_documents_decides() {
        let gravest = |all: &[Exit]| Exit::gravest(all.iter().copied()).code();
        assert_eq!(gravest(&[Exit::Failed, Exit::Invalid, Exit::DiskSpace]), 6);
        assert_eq!(gravest(&[Exit::Refused, Exit::Busy, Exit::Aborted]), 130);
        assert_eq!(gravest(&[Exit::RolledBack, Exit::DiskSpace]), 8);
        assert_eq!(gravest(&[Exit::Unreachable, Exit::Busy]), 5);
        assert_eq!(gravest(&[]), 0);
    }

    #[test]
    fn every_kind_of_failure_has_its_code() {
        assert_eq!(Exit::of(ErrorKind::Refused(GateKind::LockOut)).code(), 7);
        assert_eq!(Exit::of(ErrorKind::Cancelled).code(), 130);
        assert_eq!(Exit::of(ErrorKind::Invalid).code(), 3);
        assert_eq!(Exit::of(ErrorKind::RolledBack).code(), 8);
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_leaves_no_word() {
        let error = CliError::Output(io::ErrorKind::BrokenPipe.into());
        let mut said = Vec::new();
        error.write(&mut said, false).unwrap();
        assert_eq!((error.exit(), said.len()), (Exit::Completed, 0));
    }
}
