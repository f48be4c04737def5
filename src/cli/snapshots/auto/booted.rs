//! `snapshots auto booted`: some time after a start it is looked at whether all that counts is well. If so, starts are counted from
//! nought again, and a set is taken and marked as good.

use std::path::Path;
use std::process::{Command, Stdio};

use pc_switcher_agent::proto::{BootOrder, CreateSet, GoodBy, GoodMark, LockReply, RollbackOrder, Words};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_btrfs_snapshots::prune;
use pc_switcher_contract::{
    BytePath, Hostname, Machine, ModuleError, ModuleName, SetId, SnapshotKind, Threshold,
};
use pc_switcher_disk_monitor::config::DiskConfig;
use serde::Deserialize as _;
use serde_json::json;

use crate::cli::contact::{Contact, with_machines};
use crate::cli::snapshots::{automatic, create, lock_request, of};
use crate::cli::{CliError, Context, Exit};
use crate::clock;
use crate::config::HealthCheck;
use crate::health::{self, Checked, HEALTH_DIR, Place, Weight};
use crate::orchestrator::reach::Reach as _;
use crate::paths;

/// What the config says of it.
struct Settings {
    snapshots: BtrfsSnapshotsConfig,
    required: Vec<HealthCheck>,
    reserve: Threshold,
    /// Whether a state that is well is marked.
    marks: bool,
    /// Whether starts are counted.
    counts: bool,
}

/// What became of it.
enum Done {
    Marked(SetId),
    /// Why it is not marked.
    Left(String),
}

/// Takes a set and marks it, if all is well.
///
/// # Errors
/// If no set can be taken or marked.
pub fn run(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = context.load_config(&[], &[])?;
    let disk = DiskConfig::deserialize(config.table(&ModuleName::literal("disk-monitor")));
    let settings = Settings {
        snapshots: of(&config)?,
        required: config.rollback.health.clone(),
        reserve: disk.map_err(|error| CliError::Failed(error.to_string()))?.reserve_minimum,
        marks: automatic(&config)?.auto_good,
        counts: config.boot.enabled,
    };
    let wanted = CreateSet {
        set: create::by_hand(&settings.snapshots, clock::system()()),
        words: Words { note: Some("after a start that went well".into()), ..Words::default() },
        pinned: false,
        copies: automatic(&config)?.copies(),
    };
    let home = paths::home(&context.env);
    let (hostname, done) = with_machines(None, &context.env, async |contact| {
        mark(contact, &settings, wanted, home.as_deref()).await
    })?;
    if context.global.json {
        let value = match done {
            Done::Marked(id) => json!({ "machine": hostname, "good": id }),
            Done::Left(why) => json!({ "machine": hostname, "good": null, "why": why }),
        };
        context.print_json(&value)?;
        return Ok(Exit::Completed);
    }
    match done {
        Done::Marked(id) => writeln!(context.out, "{hostname}: set {id} is taken and marked as good")?,
        Done::Left(why) => writeln!(context.out, "{hostname}: no set is marked as good: {why}")?,
    }
    Ok(Exit::Completed)
}

async fn mark(
    contact: &Contact,
    settings: &Settings,
    mut wanted: CreateSet,
    home: Option<&Path>,
) -> Result<(Hostname, Done), ModuleError> {
    let machine = contact.reach.source(&contact.cancel).await?;
    let agent = Agent::new(&machine.agent);
    let hostname = agent.hostname().clone();
    let config = &settings.snapshots;
    let trouble = trouble_of(&machine, &settings.required, settings.reserve, home).await;
    // Whatever else is under way: a machine that is well has started well.
    if settings.counts && trouble.is_none() {
        agent.boot(BytePath::from(config.snapshot_dir.as_path()), BootOrder::Healthy).await?;
    }
    if settings.counts
        && let Some(why) = &trouble
    {
        tell(why);
    }
    if !settings.marks {
        let well = "`auto_good` in [snapshots] is off; the start went well".to_owned();
        return Ok((hostname, Done::Left(trouble.unwrap_or(well))));
    }
    if config.keep_good == 0 {
        return Ok((hostname, Done::Left("`keep_good` in [btrfs-snapshots] is 0".into())));
    }
    // What a sync makes of the machine, it looks at by itself.
    if let LockReply::Busy(_) = agent.lock(lock_request(contact)).await? {
        return Ok((hostname, Done::Left("a sync runs".into())));
    }
    if let Some(why) = agent.rollback(RollbackOrder::Look).await?.forbids_sync() {
        return Ok((hostname, Done::Left(why)));
    }
    if let Some(why) = trouble {
        return Ok((hostname, Done::Left(why)));
    }
    wanted.set.kind = SnapshotKind::AutoBoot;
    let id = agent.create_set(wanted).await?.set.id();
    let mark = GoodMark::Set { id: id.clone(), by: GoodBy::Boot, keep: config.keep_good };
    agent.mark_good(BytePath::from(config.snapshot_dir.as_path()), mark).await?;
    let judged = prune::look(&agent, config, clock::system()()).await?;
    // What stays goes the next time.
    let _ = prune::remove(&agent, config, &judged.verdicts, &contact.cancel).await;
    Ok((hostname, Done::Marked(id)))
}

/// Tells whoever works at a terminal that this start counts as one that failed: a few more, and the machine goes back.
fn tell(why: &str) {
    let text = format!(
        "this start is not found healthy: {why}; after some such starts in a row that do not end in order this machine goes back to its \
         last known good state by itself (`pc-switcher snapshots auto` says more). Mend it, or leave the check out of [rollback] health"
    );
    // `doctor` says it as well, so nothing is lost if nobody hears it.
    let _ = Command::new("timeout").args(["10", "wall", &text]).stdin(Stdio::null()).status();
}

/// Looks at everything, and returns what is red and counts.
pub(super) async fn trouble_of(
    machine: &Machine,
    required: &[HealthCheck],
    reserve: Threshold,
    home: Option<&Path>,
) -> Option<String> {
    let agent = Agent::new(&machine.agent);
    let place = Place {
        executor: machine.executor.as_ref(),
        agent: &agent,
        is_here: true,
        home: home.map(Path::to_owned),
        reserve,
        scripts: Path::new(HEALTH_DIR),
    };
    trouble(&health::weigh(health::look(&place).await, required))
}

/// Returns what is red and counts, whoever did it: after a start there is nothing to compare with.
fn trouble(found: &[Checked]) -> Option<String> {
    let red = health::red(found).into_iter().filter(|finding| finding.weight == Weight::Required);
    let red: Vec<String> = red.map(|finding| finding.to_string()).collect();
    (!red.is_empty()).then(|| red.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;

    #[test]
    fn what_counts_and_is_red_keeps_a_start_from_being_a_good_one() {
        let checked = |name: &str, weight, state| Checked { name: name.into(), weight, state };
        let red = || State::Red("failed".into());
        let wanted = checked("unit web.service", Weight::Wanted, red());
        let absent = checked("ssh", Weight::Required, State::Absent);
        assert_eq!(trouble(&[wanted.clone(), absent.clone()]), None);
        let bad = checked("packages", Weight::Required, red());
        assert_eq!(trouble(&[wanted, bad, absent]).as_deref(), Some("packages: failed"));
    }
}
