//! `snapshots list` and `snapshots show`.

use pc_switcher_btrfs_snapshots::retention::judge;
use pc_switcher_contract::{BytePath, SessionId, SnapshotKind};
use serde_json::json;

use super::render::More;
use super::{Found, Where, kind, render, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;

/// List the sets of snapshots, oldest first
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// Only those of this session
    #[arg(long, value_name = "SESSION")]
    session: Option<SessionId>,
    /// Only those of this kind, for example `pre-sync`
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<SnapshotKind>,
    /// Only those that have this tag
    #[arg(long, value_name = "WORD")]
    tag: Option<String>,
    /// Say for every set why it stays or goes at the next prune; --json always does
    #[arg(long)]
    why: bool,
    /// Say what removing each session would free, which takes a while
    #[arg(long)]
    sizes: bool,
    #[command(flatten)]
    place: Where,
}

/// Show all that is known of a set
#[derive(Debug, Clone, clap::Args)]
pub struct ShowArgs {
    /// A session (then all its sets), a name, or a set as `snapshots list --json` names it
    #[arg(value_name = "SET")]
    set: String,
    #[command(flatten)]
    place: Where,
}

/// Prints the list.
///
/// # Errors
/// If the machine cannot be reached.
pub fn list(args: &ListArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let (mut found, gains) = with_agent(&args.place, context, async |agent, _| {
        let found = Found::read(agent, &config).await?;
        let gains = match args.sizes {
            true => agent.gains(BytePath::from(config.snapshot_dir.as_path())).await?,
            false => Vec::new(),
        };
        Ok((found, gains))
    })?;
    // Judged before some of them are left out: each is what it is beside all others.
    let is_wanted = args.why || context.global.json;
    let judged = is_wanted.then(|| judge(&found.sets, clock::system()(), &config.keep, &config.keep_min));
    found.sets.retain(|stored| {
        args.session.as_ref().is_none_or(|session| stored.set.session == *session)
            && args.kind.is_none_or(|kind| stored.set.kind == kind)
            && args.tag.as_ref().is_none_or(|tag| stored.words.tags.contains(tag))
    });
    let more = More::new(judged.as_deref(), args.sizes.then_some(&gains[..]));
    if context.global.json {
        context.print_json(&render::json(&found, &more))?;
        return Ok(Exit::Completed);
    }
    for line in render::table(&found, &more) {
        writeln!(context.out, "{line}")?;
    }
    if let Some(why) = &found.strays.doubt {
        writeln!(context.err, "warning: {}: no set will be removed: {why}", found.hostname)?;
    }
    Ok(Exit::Completed)
}

/// Prints one set, or those of one session.
///
/// # Errors
/// If there is none, or the machine cannot be reached.
pub fn show(args: &ShowArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let found = with_agent(&args.place, context, async |agent, _| Found::read(agent, &config).await)?;
    let chosen = found.chosen(std::slice::from_ref(&args.set))?;
    if context.global.json {
        let sets: Vec<_> = chosen.into_iter().map(render::set_json).collect();
        context.print_json(&json!({ "machine": found.hostname, "sets": sets }))?;
        return Ok(Exit::Completed);
    }
    for (at, stored) in chosen.into_iter().enumerate() {
        if at > 0 {
            writeln!(context.out)?;
        }
        for line in render::details(stored) {
            writeln!(context.out, "{line}")?;
        }
    }
    Ok(Exit::Completed)
}
