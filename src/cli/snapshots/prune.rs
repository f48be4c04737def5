//! `snapshots prune`: what happens after each sync, by hand.

use pc_switcher_btrfs_snapshots::prune::{self, Judged, Pruned};
use pc_switcher_btrfs_snapshots::thin::{self, If, Thinned, Wish};
use pc_switcher_contract::keep::Keep;
use pc_switcher_contract::{ErrorKind, Hostname, ModuleError, Threshold, human_bytes};
use serde_json::json;

use super::{Where, lock, render, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;

/// Remove the sets that no rule of `keep` keeps
///
/// With --free also those that only `keep_min` could spare, the ones that hold the most first, until so much is available.
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Say for every set why it stays or goes
    #[arg(long)]
    explain: bool,
    /// Keep the sets of the last N sessions, or what this text says, in place of `keep`: `3`, `"last 2 sessions, 7d"`
    #[arg(long, value_name = "N", value_parser = keep)]
    keep: Option<Keep>,
    /// Go on until so much is available where the snapshots lie: `40GiB`, or a share of the disk: `20%`
    #[arg(long, value_name = "SIZE", conflicts_with = "dry_run")]
    free: Option<Threshold>,
    #[command(flatten)]
    place: Where,
}

/// Reads a number of sessions, or the text of a rule.
fn keep(text: &str) -> Result<Keep, String> {
    let rule = match text.parse::<u32>() {
        Ok(count) => format!("last {count} sessions"),
        Err(_) => text.to_owned(),
    };
    rule.parse().map_err(|error| format!("{error}"))
}

/// Prunes, and prints what became of what.
///
/// # Errors
/// If a sync runs, or the machine cannot be reached.
pub fn run(args: &PruneArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut config = settings(context)?;
    if let Some(keep) = &args.keep {
        config.keep = keep.clone();
    }
    let now = clock::system()();
    let (hostname, judged, pruned, thinned) = with_agent(&args.place, context, async |agent, contact| {
        if !args.dry_run {
            lock(agent, contact).await?;
        }
        let judged = prune::look(agent, &config, now).await?;
        let mut pruned = match args.dry_run {
            true => Pruned::default(),
            false => prune::remove(agent, &config, &judged.verdicts, &contact.cancel).await,
        };
        let mut thinned = None;
        if let Some(free) = args.free {
            let wish = Wish { wanted: free, only: If::Wanted, at_most: usize::MAX };
            let mut done = thin::thin(agent, &config, now, wish, &contact.cancel).await?;
            pruned.removed.append(&mut done.pruned.removed);
            pruned.left.append(&mut done.pruned.left);
            thinned = Some(done);
        }
        Ok((agent.hostname().clone(), judged, pruned, thinned))
    })?;
    match context.global.json {
        true => context.print_json(&as_json(args, &hostname, &judged, &pruned, thinned.as_ref()))?,
        false => print(args, context, &hostname, &judged, &pruned)?,
    }
    match thinned {
        Some(thinned) if !thinned.is_enough => Err(too_little(&hostname, &thinned)),
        _ if pruned.left.is_empty() => Ok(Exit::Completed),
        _ => Ok(Exit::Failed),
    }
}

fn too_little(hostname: &Hostname, thinned: &Thinned) -> CliError {
    let available = human_bytes(thinned.available_bytes);
    let (message, help) = match thinned.is_clearing {
        true => ("what was removed does not show as free yet", "try again in a minute"),
        false => (
            "no set is left that the rules could spare",
            "`pc-switcher space` shows what holds the most; `snapshots delete` and a shorter `keep_min` free more",
        ),
    };
    let message = format!("{hostname}: {available} are available, which is not enough: {message}");
    ModuleError::new(ErrorKind::DiskSpace, message).hint(help).into()
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

fn as_json(
    args: &PruneArgs,
    hostname: &Hostname,
    judged: &Judged,
    pruned: &Pruned,
    thinned: Option<&Thinned>,
) -> serde_json::Value {
    let verdict = |verdict: &pc_switcher_btrfs_snapshots::retention::Verdict| json!({ "set": verdict.id, "stays": verdict.stays, "reason": verdict.reason.to_string() });
    let left = |(id, why): &(pc_switcher_contract::SetId, String)| json!({ "set": id, "why": why });
    json!({
        "machine": hostname,
        "dry_run": args.dry_run,
        "verdicts": judged.verdicts.iter().map(verdict).collect::<Vec<_>>(),
        "available_bytes": thinned.map(|thinned| thinned.available_bytes),
        "removed": pruned.removed,
        "left": pruned.left.iter().map(left).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_of_sessions_and_a_text_a_rule_as_in_the_config() {
        assert_eq!(keep("3").unwrap(), "last 3 sessions".parse().unwrap());
        assert_eq!(keep("last 2 sessions, 7d").unwrap(), "last 2 sessions, 7d".parse().unwrap());
        for bad in ["0", "", "many"] {
            assert!(keep(bad).is_err(), "{bad:?}");
        }
    }
}
