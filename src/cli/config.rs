//! `config show|validate|schema`: what applies, whether it is right, what may stand there.

use std::path::Path;

use pc_switcher_btrfs_snapshots::automatic::SnapshotsConfig;
use serde::Deserialize as _;
use serde_json::json;

use super::{CliError, Context, Exit};
use crate::config::{self as settings, ConfigErrors};

/// Look at the configuration
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print what applies, as TOML that says where each value comes from
    Show,
    /// Check the config file and print `ok` or everything that is wrong
    Validate,
    /// Print the JSON Schema of the config file, or of one module's table
    Schema {
        /// The module
        module: Option<String>,
        /// Print the reference page instead
        #[arg(long, conflicts_with = "module")]
        markdown: bool,
    },
}

/// Runs one of the three.
///
/// # Errors
/// If the config is wrong or there is no such module.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    match &args.command {
        Command::Show => show(context),
        Command::Validate => validate(context),
        Command::Schema { markdown: true, .. } => {
            let page = settings::markdown(&context.specs());
            write!(context.out, "{page}")?;
            Ok(Exit::Completed)
        }
        Command::Schema { module, .. } => schema(context, module.as_deref()),
    }
}

fn show(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = context.load_whole_config(&[], &[])?.with_vaults()?;
    if context.global.json {
        let mut value = settings::json(&config.effective);
        value["path"] = json!(config.path);
        value["modules"] = json!(config.modules);
        value["hash"] = json!(config.hash);
        context.print_json(&value)?;
    } else {
        match &config.path {
            Some(path) => writeln!(context.out, "# file: {}", path.display())?,
            None => writeln!(context.out, "# no file: built-in defaults")?,
        }
        write!(context.out, "{}", settings::toml(&config.effective, true))?;
    }
    Ok(Exit::Completed)
}

fn validate(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let json = context.global.json;
    let loaded = context.load_whole_config(&[], &[]).and_then(|config| Ok(config.with_vaults()?));
    match loaded {
        Ok(config) if json => {
            let warnings: Vec<_> = idle_patterns(&config)?.into_iter().collect();
            context.print_json(
                &json!({ "ok": true, "path": config.path, "problems": [], "warnings": warnings }),
            )?;
            Ok(Exit::Completed)
        }
        Ok(config) => {
            if let Some(warning) = idle_patterns(&config)? {
                writeln!(context.err, "warning: {warning}")?;
            }
            writeln!(context.out, "ok")?;
            Ok(Exit::Completed)
        }
        Err(CliError::Config(ConfigErrors(problems))) if json => {
            context.print_json(&json!({ "ok": false, "problems": problems }))?;
            Ok(Exit::Usage)
        }
        Err(error) => Err(error),
    }
}

/// Returns what is to be known of patterns for snapshots that mean nothing on this machine.
fn idle_patterns(config: &settings::Config) -> Result<Option<&'static str>, CliError> {
    let snapshots = SnapshotsConfig::deserialize(config.own_table(settings::tables::SNAPSHOTS));
    let snapshots = snapshots.map_err(|error| CliError::Failed(error.to_string()))?;
    let dir = super::snapshots::of(config)?.snapshot_dir;
    Ok(snapshots.idle_patterns(|| is_on_btrfs(dir.as_path())))
}

/// Whether a directory lies on btrfs, or will if it is made.
fn is_on_btrfs(dir: &Path) -> bool {
    const BTRFS: u64 = 0x9123_683e;
    let stat = dir.ancestors().find_map(|path| rustix::fs::statfs(path).ok());
    stat.is_some_and(|stat| u64::try_from(stat.f_type) == Ok(BTRFS))
}

fn schema(context: &mut Context<'_>, module: Option<&str>) -> Result<Exit, CliError> {
    let specs = context.specs();
    let value = match module {
        None => settings::schema(&specs),
        Some(text) => settings::find_module(text, &specs)?.schema.clone(),
    };
    context.print_json(&value)?;
    Ok(Exit::Completed)
}
