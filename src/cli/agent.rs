//! `agent`: the elevated half, started by the front through sudo. Not for people.

use std::path::{Path, PathBuf};

use pc_switcher_agent::linux::install::Unit;
use pc_switcher_agent::linux::services::{
    AgentOptions, HistoryKeeper, heal_alone, main, redo_alone, rollback_alone, trial_alone, watch_alone,
};
use pc_switcher_agent::linux::state::StateDir;
use pc_switcher_agent::proto::{AgentError, RedoneHow};
use pc_switcher_contract::SessionId;

use super::early::{self, EarlyArgs};
use super::guard::open::{self, Open};
use super::halt::Halts;
use super::{CliError, Context, Exit};
use crate::history::{SessionRow, Store};

/// Serve a front on standard input and output
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Bring syncs that were cut off to their end instead, for the boot
    #[arg(long)]
    redo: bool,
    /// Watch over a sync or a rollback instead, and take it back unless it is confirmed
    #[arg(long, value_name = "SESSION", hide = true, conflicts_with = "redo")]
    deadman: Option<SessionId>,
    /// Bring a rollback that was cut off to its end instead, and have what is to come along with it do so, before anything uses it
    #[arg(long, hide = true, conflicts_with = "redo")]
    redo_rollback: bool,
    /// Print the unit of this name that each boot starts, for the installer
    #[arg(long, value_name = "NAME", hide = true, conflicts_with = "redo")]
    print_unit: Option<String>,
    #[command(flatten)]
    early: EarlyArgs,
}

/// Serves until the front is gone.
///
/// # Errors
/// If the front broke the protocol or fell silent, or a redo is not possible.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    if let Some(name) = &args.print_unit {
        let unit = Unit::ALL.into_iter().find(|unit| unit.name() == *name);
        let unit = unit.ok_or_else(|| CliError::Failed(format!("there is no unit `{name}`")))?;
        write!(context.out, "{}", unit.text())?;
        return Ok(Exit::Completed);
    }
    if let Some(exit) = early::run(&args.early, context)? {
        return Ok(exit);
    }
    let mut options = AgentOptions::new(env!("CARGO_PKG_VERSION"), Box::new(Rows));
    if context.env.halts {
        options.watch = Box::new(Halts::default());
    }
    if args.redo {
        return redo(&options, context);
    }
    if args.redo_rollback {
        let looked = rollback_alone(&options).map_err(|error| CliError::Failed(error.to_string()))?;
        for (path, why) in looked.iter().flat_map(|look| look.left_behind()) {
            writeln!(context.err, "`{path}` stays in the former tree: {why}")?;
        }
        return Ok(Exit::Completed);
    }
    if let Some(session) = &args.deadman {
        let watched = watch_alone(&options, session);
        return watched.map(|()| Exit::Completed).map_err(|error| CliError::Failed(error.to_string()));
    }
    main(options).map(|()| Exit::Completed).map_err(CliError::Failed)
}

/// Says what became of syncs that were cut off; the next sync says it again.
fn redo(options: &AgentOptions, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let failed = |error: AgentError| CliError::Failed(error.to_string());
    let results = redo_alone(options);
    // Neither waits for the other: what cannot be brought to its end keeps no machine that shuts people out.
    let trial = trial_alone(options);
    let results = results.map_err(failed)?;
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
    // After the commits: what was not at its end cannot be taken back.
    let healed = heal_alone(options).map_err(failed)?;
    if let Some(healed) = healed {
        writeln!(context.err, "{}", healed.explain())?;
    }
    if let Some(said) = trial.map_err(failed)? {
        writeln!(context.err, "{said}")?;
    }
    let state = StateDir::new(options.state_dir.clone());
    let open = state.get(open::KEY).ok().flatten().and_then(|bytes| Open::read(&bytes));
    if let Some(said) = open.and_then(|open| open.explain()) {
        writeln!(context.err, "{said}")?;
    }
    Ok(exit)
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
