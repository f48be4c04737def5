//! `util`: completions, man pages and the reference page, all made from the command line's own definition.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, CliError, Context, Exit, markdown};

/// Make shell completions, man pages and reference pages
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page, or write those of all commands into a directory
    Man {
        /// The directory; made if it is not there
        dir: Option<PathBuf>,
    },
    /// Print the reference page of all commands
    MarkdownHelp,
}

/// Runs one of them.
///
/// # Errors
/// If the result cannot be written.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut command = Cli::command();
    match &args.command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command, "pc-switcher", &mut text);
            context.out.write_all(&text)?;
        }
        Command::Man { dir: None } => clap_mangen::Man::new(command).render(&mut *context.out)?,
        Command::Man { dir: Some(dir) } => {
            let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
            written
                .map_err(|error| CliError::Failed(format!("cannot write to `{}`: {error}", dir.display())))?;
        }
        Command::MarkdownHelp => write!(context.out, "{}", markdown::page(&mut command))?,
    }
    Ok(Exit::Completed)
}
