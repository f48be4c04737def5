//! `vault`, which is `bt` under another name: versions of files in vaults.

mod dirs;
mod passphrase;
mod prune;
mod recover;
mod rehearse;
mod repair;
mod restore;
mod serve;
mod setup;
mod show;
mod store;
mod watch;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use pc_switcher_vault::service::{Service, Surroundings, resolve};

use super::{CliError, Context, Exit, Global};
use crate::config;
use crate::vault;

/// Keeps versions of files in vaults
#[derive(Debug, Parser)]
#[command(name = "bt", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub(super) struct Bt {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Keep versions of files in vaults; `bt` is the same
///
/// A vault is a repository in restic's format, in a directory, a bucket, or a directory of another machine. Directories are tracked with
/// `dir init`, `add` stages what changed, `backup` stores it. `--config` names another file than ~/.config/bt.toml here; [vault] and [[vaults]] in the main config hold before it.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What can be done with vaults.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Command {
    /// Set up the vaults and see their settings
    #[command(subcommand)]
    Config(setup::Config),
    /// Make the vaults that are set, or prove that they are as they should be
    Init(setup::InitArgs),
    List(setup::ListArgs),
    /// Track directories, and see how their files stand
    #[command(subcommand)]
    Dir(dirs::Dir),
    Add(dirs::AddArgs),
    Backup(store::BackupArgs),
    Log(show::LogArgs),
    Restore(restore::Args),
    History(show::HistoryArgs),
    Check(store::CheckArgs),
    Repair(repair::RepairArgs),
    Rehearse(rehearse::RehearseArgs),
    Prune(prune::PruneArgs),
    Recover(recover::RecoverArgs),
    Serve(serve::ServeArgs),
}

/// Whether the program was called by its other name.
pub(super) fn is_bt(name: Option<&OsString>) -> bool {
    name.map(Path::new).and_then(Path::file_name) == Some(OsStr::new("bt"))
}

/// Runs the command.
///
/// # Errors
/// If what was asked for cannot be done.
pub(super) fn run(command: &Command, context: &mut Context<'_>) -> Result<Exit, CliError> {
    match command {
        Command::Config(setup::Config::Init(args)) => setup::config_init(args, context),
        Command::Config(setup::Config::List) => setup::config_list(context),
        Command::Config(setup::Config::Vault(setup::ConfigVault::Init(args))) | Command::Init(args) => {
            setup::init(args, context)
        }
        Command::Config(setup::Config::Vault(setup::ConfigVault::RecoveryCode(args))) => {
            setup::recovery_code(args, context)
        }
        Command::List(args) => setup::list(args, context),
        Command::Dir(dirs::Dir::Init(args)) => dirs::init(args, context),
        Command::Dir(dirs::Dir::Status(args)) => dirs::status(args, context),
        Command::Dir(dirs::Dir::List) => dirs::list(context),
        Command::Dir(dirs::Dir::Forget(args)) => dirs::forget(args, context),
        Command::Add(args) => dirs::add(args, context),
        Command::Backup(args) => store::backup(args, context),
        Command::Log(args) => show::log(args, context),
        Command::Restore(args) => restore::run(args, context),
        Command::History(args) => show::history(args, context),
        Command::Check(args) => store::check(args, context),
        Command::Repair(args) => repair::run(args, context),
        Command::Rehearse(args) => rehearse::run(args, context),
        Command::Prune(args) => prune::run(args, context),
        Command::Recover(args) => recover::run(args, context),
        Command::Serve(args) => serve::run(args, context),
    }
}

/// Returns what the service is handed.
fn surroundings(context: &Context<'_>) -> Result<Surroundings, CliError> {
    // `--config` names `bt.toml` here.
    let above = vault::above(&config::load_vaults(None, &context.env)?);
    let places = vault::places(&context.env)?;
    vault::surroundings(&context.env, places, above, vault::Asks::Person).map_err(CliError::Failed)
}

fn open(context: &Context<'_>) -> Result<Service, CliError> {
    Ok(Service::open(surroundings(context)?)?)
}

/// Returns the real place of a path that was typed.
fn here(path: &Path) -> Result<PathBuf, CliError> {
    let cwd = std::env::current_dir();
    let cwd = cwd.map_err(|error| CliError::Failed(format!("the current directory is gone: {error}")))?;
    Ok(resolve(&cwd, path)?)
}

/// Returns a path that need not be there as an absolute one.
fn absolute(path: Option<&PathBuf>) -> Result<Option<PathBuf>, CliError> {
    let made = path.map(std::path::absolute).transpose();
    made.map_err(|error| CliError::Failed(format!("the current directory is gone: {error}")))
}
