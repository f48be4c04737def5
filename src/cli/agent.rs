//! `agent`: the elevated half, started by the front through sudo. Not for people.

use std::path::Path;

use pc_switcher_agent::linux::services::{AgentOptions, main, redo_alone};
use pc_switcher_agent::proto::RedoneHow;

use super::{CliError, Context, Exit};
use crate::history::{SessionRow, Store};

/// Serve a front on standard input and output
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Bring syncs that were cut off to their end instead, for the boot
    #[arg(long)]
    redo: bool,
}

/// Serves until the front is gone.
///
/// # Errors
/// If the front broke the protocol or fell silent, or a redo is not possible.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let options = AgentOptions::new(env!("CARGO_PKG_VERSION"), Box::new(store_row));
    if args.redo {
        return redo(&options, context);
    }
    main(options).map(|()| Exit::Completed).map_err(CliError::Failed)
}

/// Says what became of syncs that were cut off; the next sync says it again.
fn redo(options: &AgentOptions, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let results = redo_alone(options).map_err(|error| CliError::Failed(error.to_string()))?;
    let mut exit = Exit::Completed;
    for result in results.unwrap_or_default() {
        writeln!(context.err, "{}", result.explain())?;
        for conflict in &result.report.conflicts {
            writeln!(context.err, "`{}` was left as it is: {}", conflict.path, conflict.why)?;
        }
        if matches!(result.how, RedoneHow::Pending(_)) {
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

/// Puts a row that the front sent into this machine's history.
fn store_row(state_dir: &Path, bytes: &[u8]) -> Result<(), String> {
    let row: SessionRow =
        serde_json::from_slice(bytes).map_err(|error| format!("not a row of history: {error}"))?;
    let mut store = Store::open(&state_dir.join("history.db")).map_err(|error| error.to_string())?;
    store.begin(&row).map_err(|error| error.to_string())
}
