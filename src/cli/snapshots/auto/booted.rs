//! `snapshots auto booted`: some time after a start it is looked at whether all that counts is well. If so, starts are counted from
//! nought again, and a set is taken and marked as good.

use std::path::Path;
use std::process::{Command, Stdio};

use pc_switcher_agent::proto::{
    BootOrder, Counted, CreateSet, GoodBy, GoodMark, LockReply, RollbackOrder, Words,
};
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
use crate::health::{self, Checked, Finding, HEALTH_DIR, Place, Weight};
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
    if settings.counts {
        let dir = BytePath::from(config.snapshot_dir.as_path());
        let red = told(trouble.iter().filter(|finding| is_of_the_start(finding)));
        let order = if red.is_some() { BootOrder::Red } else { BootOrder::Healthy };
        // First: whoever reads of it may start the machine anew at once.
        let now = agent.boot(dir, order).await?.counted;
        match red {
            Some(why) => tell(&is_red(&why)),
            None if now == Counted::Off => tell(NOT_COUNTED),
            None => {}
        }
    }
    let trouble = told(trouble.iter());
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
    let _ = prune::remove(&agent, config, &judged.verdicts, prune::Waits::InAll, &contact.cancel).await;
    Ok((hostname, Done::Marked(id)))
}

/// What is said where a start that is well cannot be counted.
const NOT_COUNTED: &str = "this start is well, and starts are not counted any more: somebody removed their count, or the disk is too \
    full to write it. Make room, and `pc-switcher snapshots auto on` begins to count again";

/// Says that this start counts as one that failed: a few more, and the machine goes back.
fn is_red(why: &str) -> String {
    format!(
        "this start is not found healthy: {why}; after some such starts in a row this machine goes back to its last known good state by \
         itself (`pc-switcher snapshots auto` says more). Mend it and have it looked at again (`sudo systemctl start pc-switcher-good`), \
         or leave the check out of [rollback] health"
    )
}

/// Tells whoever works at a terminal.
fn tell(text: &str) {
    // `doctor` says it as well, so nothing is lost if nobody hears it.
    let _ = Command::new("timeout").args(["10", "wall", text]).stdin(Stdio::null()).status();
}

/// Whether something red speaks against a start. A disk that is full does not: going back makes no room.
pub(super) fn is_of_the_start(finding: &Finding) -> bool {
    health::shipped(&finding.name) != Some(HealthCheck::DiskSpace)
}

/// Says what is red, if anything.
pub(super) fn told<'a>(found: impl Iterator<Item = &'a Finding>) -> Option<String> {
    let red: Vec<String> = found.map(ToString::to_string).collect();
    (!red.is_empty()).then(|| red.join("; "))
}

/// Looks at everything, and returns what is red and counts.
pub(super) async fn trouble_of(
    machine: &Machine,
    required: &[HealthCheck],
    reserve: Threshold,
    home: Option<&Path>,
) -> Vec<Finding> {
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
fn trouble(found: &[Checked]) -> Vec<Finding> {
    health::red(found).into_iter().filter(|finding| finding.weight == Weight::Required).collect()
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
        assert_eq!(trouble(&[wanted.clone(), absent.clone()]), []);
        let bad = checked("packages", Weight::Required, red());
        let full = checked("disk space", Weight::Required, red());
        let found = trouble(&[wanted, bad, absent, full]);
        assert_eq!(told(found.iter()).as_deref(), Some("packages: failed; disk space: failed"));
        let of_the_start = found.iter().filter(|finding| is_of_the_start(finding));
        assert_eq!(told(of_the_start).as_deref(), Some("packages: failed"), "going back makes no room");
    }
}
