//! `history`: past sessions, newest first.

use super::machine::Machine;
use super::{CliError, Context, Exit};
use crate::history::ProcessTag;
use crate::history::history_cmd::{self, HistoryEnv, HistoryOptions};

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
    let machine = Machine::look(context, args.count)?;
    let look = HistoryEnv { rows: &machine.rows, alive: &ProcessTag::is_alive };
    let options = HistoryOptions { json: context.global.json, count: args.count };
    history_cmd::run(&options, &look, context.out)?;
    machine.tell_what_came_back(context)?;
    machine.tell_what_is_missing(context)?;
    Ok(Exit::Completed)
}
