//! `agent`: the elevated half, started by the front through sudo. Not for people.

use std::path::{Path, PathBuf};

use pc_switcher_agent::linux::services::{AgentOptions, HistoryKeeper, main};

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
    let options = AgentOptions::new(env!("CARGO_PKG_VERSION"), Box::new(Rows));
    main(options).map(|()| Exit::Completed).map_err(CliError::Failed)
}

/// The machine's history, in the same form as a user's own.
struct Rows;

impl HistoryKeeper for Rows {
    fn put(&self, state_dir: &Path, row: &[u8]) -> Result<(), String> {
        let row: SessionRow =
            serde_json::from_slice(row).map_err(|error| format!("not a row of history: {error}"))?;
        let mut store = Store::open(&database(state_dir)).map_err(|error| error.to_string())?;
        store.begin(&row).map_err(|error| error.to_string())
    }

    fn list(&self, state_dir: &Path, count: usize) -> Result<Vec<Vec<u8>>, String> {
        let store = Store::open_existing(&database(state_dir)).map_err(|error| error.to_string())?;
        let rows = store.map(|store| store.list(count)).transpose().map_err(|error| error.to_string())?;
        let encoded = rows.unwrap_or_default().iter().map(serde_json::to_vec).collect::<Result<_, _>>();
        encoded.map_err(|error| error.to_string())
    }
}

fn database(state_dir: &Path) -> PathBuf {
    state_dir.join("history.db")
}
