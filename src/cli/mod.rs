//! The commands: one `Args` and one `run` each. Data goes to `out`, everything else to `err`.

pub mod agent;
pub mod config;
mod contact;
pub mod doctor;
mod early;
mod engine;
pub mod error;
pub mod guard;
mod halt;
pub mod history;
pub mod init;
pub mod logs;
mod machine;
mod markdown;
pub mod modules;
pub mod rollback;
pub mod snapshots;
pub mod space;
pub mod status;
pub mod sync;
pub mod undo;
pub mod util;
pub mod vault;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use pc_switcher_contract::{LogLevel, ModuleSpec};

pub(crate) use engine::{asking_env, own_name, quiet_env, terminal_facts, user};
pub use error::{CliError, Exit};

use crate::config::{Config, Overrides, load};
use crate::paths::Env;
use crate::registry::registry;

/// Moves a person from one Linux machine to another.
#[derive(Debug, Parser)]
#[command(name = "pc-switcher", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Global {
    /// Read this config file instead of the user's own
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Print machine-readable JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Answer harmless questions with yes; never a safety gate
    #[arg(long, global = true, help_heading = "Global options")]
    pub yes: bool,
    /// Show this level and graver ones: DEBUG, FULL, INFO, WARNING, ERROR or CRITICAL
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Global options")]
    pub log_level: Option<LogLevel>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Sync(sync::Args),
    Status(status::Args),
    History(history::Args),
    Logs(logs::Args),
    Doctor(doctor::Args),
    Snapshots(snapshots::Args),
    Space(space::Args),
    Undo(undo::Args),
    Rollback(rollback::Args),
    Guard(guard::Args),
    Modules(modules::Args),
    #[command(hide = true)]
    Agent(agent::Args),
    Config(config::Args),
    Util(util::Args),
    Vault(vault::Args),
}

/// What a command works with.
pub struct Context<'a> {
    /// The environment.
    pub env: Env,
    /// The flags of every command.
    pub global: Global,
    /// For data.
    pub out: &'a mut dyn Write,
    /// For everything else.
    pub err: &'a mut dyn Write,
}

impl Context<'_> {
    /// Returns all modules of this build.
    pub fn specs(&self) -> Vec<ModuleSpec> {
        registry(&self.env)
    }

    /// Loads the config, with what the command line says about it, and prints its warnings, those of `bt.toml`, too.
    ///
    /// # Errors
    /// Everything that is wrong with the config and with these flags.
    pub fn load_config(&mut self, only: &[String], skip: &[String]) -> Result<Config, CliError> {
        let config = self.load_whole_config(only, skip)?;
        self.warn_of_vaults(&config)?;
        Ok(config)
    }

    /// As [`Context::load_config`], for commands that use vaults or tell of them: what is wrong with `bt.toml` is in the config,
    /// and not printed.
    ///
    /// # Errors
    /// As [`Context::load_config`].
    pub fn load_whole_config(&mut self, only: &[String], skip: &[String]) -> Result<Config, CliError> {
        let overrides =
            Overrides { only: only.to_vec(), skip: skip.to_vec(), log_cli_level: self.global.log_level };
        let config = load(self.global.config.as_deref(), &overrides, &self.specs(), &self.env)?;
        for problem in &config.warnings {
            let heading = if problem.spot.is_some() { "warning" } else { "note" };
            error::write_problem(self.err, heading, problem, self.env.colour_on_stderr())?;
        }
        Ok(config)
    }

    /// Says what is wrong with `bt.toml` to somebody who uses no vault now.
    ///
    /// # Errors
    /// If nothing can be printed.
    fn warn_of_vaults(&mut self, config: &Config) -> Result<(), CliError> {
        for problem in &config.vault_problems {
            error::write_problem(self.err, "warning", problem, self.env.colour_on_stderr())?;
        }
        if !config.vault_problems.is_empty() {
            writeln!(self.err, "note: vaults cannot be used until this is mended; all else works")?;
        }
        Ok(())
    }

    /// Prints a value as JSON.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn print_json(&mut self, value: &serde_json::Value) -> Result<(), CliError> {
        // In one piece: whoever writes to a terminal or a pipe writes line by line otherwise, and this has many.
        self.out.write_all(format!("{value:#}\n").as_bytes())?;
        Ok(())
    }

    /// Prints lines that may be very many.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn print_lines(&mut self, lines: impl IntoIterator<Item = String>) -> Result<(), CliError> {
        const PIECE: usize = 64 << 10;
        let mut piece = String::new();
        for line in lines {
            piece.push_str(&line);
            piece.push('\n');
            if piece.len() >= PIECE {
                self.out.write_all(piece.as_bytes())?;
                piece.clear();
            }
        }
        self.out.write_all(piece.as_bytes())?;
        Ok(())
    }
}

/// Collects the environment of this process: the only place that reads it.
pub fn collect_env() -> Env {
    Env {
        vars: std::env::vars_os().collect(),
        config: None,
        vault_settings: None,
        uid: rustix::process::getuid().as_raw(),
        stdin_is_terminal: io::stdin().is_terminal(),
        stdout_is_terminal: io::stdout().is_terminal(),
        stderr_is_terminal: io::stderr().is_terminal(),
        halts: false,
    }
}

/// Parses the command line and runs the command.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    env: Env,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let colour = env.colour_on_stderr();
    let args: Vec<OsString> = args.into_iter().collect();
    let parsed = match vault::is_bt(args.first()) {
        true => vault::Bt::try_parse_from(args)
            .map(|bt| (bt.global, Command::Vault(vault::Args { command: bt.command }))),
        false => Cli::try_parse_from(args).map(|cli| (cli.global, cli.command)),
    };
    let (global, command) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return report_usage(&error, colour, out, err),
    };
    let mut env = env;
    match command {
        Command::Vault(_) => env.vault_settings = global.config.clone(),
        _ => env.config = global.config.clone(),
    }
    let mut context = Context { env, global, out, err };
    let result = match command {
        Command::Init(args) => init::run(&args, &mut context),
        Command::Status(args) => status::run(&args, &mut context),
        Command::History(args) => history::run(&args, &mut context),
        Command::Logs(args) => logs::run(&args, &mut context),
        Command::Doctor(args) => doctor::run(&args, &mut context),
        Command::Snapshots(args) => snapshots::run(&args, &mut context),
        Command::Space(args) => space::run(&args, &mut context),
        Command::Rollback(args) => rollback::run(&args, &mut context),
        Command::Guard(args) => guard::run(&args, &mut context),
        Command::Undo(args) => undo::run(&args, &mut context),
        Command::Sync(args) => sync::run(&args, &mut context, engine::sync),
        Command::Agent(args) => agent::run(&args, &mut context),
        Command::Modules(args) => modules::run(&args, &mut context),
        Command::Config(args) => config::run(&args, &mut context),
        Command::Util(args) => util::run(&args, &mut context),
        Command::Vault(args) => vault::run(&args.command, &mut context),
    };
    let result = result.and_then(|exit| match context.out.flush() {
        // Whoever reads has seen enough; how the command ended stands.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(exit),
    });
    result.unwrap_or_else(|error| {
        // Nobody is left to tell if standard error is gone as well.
        let _ = error.write(context.err, colour);
        error.exit()
    })
}

/// Prints what clap has to say: help and version are data, the rest are errors.
fn report_usage(error: &clap::Error, colour: bool, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let styled = error.render();
    if error.use_stderr() {
        let _ = if colour { write!(err, "{}", styled.ansi()) } else { write!(err, "{styled}") };
        Exit::Usage
    } else {
        let _ = write!(out, "{styled}");
        Exit::Completed
    }
}
