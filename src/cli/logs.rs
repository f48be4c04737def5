//! `logs`: the log of one session, or the list of all.

use std::cell::Cell;
use std::time::Duration;

use pc_switcher_contract::SessionId;

use super::{CliError, Context, Exit};
use crate::history::logs::{self, LogsChoice, LogsEnv, LogsOptions};
use crate::history::{SessionRow, Store};
use crate::paths;
use crate::signal::Interrupts;

/// Show the log of a session; without an option, list the newest logs
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub struct Args {
    /// Show the newest session
    #[arg(long)]
    pub last: bool,
    /// Show the session with this id, or the one whose id begins so
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Show the newest session and go on until it ends
    #[arg(long)]
    pub follow: bool,
}

impl Args {
    /// Returns which log is wanted.
    pub fn choice(&self) -> LogsChoice {
        match &self.session {
            Some(id) => LogsChoice::Session(id.clone()),
            None if self.follow => LogsChoice::Follow,
            None if self.last => LogsChoice::Last,
            None => LogsChoice::List,
        }
    }
}

/// Sessions of which it is looked at whether they did anything.
const LOOKED_AT: usize = 100;

/// Prints the log. Ctrl+C ends `--follow`.
///
/// # Errors
/// If there is no such log or it cannot be read.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let dir = paths::log_dir(&context.env)?;
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot wait: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let mut interrupts = None;
    if args.follow {
        interrupts = Some(runtime.block_on(async { Interrupts::listen() }).map_err(failed)?);
    }
    let interrupts = Cell::new(interrupts);
    let stopped = Cell::new(false);
    let wait = |time: Duration| {
        let mut listening = interrupts.take();
        let enough = runtime.block_on(async {
            let interrupted = async {
                match &mut listening {
                    Some(interrupts) => drop(interrupts.next().await),
                    None => std::future::pending().await,
                }
            };
            tokio::time::timeout(time, interrupted).await.is_ok()
        });
        interrupts.set(listening);
        stopped.set(enough);
        enough
    };
    // A history that cannot be read keeps nobody from the logs.
    let store = Store::open_existing(&paths::history_db(&context.env)?).ok().flatten();
    let rows = store.and_then(|store| store.list(LOOKED_AT).ok()).unwrap_or_default();
    let busy: Vec<SessionId> = rows.into_iter().filter(SessionRow::was_busy).map(|row| row.id).collect();
    let look = LogsEnv { busy: &busy, dir: &dir, colours: context.env.colour_on_stdout(), wait: &wait };
    let options = LogsOptions { choice: args.choice(), json: context.global.json };
    logs::run(&options, &look, context.out)?;
    Ok(if stopped.get() { Exit::Aborted } else { Exit::Completed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_names_its_log() {
        let choice = |args: Args| args.choice();
        assert_eq!(choice(Args::default()), LogsChoice::List);
        assert_eq!(choice(Args { last: true, ..Args::default() }), LogsChoice::Last);
        assert_eq!(choice(Args { follow: true, ..Args::default() }), LogsChoice::Follow);
        let one = Args { session: Some("abc".into()), ..Args::default() };
        assert_eq!(choice(one), LogsChoice::Session("abc".into()));
    }
}
