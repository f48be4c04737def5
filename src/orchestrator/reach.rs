//! How the orchestrator gets at the two machines: the real way in [`crate::remote`], a modelled one in tests.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{Hostname, Machine, ModuleError, TargetMachine};
use tokio_util::sync::CancellationToken;

/// Reaches both machines, in the order of rulings 12.
#[async_trait]
pub trait Reach: Send + Sync {
    /// Starts our own agent.
    ///
    /// # Errors
    /// If it cannot get its rights (exit 3).
    async fn source(&self, cancel: &CancellationToken) -> Result<Machine, ModuleError>;

    /// Connects to the target, puts our program there if it is missing, and starts its agent.
    ///
    /// # Errors
    /// If it is unreachable (exit 4), refuses sudo, or has a newer version (exit 3).
    async fn target(&self, cancel: &CancellationToken) -> Result<TargetMachine, ModuleError>;

    /// Makes the program that was put on the target the installed one. Called after the pre sets; returns what changed.
    ///
    /// # Errors
    /// If it cannot be installed; the sync goes on with the one that runs.
    async fn activate(&self) -> Result<Vec<String>, ModuleError>;

    /// Tries whether a new login to the target works without a question; `None` where there is no such thing.
    async fn fresh_login(&self) -> Option<Result<(), String>> {
        None
    }

    /// Resolves when a machine is lost.
    async fn lost(&self) -> ModuleError;

    /// Ends agents and connection, within `grace`. Nothing of ours runs on either machine afterwards.
    async fn close(&self, grace: Duration);

    /// Returns who sits here.
    fn user(&self) -> String;

    /// Returns the name of this machine.
    fn own_name(&self) -> Hostname;
}

/// A reach behind a pointer.
pub type SharedReach = Arc<dyn Reach>;
