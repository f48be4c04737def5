//! `status`: where this machine stands.

use super::{CliError, Context, Exit};
use crate::clock;
use crate::history::status::{self, StatusEnv, StatusOptions};
use crate::history::{ProcessTag, Store};
use crate::paths;

/// Show the last sync, how it ended and what to do next
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {}

/// Prints the status.
///
/// # Errors
/// If the history cannot be read.
pub fn run(_args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let store = Store::open_existing(&paths::history_db(&context.env)?)?;
    let look = StatusEnv {
        store: store.as_ref(),
        now: clock::system()(),
        alive: &ProcessTag::is_alive,
        lock_holder: None,
        markers: &[],
    };
    status::run(&StatusOptions { json: context.global.json }, &look, context.out)?;
    Ok(Exit::Completed)
}
