//! `status`: where this machine stands.

use super::machine::Machine;
use super::{CliError, Context, Exit};
use crate::clock;
use crate::history::ProcessTag;
use crate::history::status::{self, StatusEnv, StatusOptions};

/// Show the last sync, how it ended and what to do next
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {}

/// Prints the status.
///
/// # Errors
/// If the history cannot be read.
pub fn run(_args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let machine = Machine::look(context, 1)?;
    let look = StatusEnv {
        last: machine.rows.first(),
        now: clock::system()(),
        alive: &ProcessTag::is_alive,
        lock_holder: machine.lock_holder.as_deref(),
        markers: &machine.markers,
    };
    status::run(&StatusOptions { json: context.global.json }, &look, context.out)?;
    machine.tell_what_is_missing(context)?;
    Ok(Exit::Completed)
}
