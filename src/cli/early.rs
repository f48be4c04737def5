//! The part of a start that comes before `/` is mounted, as the script in the initramfs asks for it. Not for people.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pc_switcher_agent::linux::boot::{self, Early};
use pc_switcher_agent::linux::machine::OWN_IMAGE;
use pc_switcher_agent::proto::{AgentError, BootTree};
use pc_switcher_contract::BytePath;

use super::{CliError, Context, Exit};

/// What is counted, and where.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct EarlyArgs {
    /// Count a start from this device, before its root is mounted
    #[arg(long, value_name = "DEVICE", hide = true)]
    before_root: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", hide = true, default_value = "")]
    command_line: String,
    /// What the root would be mounted with
    #[arg(long, value_name = "OPTIONS", hide = true, default_value = "", allow_hyphen_values = true)]
    options: String,
    /// The kernel's id of the start
    #[arg(long, value_name = "UUID", hide = true, default_value = "")]
    boot_id: String,
    /// Where snapshots lie
    #[arg(long, value_name = "DIR", hide = true, default_value = "/.snapshots")]
    snapshot_dir: String,
    /// After so many starts it goes back
    #[arg(long, value_name = "COUNT", hide = true, default_value_t = 3)]
    limit: u32,
    /// What is mounted, the root first
    #[arg(long = "tree", value_name = "NAME=POINT", hide = true, value_parser = tree)]
    trees: Vec<BootTree>,
    /// Kernels do not go back with the root
    #[arg(long, hide = true)]
    boot_apart: bool,
    /// Where whoever sits before the machine is asked whether it may go back
    #[arg(long, value_name = "DEVICE", hide = true)]
    console: Option<PathBuf>,
    /// So many seconds it may take before it is decided to go back
    #[arg(long, value_name = "SECONDS", hide = true, default_value_t = boot::PATIENCE.as_secs())]
    patience: u64,
    /// Where it is mounted already
    #[arg(long, value_name = "DIR", hide = true)]
    inside: Option<PathBuf>,
    /// Take this start off the count of the snapshots in a directory, since somebody shuts the machine down
    #[arg(long, value_name = "DIR", hide = true)]
    boot_left: Option<PathBuf>,
}

fn tree(text: &str) -> Result<BootTree, String> {
    let (name, point) = text.split_once('=').ok_or("NAME=POINT is wanted")?;
    Ok(BootTree { name: name.parse().map_err(|error| format!("{error}"))?, point: BytePath::from(point) })
}

/// Runs what was asked for; `None` if nothing of this was.
///
/// # Errors
/// If nothing can be printed, or the start cannot be taken off the count. A start itself goes on whatever happens.
pub fn run(args: &EarlyArgs, context: &mut Context<'_>) -> Result<Option<Exit>, CliError> {
    if let Some(dir) = &args.boot_left {
        boot::leave(dir).map_err(|error| CliError::Failed(error.to_string()))?;
        return Ok(Some(Exit::Completed));
    }
    let Some(device) = &args.before_root else { return Ok(None) };
    let early = Early {
        device: device.clone(),
        command_line: args.command_line.clone(),
        options: args.options.clone(),
        boot_id: args.boot_id.trim().to_owned(),
        snapshot_dir: args.snapshot_dir.as_str().into(),
        limit: args.limit,
        trees: args.trees.clone(),
        boot_apart: args.boot_apart,
        console: args.console.clone(),
        patience: Duration::from_secs(args.patience),
    };
    let done = count(&early, args, &mut |line| {
        // Nobody may be listening; the start goes on.
        let _ = writeln!(context.out, "{line}");
        let _ = context.out.flush();
    });
    if let Err(error) = done {
        writeln!(context.out, "{error}; the machine is started as it is")?;
    }
    Ok(Some(Exit::Completed))
}

fn count(early: &Early, args: &EarlyArgs, say: &mut dyn FnMut(&str)) -> Result<(), AgentError> {
    match &args.inside {
        Some(dir) => boot::inside(early, dir, say),
        None => boot::before_root(
            early,
            &|dir| {
                let mut command = Command::new(OWN_IMAGE);
                command.arg("agent").args(early.args()).arg("--inside").arg(dir);
                command
            },
            say,
        ),
    }
}
