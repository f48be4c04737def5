//! `agent`: the elevated half, started by the front through sudo. Not for people.

use std::path::Path;

use pc_switcher_agent::linux::services::{AgentOptions, main};

use super::{CliError, Exit};
use crate::history::{SessionRow, Store};

/// Serve a front on standard input and output
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {}

/// Serves until the front is gone.
///
/// # Errors
/// If the front broke the protocol or fell silent.
pub fn run(_args: &Args) -> Result<Exit, CliError> {
    let options = AgentOptions::new(env!("CARGO_PKG_VERSION"), Box::new(store_row));
    main(options).map(|()| Exit::Completed).map_err(CliError::Failed)
}

/// Puts a row that the front sent into this machine's history.
fn store_row(state_dir: &Path, bytes: &[u8]) -> Result<(), String> {
    let row: SessionRow =
        serde_json::from_slice(bytes).map_err(|error| format!("not a row of history: {error}"))?;
    let mut store = Store::open(&state_dir.join("history.db")).map_err(|error| error.to_string())?;
    store.begin(&row).map_err(|error| error.to_string())
}
