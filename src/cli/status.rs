//! `status`: where this machine stands.

use super::machine::Machine;
use super::{CliError, Context, Exit};
use crate::clock;
use crate::history::status::{self, StatusEnv, StatusOptions};
use crate::history::{ProcessTag, last_at_work};

/// Show the last sync, how it ended and what to do next
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {}

/// Sessions that are looked at: one that found another at work is not how things stand.
const LOOKED_AT: usize = 50;

/// Prints the status.
///
/// # Errors
/// If the history cannot be read.
pub fn run(_args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let machine = Machine::look(context, LOOKED_AT)?;
    let look = StatusEnv {
        last: last_at_work(&machine.rows),
        now: clock::system()(),
        alive: &ProcessTag::is_alive,
        lock_holder: machine.lock_holder.as_deref(),
        markers: &machine.markers,
    };
    status::run(&StatusOptions { json: context.global.json }, &look, context.out)?;
    machine.tell_what_is_missing(context)?;
    Ok(Exit::Completed)
}
