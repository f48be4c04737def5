//! `snapshots auto booted`: some time after a start it is looked at whether all that counts is well. If so, starts are counted from
//! nought again, and a set is taken and marked as good.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

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

use super::boot::{BOOT_SERVICE, counted_in};
use super::files::{self, GOOD_SERVICE};
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
    let config = match context.load_config(&[], &[]) {
        Ok(config) => config,
        Err(error) => {
            // A newer program may refuse what an older one wrote: that says nothing of the start.
            unknown(context)?;
            return Err(error);
        }
    };
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
    let mut trouble = trouble_of(&machine, &settings.required, settings.reserve, home).await;
    let red = |trouble: &[Finding]| told(trouble.iter().filter(|finding| is_of_the_start(finding)));
    // Packages that are being changed just now, or a service that is started anew, are no failed start.
    for _ in 1..LOOKS {
        if red(&trouble).is_some() && !contact.cancel.is_cancelled() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            trouble = trouble_of(&machine, &settings.required, settings.reserve, home).await;
        }
    }
    let red = red(&trouble);
    let order = if red.is_some() { BootOrder::Red } else { BootOrder::Healthy };
    // Whatever else is under way, and whatever the config says by now: what counts is told how this start went. First of all: whoever
    // reads of it may start the machine anew at once.
    let now = agent.boot(BytePath::from(config.snapshot_dir.as_path()), order).await?.counted;
    let is_counted = settings.counts || now != Counted::Off;
    match red {
        Some(why) if is_counted => {
            tell(&is_red(&why));
            look_again();
        }
        None if settings.counts && now == Counted::Off => tell(&not_counted(config)),
        _ => {}
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
    if are_packages_younger() {
        let why =
            "packages were changed since the start, so it is another state that started well".to_owned();
        return Ok((hostname, Done::Left(why)));
    }
    wanted.set.kind = SnapshotKind::AutoBoot;
    let id = agent.create_set(wanted).await?.set.id();
    let mark = GoodMark::Set { id: id.clone(), by: GoodBy::Boot, keep: config.keep_good };
    agent.mark_good(BytePath::from(config.snapshot_dir.as_path()), mark).await?;
    let judged = prune::look(&agent, config, clock::system()()).await?;
    // What stays goes the next time.
    let _ = prune::remove_by_itself(&agent, config, &judged, &contact.cancel).await;
    Ok((hostname, Done::Marked(id)))
}

/// So often it is looked before a start counts as one that failed, and so long between two looks.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// A start that was not found healthy is looked at again after so long, until it is.
const AGAIN: &str = "10min";

/// The package manager's record of what is installed.
const PACKAGES: &str = "/var/lib/dpkg/status";

/// What is said where a start that is well cannot be counted.
fn not_counted(config: &BtrfsSnapshotsConfig) -> String {
    let dir = config.snapshot_dir.as_path().display();
    format!(
        "this start is well, and that cannot be counted: `{dir}` is not mounted, somebody removed the count of starts there, or the \
         disk is too full to write it. `pc-switcher doctor` says more; `pc-switcher snapshots auto on` begins to count again, \
         `snapshots auto off` ends it"
    )
}

/// Tells the count that nobody can say whether this start is well, where the config says nothing any more.
fn unknown(context: &Context<'_>) -> Result<(), CliError> {
    let service = std::fs::read_to_string(BOOT_SERVICE).unwrap_or_default();
    let Some(dir) = counted_in(&service).map(BytePath::from) else { return Ok(()) };
    with_machines(None, &context.env, async |contact| {
        let machine = contact.reach.source(&contact.cancel).await?;
        Agent::new(&machine.agent).boot(dir, BootOrder::Unknown).await?;
        Ok(())
    })
}

/// Has the start looked at again. Only one such timer is there at a time.
fn look_again() {
    let unit = files::unit_name(GOOD_SERVICE);
    let _ = Command::new("systemd-run")
        .args(["--quiet", "--collect", "--unit=pc-switcher-good-again"])
        .arg(format!("--on-active={AGAIN}"))
        .args(["systemctl", "start", "--no-block", unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Whether packages were changed since the machine was started, that is, since its first process was.
fn are_packages_younger() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let up: Option<f64> = read("/proc/uptime").split_whitespace().next().and_then(|word| word.parse().ok());
    let changed = std::fs::metadata(PACKAGES).and_then(|found| found.modified()).ok();
    let age = changed.and_then(|changed| changed.elapsed().ok());
    match (up, begun(&read("/proc/1/stat")), age) {
        (Some(up), Some(begun), Some(age)) => age.as_secs_f64() < up - begun,
        _ => false,
    }
}

/// In a second, as /proc counts on all machines that this program is built for (time(7), USER_HZ).
const TICKS: f64 = 100.0;

/// Returns when a process began, in seconds since the kernel did (proc_pid_stat(5)).
fn begun(stat: &str) -> Option<f64> {
    // Its name may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(ticks as f64 / TICKS)
}

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
    fn a_process_began_when_its_line_says_whatever_its_name_is() {
        let fields: Vec<String> =
            (4..=52).map(|n| if n == 22 { "700".to_owned() } else { n.to_string() }).collect();
        let line = format!("1 (in) it (d) S {}", fields.join(" "));
        assert_eq!(begun(&line), Some(7.0));
        assert_eq!(begun("garbled"), None);
    }

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
