//! Backups and checks.

use pc_switcher_contract::human_bytes;
use pc_switcher_vault::service::BackupReport;
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::dirs::{said, tell};
use super::open;
use super::passphrase::Secret;
use super::watch::Watch;

/// Store what is staged, from all tracked directories
///
/// Afterwards each vault has a snapshot of the current versions, which `restic` reads without us, and a copy of the
/// catalogue. A file that fails is named, stays staged and stops no other.
#[derive(Debug, Clone, clap::Args)]
pub struct BackupArgs {
    /// Only to the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

/// Prove that what the vaults should hold is there
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Read everything, too, and prove that each byte is as it was written
    #[arg(long)]
    read_data: bool,
    /// Only the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

pub(super) fn backup(args: &BackupArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    service.stop_when(watch.is_stopped());
    let observer = watch.observer();
    let report = service.backup(args.vault.as_deref(), &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    if context.global.json {
        print_json(&report, context)?;
    } else {
        for warning in &report.warnings {
            writeln!(context.err, "warning: {warning}")?;
        }
        tell(&report.troubles, context)?;
        let deleted =
            if report.deleted > 0 { format!(", {} files are gone", report.deleted) } else { String::new() };
        writeln!(context.out, "{} new versions, {}{deleted}", report.versions, human_bytes(report.bytes))?;
        for vault in &report.vaults {
            let snapshot = vault
                .snapshot
                .map_or_else(|| "no new snapshot".into(), |id| format!("snapshot {}", &id.hex()[..8]));
            writeln!(context.out, "{}: {} stored, {snapshot}", vault.name, human_bytes(vault.stored.bytes))?;
        }
    }
    Ok(if report.is_clean() { Exit::Completed } else { Exit::Failed })
}

fn print_json(report: &BackupReport, context: &mut Context<'_>) -> Result<(), CliError> {
    let vaults: Vec<_> = report
        .vaults
        .iter()
        .map(|vault| {
            let (blobs, bytes) = (vault.stored.blobs, vault.stored.bytes);
            json!({ "name": vault.name, "stored_blobs": blobs, "stored_bytes": bytes, "snapshot": vault.snapshot })
        })
        .collect();
    context.print_json(&json!({
        "versions": report.versions, "items": report.items, "bytes": report.bytes,
        "directories": report.directories, "deleted": report.deleted,
        "vaults": vaults, "troubles": said(&report.troubles), "warnings": report.warnings,
    }))
}

pub(super) fn check(args: &CheckArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    service.stop_when(watch.is_stopped());
    let observer = watch.observer();
    let all =
        service.check(args.vault.as_deref(), args.read_data, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    let sound = all.iter().all(|(_, found)| found.problems.is_empty());
    if context.global.json {
        let line = |(name, found): &(String, pc_switcher_vault::engine::CheckSummary)| {
            json!({
                "name": name, "snapshots": found.snapshots, "packs": found.packs, "bytes": found.bytes,
                "read_bytes": found.read_bytes, "unknown_packs": found.unknown_packs, "problems": found.problems,
            })
        };
        context.print_json(&json!(all.iter().map(line).collect::<Vec<_>>()))?;
    } else {
        for (name, found) in &all {
            for problem in &found.problems {
                writeln!(context.err, "error: {name}: {problem}")?;
            }
            let read = if args.read_data {
                format!(", {} read", human_bytes(found.read_bytes))
            } else {
                String::new()
            };
            let verdict = match found.problems.len() {
                0 => "sound".to_owned(),
                count => format!("{count} problems"),
            };
            let what =
                format!("{} snapshots, {} packs, {}", found.snapshots, found.packs, human_bytes(found.bytes));
            writeln!(context.out, "{name}: {verdict}; {what}{read}")?;
            if found.unknown_packs > 0 {
                let count = found.unknown_packs;
                writeln!(
                    context.out,
                    "{name}: {count} packs are in no index; a run that was killed left them; the next backup takes them up, or `bt prune` removes them"
                )?;
            }
        }
    }
    Ok(if sound { Exit::Completed } else { Exit::Failed })
}
