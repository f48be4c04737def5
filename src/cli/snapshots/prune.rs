//! `snapshots prune`: what happens after each sync, by hand.

use pc_switcher_btrfs_snapshots::prune::{self, Judged, Pruned};
use pc_switcher_contract::Hostname;
use serde_json::json;

use super::{Where, lock, render, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;

/// Remove the sets that no rule of `keep` keeps
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Say for every set why it stays or goes
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    place: Where,
}

/// Prunes, and prints what became of what.
///
/// # Errors
/// If a sync runs, or the machine cannot be reached.
pub fn run(args: &PruneArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let now = clock::system()();
    let (hostname, judged, pruned) = with_agent(&args.place, context, async |agent, contact| {
        if !args.dry_run {
            lock(agent, contact).await?;
        }
        let judged = prune::look(agent, &config, now).await?;
        let pruned = match args.dry_run {
            true => Pruned::default(),
            false => prune::remove(agent, &config, &judged.verdicts, &contact.cancel).await,
        };
        Ok((agent.hostname().clone(), judged, pruned))
    })?;
    match context.global.json {
        true => context.print_json(&as_json(args, &hostname, &judged, &pruned))?,
        false => print(args, context, &hostname, &judged, &pruned)?,
    }
    Ok(if pruned.left.is_empty() { Exit::Completed } else { Exit::Failed })
}

fn print(
    args: &PruneArgs,
    context: &mut Context<'_>,
    hostname: &Hostname,
    judged: &Judged,
    pruned: &Pruned,
) -> Result<(), CliError> {
    if args.explain {
        for line in render::verdicts(&judged.verdicts) {
            writeln!(context.out, "{line}")?;
        }
    }
    let going = judged.verdicts.iter().filter(|verdict| !verdict.stays);
    if args.dry_run && !args.explain {
        for verdict in going.clone() {
            writeln!(context.out, "{}", verdict.id)?;
        }
    }
    for (id, why) in &pruned.left {
        writeln!(context.err, "warning: {hostname}: set `{id}` is not removed: {why}")?;
    }
    let (count, all) = (if args.dry_run { going.count() } else { pruned.removed.len() }, judged.sets.len());
    let word = if args.dry_run { "would be removed" } else { "removed" };
    writeln!(
        context.out,
        "{hostname}: {count} of {} {word}",
        crate::session::text::count(all as u64, "set")
    )?;
    Ok(())
}

fn as_json(args: &PruneArgs, hostname: &Hostname, judged: &Judged, pruned: &Pruned) -> serde_json::Value {
    let verdict = |verdict: &pc_switcher_btrfs_snapshots::retention::Verdict| json!({ "set": verdict.id, "stays": verdict.stays, "reason": verdict.reason.to_string() });
    let left = |(id, why): &(pc_switcher_contract::SetId, String)| json!({ "set": id, "why": why });
    json!({
        "machine": hostname,
        "dry_run": args.dry_run,
        "verdicts": judged.verdicts.iter().map(verdict).collect::<Vec<_>>(),
        "removed": pruned.removed,
        "left": pruned.left.iter().map(left).collect::<Vec<_>>(),
    })
}
