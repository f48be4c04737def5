//! `snapshots auto take`: one set, as timer and hook want it. Does nothing where another set or a sync sees to it.

use std::io::Read as _;

use jiff::{SignedDuration, Timestamp};
use pc_switcher_agent::proto::{CreateSet, LockReply, StoredSet, TakeSet, Words};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_btrfs_snapshots::prune::{self, Pruned};
use pc_switcher_contract::{Hostname, ModuleError, SetId, SnapshotKind};
use serde_json::json;

use super::packages;
use crate::cli::contact::Contact;
use crate::cli::snapshots::{Found, Where, create, lock_request, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;

/// A set before packages change serves for all that change so soon after it (facts/last-known-good.md G12).
const JOIN: SignedDuration = SignedDuration::from_mins(10);

/// More than apt ever says.
const SAID_MAX: u64 = 16 << 20;

/// Take one set by the clock, or before packages change
#[derive(Debug, Clone, clap::Args)]
pub struct TakeArgs {
    /// Read from standard input which packages are about to change, as apt says it
    #[arg(long)]
    packages: bool,
}

/// What became of it.
enum Done {
    Taken(SetId, Pruned),
    /// Why there was no need for one.
    Spared(String),
}

/// Takes a set if there is need for one.
///
/// # Errors
/// If it cannot be taken.
pub fn run(args: &TakeArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = context.load_config(&[], &[])?;
    let (snapshots, settings) = (super::super::of(&config)?, super::super::automatic(&config)?);
    let (kind, words) = match args.packages {
        false => (SnapshotKind::Scheduled, Words::default()),
        true => {
            let mut said = Vec::new();
            std::io::stdin().lock().take(SAID_MAX).read_to_end(&mut said)?;
            let names = packages::names(&String::from_utf8_lossy(&said));
            let Some(kind) = packages::kind(&names, &settings) else { return Ok(Exit::Completed) };
            (kind, Words { note: Some(packages::note(&names)), ..Words::default() })
        }
    };
    let set = TakeSet { kind, ..create::by_hand(&snapshots, clock::system()()) };
    let (hostname, done) = with_agent(&Where::default(), context, async |agent, contact| {
        let wanted = CreateSet { set, words, pinned: false, copies: settings.copies() };
        let done = take(agent, contact, &snapshots, wanted).await?;
        Ok((agent.hostname().clone(), done))
    })?;
    say(context, &hostname, &done)
}

async fn take(
    agent: &Agent,
    contact: &Contact,
    config: &BtrfsSnapshotsConfig,
    wanted: CreateSet,
) -> Result<Done, ModuleError> {
    // A sync takes sets of its own, and what it does to packages is its own affair.
    if let LockReply::Busy(_) = agent.lock(lock_request(contact)).await? {
        return Ok(Done::Spared("a sync runs, which takes sets of its own".into()));
    }
    let now = clock::system()();
    let found = Found::read(agent, config).await?;
    let set = &wanted.set;
    if let Some(recent) = joined(&found.sets, set.kind, now) {
        return Ok(Done::Spared(format!("set {} was taken just before", recent.set.id())));
    }
    if set.kind == SnapshotKind::Scheduled && agent.has_all(set.clone()).await? {
        return Ok(Done::Spared("nothing changed since the last set".into()));
    }
    let id = agent.create_set(wanted).await?.set.id();
    let judged = prune::look(agent, config, now).await?;
    let pruned = prune::remove(agent, config, &judged.verdicts, prune::Waits::InAll, &contact.cancel).await;
    Ok(Done::Taken(id, pruned))
}

/// Returns the set that serves instead of one of this kind.
fn joined(sets: &[StoredSet], kind: SnapshotKind, now: Timestamp) -> Option<&StoredSet> {
    let serves = |of: SnapshotKind| match kind {
        SnapshotKind::AutoBoot => of == SnapshotKind::AutoBoot,
        SnapshotKind::AutoUpdate => matches!(of, SnapshotKind::AutoBoot | SnapshotKind::AutoUpdate),
        _ => false,
    };
    let is_recent = |stored: &&StoredSet| {
        let age = now.duration_since(stored.set.stamp.timestamp());
        age < JOIN && age > -JOIN
    };
    sets.iter().filter(|stored| serves(stored.set.kind) && stored.missing.is_empty()).find(is_recent)
}

fn say(context: &mut Context<'_>, hostname: &Hostname, done: &Done) -> Result<Exit, CliError> {
    if context.global.json {
        let value = match done {
            Done::Taken(id, pruned) => json!({ "machine": hostname, "set": id, "removed": pruned.removed }),
            Done::Spared(why) => json!({ "machine": hostname, "set": null, "why": why }),
        };
        context.print_json(&value)?;
        return Ok(Exit::Completed);
    }
    match done {
        Done::Spared(why) => writeln!(context.out, "{hostname}: no set is taken: {why}")?,
        Done::Taken(id, pruned) => {
            writeln!(context.out, "{hostname}: set {id} is taken")?;
            for id in &pruned.removed {
                writeln!(context.out, "{hostname}: set {id} is removed")?;
            }
            for (id, why) in &pruned.left {
                writeln!(context.err, "warning: {hostname}: set `{id}` is not removed: {why}")?;
            }
        }
    }
    Ok(Exit::Completed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::snapshots::tests::stored;

    #[test]
    fn a_set_before_packages_serves_for_ten_minutes_and_one_of_lesser_kind_for_none_of_booting() {
        let now: Timestamp = "2025-11-15T12:00:00Z".parse().unwrap();
        let joins = |stamp: &str, of: &str, kind| {
            let sets = [stored(&format!("{stamp}-abc12345-{of}"), 7)];
            joined(&sets, kind, now).is_some()
        };
        use SnapshotKind::{AutoBoot, AutoUpdate, Scheduled};
        assert!(joins("20251115T115500Z", "autoupdate", AutoUpdate));
        assert!(joins("20251115T115500Z", "autoboot", AutoUpdate));
        assert!(!joins("20251115T115500Z", "autoupdate", AutoBoot));
        assert!(joins("20251115T115500Z", "autoboot", AutoBoot));
        assert!(!joins("20251115T114500Z", "autoupdate", AutoUpdate), "too old");
        assert!(!joins("20251115T130000Z", "autoupdate", AutoUpdate), "of a clock that ran ahead");
        assert!(!joins("20251115T115500Z", "manual", AutoUpdate));
        assert!(!joins("20251115T115500Z", "scheduled", Scheduled));
    }
}
