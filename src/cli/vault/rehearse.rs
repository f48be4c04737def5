//! Rehearsals.

use pc_switcher_contract::human_bytes;
use pc_switcher_vault::service::{RehearseOrder, RehearseReport, Rehearsed, Size};
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::dirs::{said, tell};
use super::open;
use super::passphrase::Secret;
use super::watch::Watch;

/// So many files are restored at most: what is remembered of those that were picked has to fit into memory.
const MOST_FILES: usize = 100_000;

/// Restore files that are picked at random, and compare them
///
/// They are restored into a temporary directory, one by one, and are gone afterwards. Each is compared with the checksum in the
/// catalogue, and with the file on the disk where that did not change since. Files that do not come back as they should are
/// named, and the command ends with exit 1.
#[derive(Debug, Clone, clap::Args)]
pub struct RehearseArgs {
    /// How much is restored from each vault, at most
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    size: Size,
    /// Pick what this number picks, as a rehearsal prints it
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Only from the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

pub(super) fn run(args: &RehearseArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    // Numbers that JSON can say exactly.
    let random = || uuid::Uuid::new_v4().as_u64_pair().1 & ((1 << 53) - 1);
    let order = RehearseOrder {
        only: args.vault.clone(),
        seed: args.seed.unwrap_or_else(random),
        most_bytes: args.size.0,
        most_files: MOST_FILES,
        since: None,
    };
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let observer = watch.observer();
    let report = service.rehearse(&order, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    if context.global.json {
        context.print_json(&json!({
            "seed": order.seed, "vaults": report.vaults, "troubles": said(&report.troubles), "warnings": report.warnings,
        }))?;
        return Ok(ending(&report));
    }
    for warning in &report.warnings {
        writeln!(context.err, "warning: {warning}")?;
    }
    tell(&report.troubles, context)?;
    for vault in &report.vaults {
        print(vault, context)?;
    }
    writeln!(context.err, "--seed {} picks the same again", order.seed)?;
    Ok(ending(&report))
}

fn ending(report: &RehearseReport) -> Exit {
    match report.is_clean() {
        true => Exit::Completed,
        false if report.is_full => Exit::DiskSpace,
        false => Exit::Failed,
    }
}

fn print(vault: &Rehearsed, context: &mut Context<'_>) -> Result<(), CliError> {
    let Rehearsed { name, candidates, too_large, files, bytes, same_as_live, lacking } = vault;
    let bytes = human_bytes(*bytes);
    writeln!(
        context.out,
        "{name}: {files} of {candidates} files came back, {bytes}; {same_as_live} are as they are on the disk"
    )?;
    if *too_large > 0 {
        writeln!(context.err, "{name}: {too_large} files are larger than --size and are never picked")?;
    }
    if *lacking > 0 {
        writeln!(context.err, "{name}: {lacking} files that were picked are not in this vault")?;
    }
    Ok(())
}
