//! Reaching both machines: the ssh connection, executors, elevated agents.
//!
//! [`Reach`] is what the orchestrator uses. Invariant: whatever is dropped here ends what it started, on both machines;
//! nothing here reads the environment, a [`RemoteEnv`] is handed in.

mod agent_exec;
mod agent_process;
mod channel;
mod channels;
mod ciphers;
mod connection;
mod diagnose;
mod elevate;
mod env;
mod error;
mod fresh;
mod jobs;
mod launch;
mod local_executor;
mod master;
mod met;
pub mod pipe;
mod preferences;
mod reach;
mod running;
mod send_file;
mod ssh_executor;
mod ssh_options;
mod state;
mod sudo_words;
mod terminal;
mod watchdog;

pub use agent_process::{AgentProcessGuard, StartedAgent};
pub use channels::CHANNELS;
pub use connection::TargetConnection;
pub use elevate::PasswordPrompt;
pub use env::{Log, RemoteEnv};
pub use error::{ConnectError, ReachError};
pub use local_executor::LocalExecutor;
pub use reach::{PreparedTarget, Reach};
pub use ssh_executor::SshExecutor;
pub use state::{ConnectionState, ConnectionStep, IllegalStep};
