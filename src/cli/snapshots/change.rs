//! `snapshots pin`, `unpin`, `good` and `delete`.

use pc_switcher_agent::proto::{SetRequest, StoredSet};
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{BytePath, SetId};
use serde_json::json;

use super::{Found, SetArgs, Where, lock, render, settings, with_agent};
use crate::cli::{CliError, Context, Exit};

pub(super) fn request(config: &BtrfsSnapshotsConfig, id: &SetId) -> SetRequest {
    SetRequest { snapshot_dir: BytePath::from(config.snapshot_dir.as_path()), id: id.clone() }
}

/// Prints what was done to which sets.
pub(super) fn say(
    context: &mut Context<'_>,
    found: &Found,
    done: &str,
    ids: &[SetId],
) -> Result<Exit, CliError> {
    if context.global.json {
        context.print_json(&json!({ "machine": found.hostname, done: ids }))?;
        return Ok(Exit::Completed);
    }
    for id in ids {
        writeln!(context.out, "{}: {id} is {done}", found.hostname)?;
    }
    Ok(Exit::Completed)
}

/// Pins sets, or frees them.
///
/// # Errors
/// If there are none of that name, or the machine cannot be reached.
pub fn pin(args: &SetArgs, pinned: bool, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let (found, ids) = with_agent(&args.place, context, async |agent, _| {
        let found = Found::read(agent, &config).await?;
        let ids = found.chosen(&args.sets).map(ids_of);
        for id in ids.as_deref().unwrap_or_default() {
            match pinned {
                true => agent.pin_set(request(&config, id)).await?,
                false => agent.unpin_set(request(&config, id)).await?,
            }
        }
        Ok((found, ids))
    })?;
    say(context, &found, if pinned { "pinned" } else { "unpinned" }, &ids?)
}

/// Mark the last state that is known to be good; no prune and no delete removes it
///
/// At most one set of a machine has this mark. Without SESSION it is said which.
#[derive(Debug, Clone, clap::Args)]
pub struct GoodArgs {
    /// A session (then the set after its sync), a name, or a set as `snapshots list --json` names it
    #[arg(value_name = "SESSION")]
    set: Option<String>,
    /// Take the mark away
    #[arg(long, conflicts_with = "set")]
    none: bool,
    #[command(flatten)]
    place: Where,
}

/// Marks a set as good, or says which one is.
///
/// # Errors
/// If there is no such set, or the machine cannot be reached.
pub fn good(args: &GoodArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let (found, id) = with_agent(&args.place, context, async |agent, _| {
        let found = Found::read(agent, &config).await?;
        let last = |word: &String| -> Result<Option<SetId>, CliError> {
            Ok(found.meant(word)?.into_iter().map(|stored| stored.set.id()).max())
        };
        let id = args.set.as_ref().map_or(Ok(None), last);
        if args.none || matches!(id, Ok(Some(_))) {
            let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
            agent.mark_good(snapshot_dir, id.as_ref().ok().cloned().flatten()).await?;
        }
        Ok((found, id))
    })?;
    let known = || found.sets.iter().find(|stored| stored.words.good).map(|stored| stored.set.id());
    let id = match (id?, args.none) {
        (None, false) => known(),
        (id, _) => id,
    };
    if context.global.json {
        context.print_json(&json!({ "machine": found.hostname, "good": id }))?;
        return Ok(Exit::Completed);
    }
    match id {
        Some(id) => writeln!(context.out, "{}: {id} is the last known good one", found.hostname)?,
        None => writeln!(context.out, "{}: no set is marked as good", found.hostname)?,
    }
    Ok(Exit::Completed)
}

/// Removes sets, all or none if one of them is protected.
///
/// # Errors
/// If one is protected, there are none of that name, a sync runs, or the machine cannot be reached.
pub fn delete(args: &SetArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let (found, ids) = with_agent(&args.place, context, async |agent, contact| {
        lock(agent, contact).await?;
        let found = Found::read(agent, &config).await?;
        let ids = found.chosen(&args.sets).and_then(|chosen| unprotected(&found, chosen));
        for id in ids.as_deref().unwrap_or_default() {
            agent.delete_set(request(&config, id)).await?;
        }
        Ok((found, ids))
    })?;
    say(context, &found, "removed", &ids?)
}

pub(super) fn ids_of(chosen: Vec<&StoredSet>) -> Vec<SetId> {
    chosen.into_iter().map(|stored| stored.set.id()).collect()
}

/// Returns the names of sets that may go; all that are protected are named, with the reason.
fn unprotected(found: &Found, chosen: Vec<&StoredSet>) -> Result<Vec<SetId>, CliError> {
    let protected: Vec<String> = chosen
        .iter()
        .filter_map(|stored| Some((stored.set.id(), render::protection(stored)?)))
        .map(|(id, why)| format!("set `{id}` on {} stays: {why}", found.hostname))
        .collect();
    if protected.is_empty() {
        return Ok(ids_of(chosen));
    }
    let is_pinned = chosen.iter().any(|stored| stored.pinned);
    let help = is_pinned.then(|| "`pc-switcher snapshots unpin SET` frees a pinned one".to_owned());
    Err(CliError::Refused { message: protected.join("; "), help })
}
