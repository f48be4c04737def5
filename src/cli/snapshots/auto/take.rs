//! `snapshots auto take`: one set, as timer and hook want it. Does nothing where another set or a sync sees to it.

use std::io::Read as _;

use jiff::{SignedDuration, Timestamp};
use pc_switcher_agent::proto::{CreateSet, CreatedSet, LockReply, StoredSet, TakeSet, Words};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_btrfs_snapshots::prune::Pruned;
use pc_switcher_btrfs_snapshots::take::{Taken, take_and_prune};
use pc_switcher_contract::{ExecError, Hostname, ModuleError, SnapshotKind};
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
    Taken(CreatedSet, Pruned),
    /// What went so that there is room, and why there is none.
    NoRoom(ExecError, Pruned),
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
    say(context, args, &hostname, &done)?;
    match done {
        Done::NoRoom(error, _) => Err(ModuleError::from(error).into()),
        Done::Taken(..) | Done::Spared(_) => Ok(Exit::Completed),
    }
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
    let Taken { created, pruned } = take_and_prune(agent, config, now, wanted, &contact.cancel).await?;
    match created {
        Ok(created) => Ok(Done::Taken(created, pruned)),
        // What went is to be said all the same.
        Err(error) => Ok(Done::NoRoom(error, pruned)),
    }
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
    sets.iter()
        .filter(|stored| serves(stored.set.kind) && stored.missing.is_empty() && stored.away.is_empty())
        .find(is_recent)
}

fn say(context: &mut Context<'_>, args: &TakeArgs, hostname: &Hostname, done: &Done) -> Result<(), CliError> {
    if context.global.json {
        let value = match done {
            Done::Taken(created, pruned) => json!({
                "machine": hostname,
                "set": created.set.id(),
                "removed": pruned.removed,
                "notes": created.notes,
            }),
            Done::NoRoom(why, pruned) => {
                json!({ "machine": hostname, "set": null, "why": why.to_string(), "removed": pruned.removed })
            }
            Done::Spared(why) => json!({ "machine": hostname, "set": null, "why": why }),
        };
        return context.print_json(&value);
    }
    match done {
        Done::Spared(why) => writeln!(context.out, "{hostname}: no set is taken: {why}")?,
        Done::Taken(created, pruned) => {
            for line in warnings(args.packages, &created.notes) {
                writeln!(context.err, "warning: {hostname}: {line}")?;
            }
            writeln!(context.out, "{hostname}: set {} is taken", created.set.id())?;
            say_pruned(context, hostname, pruned)?;
        }
        Done::NoRoom(_, pruned) => say_pruned(context, hostname, pruned)?,
    }
    Ok(())
}

/// Returns what is to be known of a set that was taken: in the middle of what apt says one line.
fn warnings(is_one: bool, notes: &[String]) -> Vec<String> {
    match is_one && !notes.is_empty() {
        true => vec![notes.join("; ")],
        false => notes.to_vec(),
    }
}

fn say_pruned(context: &mut Context<'_>, hostname: &Hostname, pruned: &Pruned) -> Result<(), CliError> {
    for id in &pruned.removed {
        writeln!(context.out, "{hostname}: set {id} is removed")?;
    }
    for (id, why) in &pruned.left {
        writeln!(context.err, "warning: {hostname}: set `{id}` is not removed: {why}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::snapshots::tests::stored;

    #[test]
    fn what_is_to_be_known_is_one_line_in_the_middle_of_what_apt_says() {
        let notes = ["the pool fills up".to_owned(), "`/mnt` is not in it".to_owned()];
        assert_eq!(warnings(true, &notes), ["the pool fills up; `/mnt` is not in it"]);
        assert_eq!(warnings(false, &notes), notes);
        assert_eq!(warnings(true, &[]), Vec::<String>::new());
    }

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
