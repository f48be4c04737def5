//! `history`: past sessions, newest first.

use super::{CliError, Context, Exit};
use crate::history::history_cmd::{self, HistoryEnv, HistoryOptions};
use crate::history::{ProcessTag, Store};
use crate::paths;

/// List past sessions, the newest first
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How many to show
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20)]
    pub count: usize,
}

/// Prints the list.
///
/// # Errors
/// If the history cannot be read.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let store = Store::open_existing(&paths::history_db(&context.env)?)?;
    let look = HistoryEnv { store: store.as_ref(), alive: &ProcessTag::is_alive };
    let options = HistoryOptions { json: context.global.json, count: args.count };
    history_cmd::run(&options, &look, context.out)?;
    Ok(Exit::Completed)
}
