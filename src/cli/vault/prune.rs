//! `prune`: snapshots that no rule keeps, and what nobody needs.

use pc_switcher_contract::human_bytes;
use pc_switcher_contract::keep::Keep;
use pc_switcher_vault::service::{PruneOrder, PruneReport, VaultPruned};
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::open;
use super::passphrase::Secret;
use super::watch::Watch;

/// Remove the backups that no rule of `keep` keeps, and what no backup needs any more
///
/// `keep` is set in [vault]; a session of its rules is a backup, and `keep_min` says which stay whatever `keep` says. Without it all backups stay, and only what killed or failed
/// runs left behind goes. Of other machines' backups none is removed. What nobody needs any more is only marked at first; a
/// prune 23 hours later or more removes it. Nobody else can use the vault meanwhile.
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Say for every backup why it stays or goes
    #[arg(long)]
    explain: bool,
    /// Rules for this run in the place of `keep`: `last 10 sessions, 14d, 8w, 12m`
    #[arg(long, value_name = "RULES")]
    keep: Option<Keep>,
    /// Let backups from before most files of a directory were gone or changed go by the rules, too
    #[arg(long)]
    accept_losses: bool,
    /// Remove what nobody needs at once, without marking it first
    #[arg(long)]
    at_once: bool,
    /// Only the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

pub(super) fn run(args: &PruneArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let observer = watch.observer();
    let order = PruneOrder {
        only: args.vault.clone(),
        keep: args.keep.clone(),
        at_once: args.at_once,
        accept_losses: args.accept_losses,
        dry_run: args.dry_run,
    };
    let report = service.prune(&order, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    if context.global.json {
        context.print_json(&as_json(args, &report))?;
    } else {
        for warning in &report.warnings {
            writeln!(context.err, "warning: {warning}")?;
        }
        for vault in &report.vaults {
            print(args, vault, context)?;
        }
    }
    Ok(match report.incomplete {
        false => Exit::Completed,
        true if report.is_full => Exit::DiskSpace,
        true => Exit::Failed,
    })
}

fn print(args: &PruneArgs, vault: &VaultPruned, context: &mut Context<'_>) -> Result<(), CliError> {
    let name = &vault.name;
    let told = vault.verdicts.iter().filter(|verdict| args.explain || args.dry_run && !verdict.stays);
    for verdict in told {
        let word = if verdict.stays { "stays" } else { "goes" };
        let id = &verdict.snapshot.hex()[..8];
        writeln!(context.out, "{name}  {id}  {}  {word}: {}", verdict.time, verdict.reason)?;
    }
    let (all, summary) = (vault.verdicts.len(), &vault.summary);
    let going = vault.verdicts.iter().filter(|verdict| !verdict.stays).count();
    let verb = |done: &str, would: &str| if args.dry_run { would.to_owned() } else { done.to_owned() };
    let mut parts = vec![
        format!("{going} of {all} snapshots {}", verb("removed", "would be removed")),
        format!("{} {}", human_bytes(summary.removed.1), verb("freed", "would be freed")),
    ];
    if summary.merged.0 > 0 {
        let (packs, bytes) = (summary.merged.0, human_bytes(summary.merged.1));
        parts
            .push(format!("{packs} small packs ({bytes}) {}", verb("put together", "would be put together")));
    }
    if let (Some(next), bytes) = (summary.next, human_bytes(summary.marked.1)) {
        let next = next.strftime("%Y-%m-%d %H:%M").to_string();
        parts.push(format!("{bytes} {} from {next} UTC on", verb("can go", "could go")));
    }
    if vault.versions_gone > 0 {
        parts.push(format!("{} versions are gone", vault.versions_gone));
    }
    writeln!(context.out, "{name}: {}", parts.join("; "))?;
    Ok(())
}

fn as_json(args: &PruneArgs, report: &PruneReport) -> serde_json::Value {
    let vault = |vault: &VaultPruned| {
        let count = |(packs, bytes): (u64, u64)| json!({ "packs": packs, "bytes": bytes });
        let summary = &vault.summary;
        json!({
            "name": vault.name,
            "snapshots": vault.verdicts,
            "kept": count(summary.kept),
            "rewritten": count(summary.rewritten),
            "merged": count(summary.merged),
            "marked": count(summary.marked),
            "removed": count(summary.removed),
            "next": summary.next.map(|next| next.to_string()),
            "versions_gone": vault.versions_gone,
        })
    };
    json!({
        "dry_run": args.dry_run,
        "vaults": report.vaults.iter().map(vault).collect::<Vec<_>>(),
        "warnings": report.warnings,
    })
}
