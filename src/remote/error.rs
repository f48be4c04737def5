//! Why the other machine, or an agent, could not be reached.

use pc_switcher_contract::{ErrorKind, ExecError, ModuleError};
use thiserror::Error;

/// Why there is no connection. `host` is what the user typed: the machine has not said its name yet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The name means nothing.
    #[error("`{host}`: the name cannot be resolved")]
    NameNotResolved {
        /// What was typed.
        host: String,
    },
    /// Nobody answers.
    #[error("`{host}`: unreachable: {why}")]
    Unreachable {
        /// What was typed.
        host: String,
        /// ssh's words.
        why: String,
    },
    /// The machine has never been seen, and nobody could be asked.
    #[error("`{host}`: its host key is unknown")]
    HostKeyUnknown {
        /// What was typed.
        host: String,
    },
    /// The machine shows another key than before.
    #[error("`{host}`: its host key has changed")]
    HostKeyChanged {
        /// What was typed.
        host: String,
    },
    /// No key and no password was accepted.
    #[error("`{host}`: authentication refused: {why}")]
    AuthenticationRefused {
        /// What was typed.
        host: String,
        /// ssh's words.
        why: String,
    },
    /// The ssh client could not be used.
    #[error("`{host}`: ssh failed: {why}")]
    Ssh {
        /// What was typed.
        host: String,
        /// Its words.
        why: String,
    },
    /// The user gave up.
    #[error("stopped on request")]
    Cancelled,
}

impl ConnectError {
    /// Returns what to try next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            ConnectError::NameNotResolved { host } => {
                format!("check the spelling, or add `Host {host}` to `~/.ssh/config`")
            }
            ConnectError::Unreachable { host, .. } => {
                format!("is the machine on and sshd running there? try `ssh {host}`")
            }
            ConnectError::HostKeyUnknown { host } => {
                format!("connect once with `ssh {host}`, compare the fingerprint and accept it")
            }
            ConnectError::HostKeyChanged { host } => format!(
                "find out why before anything else; if the machine was reinstalled, run `ssh-keygen -R {host}`"
            ),
            ConnectError::AuthenticationRefused { host, .. } => {
                format!("`ssh {host}` must work first; add your key there with `ssh-copy-id {host}`")
            }
            ConnectError::Ssh { host, .. } => format!("`ssh {host}` must work first"),
            ConnectError::Cancelled => return None,
        })
    }
}

/// Why the machines could not be made ready for a sync.
#[derive(Debug, Error)]
pub enum ReachError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// An agent cannot get the rights it needs.
    #[error("{hostname}: `{user}` cannot start the agent with sudo: {why}")]
    Sudo {
        /// Where.
        hostname: String,
        /// Who.
        user: String,
        /// sudo's words.
        why: String,
        /// What to do about it.
        hint: String,
    },
    /// The target cannot take our program.
    #[error("{hostname}: {why}")]
    Program {
        /// Where.
        hostname: String,
        /// The reason.
        why: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A command or call gave no answer.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

impl ReachError {
    /// Returns the sort of failure; the exit code follows from it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ReachError::Connect(ConnectError::Cancelled) | ReachError::Exec(ExecError::Cancelled) => {
                ErrorKind::Cancelled
            }
            ReachError::Connect(_) | ReachError::Exec(ExecError::Transport { .. }) => ErrorKind::Unreachable,
            ReachError::Sudo { .. } | ReachError::Program { .. } => ErrorKind::Invalid,
            ReachError::Exec(ExecError::NoSpace { .. }) => ErrorKind::DiskSpace,
            ReachError::Exec(_) => ErrorKind::Failed,
        }
    }

    /// Returns what to try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            ReachError::Connect(error) => error.hint(),
            ReachError::Sudo { hint, .. } => Some(hint.clone()),
            ReachError::Program { hint, .. } => hint.clone(),
            ReachError::Exec(_) => None,
        }
    }
}

impl From<ReachError> for ModuleError {
    fn from(error: ReachError) -> Self {
        let module_error = ModuleError::new(error.kind(), error.to_string());
        match error.hint() {
            Some(hint) => module_error.hint(hint),
            None => module_error,
        }
    }
}
