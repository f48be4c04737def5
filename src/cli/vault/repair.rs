//! `repair`: a sound vault out of a damaged one.

use pc_switcher_vault::service::{RepairWish, Repaired};
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::open;
use super::passphrase::Secret;
use super::watch::Watch;

/// Make a damaged vault a sound one, with all that can still be read
///
/// A damaged, missing or wrong index is made anew from the packs, a key from its copy, and what can be read of a damaged pack moves
/// to a new one. What is lost is named. Where the files are still as they were, `bt backup --tracked` stores it again afterwards, and
/// makes old backups whole, too; what is left then --drop-lost takes out of the backups. Nobody else can use the vault meanwhile.
#[derive(Debug, Clone, clap::Args)]
pub struct RepairArgs {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Read everything: damage inside of a pack shows in no other way
    #[arg(long)]
    read_data: bool,
    /// Take what is lost out of the backups: files, and backups of which nothing can be read
    #[arg(long)]
    drop_lost: bool,
    /// Only the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

/// How much of what is lost is named, before it is only counted.
const SHOWN: usize = 100;

pub(super) fn run(args: &RepairArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let observer = watch.observer();
    let RepairArgs { dry_run, read_data, drop_lost, .. } = *args;
    let wish = RepairWish { only: args.vault.clone(), read_data, drop_lost, dry_run };
    let all = service.repair(&wish, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    if context.global.json {
        let vaults: Vec<_> = all.iter().map(as_json).collect();
        context.print_json(&json!({ "dry_run": dry_run, "vaults": vaults }))?;
    } else {
        for one in &all {
            print(args, one, context)?;
        }
    }
    let is_whole = all.iter().all(|one| !one.summary.lacks() && !one.incomplete);
    Ok(match is_whole {
        true => Exit::Completed,
        false if all.iter().any(|one| one.is_full) => Exit::DiskSpace,
        false => Exit::Failed,
    })
}

fn print(args: &RepairArgs, one: &Repaired, context: &mut Context<'_>) -> Result<(), CliError> {
    let Repaired { name, summary, versions_gone, warnings, .. } = one;
    for lost in summary.lost.kept().iter().take(SHOWN) {
        writeln!(context.err, "lost: {name}: {lost}")?;
    }
    let more = summary.lost.count().saturating_sub(SHOWN as u64);
    if more > 0 {
        let named = summary.lost.kept().len() - SHOWN;
        writeln!(context.err, "lost: {name}: {more} more such lines, {named} of them with --json")?;
    }
    for snapshot in &summary.snapshots {
        writeln!(context.err, "lost: {name}: the snapshot `{snapshot}` cannot be read")?;
    }
    let goes = if args.dry_run { "would be removed" } else { "removed" };
    for snapshot in &summary.removed {
        writeln!(context.err, "{goes}: {name}: the snapshot `{snapshot}`, of which nothing is left")?;
    }
    for pack in &summary.unknown {
        writeln!(
            context.err,
            "warning: {name}: nothing says what the pack `{pack}` held; it stays as it is"
        )?;
    }
    for warning in warnings {
        writeln!(context.err, "warning: {warning}")?;
    }
    if one.is_sound() {
        writeln!(context.out, "{name}: there is nothing to repair")?;
        return Ok(());
    }
    let would = if args.dry_run { "would be " } else { "" };
    let (kept, bad) =
        summary.damaged.iter().fold((0, 0), |(kept, bad), (_, more, worse)| (kept + more, bad + worse));
    let packs = |count: usize, what: String| (count > 0).then_some(what);
    let parts = [
        packs(
            summary.keys.len(),
            format!("{} keys {would}brought back from their copies", summary.keys.len()),
        ),
        packs(summary.indexes.len(), format!("{} index files {would}made anew", summary.indexes.len())),
        packs(
            summary.taken_up.len(),
            format!("{} packs {would}taken into the index", summary.taken_up.len()),
        ),
        packs(summary.missing.len(), format!("{} packs are gone", summary.missing.len())),
        packs(
            summary.damaged.len(),
            format!(
                "{} packs {would}written anew: {kept} blobs are whole, {bad} are not",
                summary.damaged.len()
            ),
        ),
        packs(summary.lost.count() as usize, format!("{} paths are lost", summary.lost.count())),
        packs(
            summary.rewritten.len(),
            format!("{} backups {would}written anew without what is lost", summary.rewritten.len()),
        ),
        packs(
            summary.removed.len(),
            format!("{} backups {would}removed, of which nothing is left", summary.removed.len()),
        ),
        packs(*versions_gone as usize, format!("{versions_gone} versions are in no pack any more")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    writeln!(context.out, "{name}: {}", parts.join("; "))?;
    if summary.lacks() && !args.dry_run {
        writeln!(
            context.err,
            "`bt backup --tracked` stores what is still in its place; `bt repair --drop-lost` then takes the rest out of the backups"
        )?;
    }
    Ok(())
}

fn as_json(one: &Repaired) -> serde_json::Value {
    let Repaired { name, summary, versions_gone, warnings, .. } = one;
    let damaged =
        |(pack, kept, bad): &(_, u64, u64)| json!({ "pack": pack, "kept_blobs": kept, "lost_blobs": bad });
    let rewritten = |(old, new): &(_, Option<_>)| json!({ "snapshot": old, "by": new });
    json!({
        "name": name, "keys": summary.keys, "indexes": summary.indexes, "taken_up": summary.taken_up, "missing": summary.missing,
        "damaged": summary.damaged.iter().map(damaged).collect::<Vec<_>>(), "unknown": summary.unknown,
        "snapshots": summary.snapshots, "read_bytes": summary.read_bytes, "lost": summary.lost.kept(), "more_lost": summary.lost.more(),
        "rewritten": summary.rewritten.iter().map(rewritten).collect::<Vec<_>>(), "removed": summary.removed,
        "versions_gone": versions_gone, "warnings": warnings,
    })
}
