//! `space`: what is free on the file systems that syncs and snapshots use, judged as a sync judges it.

mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_agent::proto::{Gain, Holdings, HoldingsRequest, SpaceReport};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{BytePath, ModuleError, ModuleName, SetId};
use pc_switcher_disk_monitor::config::DiskConfig;
use pc_switcher_disk_monitor::forecast::{Outlook, Pace, Seen, note, outlook};
use pc_switcher_disk_monitor::parts::Parts;
use pc_switcher_disk_monitor::seen::{self, Past};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::snapshots::{Found, Where, with_agent_in};
use super::{CliError, Context, Exit};
use crate::clock;
use crate::config::Config;

/// Show what is free where syncs write and snapshots lie
///
/// A btrfs can be full while gigabytes are free, so four numbers count. Available is what can be relied on: [disk] min_free
/// and reserve_minimum are compared with it. When it is used up is told by what syncs saw of it in the last 30 days. What only
/// the sets of one session hold comes free when that is deleted; what two hold, when both are. A disk with snapshots should be
/// as large as twice what they are taken of, all else on it and 10 GiB.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Look again every so many seconds, until Ctrl+C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "5",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    #[command(flatten)]
    place: Where,
}

/// What is asked for.
struct Asked {
    paths: Vec<BytePath>,
    disk: DiskConfig,
    snapshots: BtrfsSnapshotsConfig,
}

/// One look at a machine.
struct Look {
    at: Timestamp,
    found: Found,
    reports: Vec<SpaceReport>,
    gains: Vec<Gain>,
    past: Past,
    /// The file system of the snapshots, and what it holds.
    holdings: (String, Holdings),
}

impl Look {
    /// Looks. What the sessions hold is read only if there are other sets than at the look before.
    async fn take(agent: &Agent, asked: &Asked, before: Option<&Look>) -> Result<Self, ModuleError> {
        let found = Found::read(agent, &asked.snapshots).await?;
        let members = found.sets.iter().flat_map(|stored| &stored.set.members);
        let elsewhere = members.filter(|member| member.apart.is_some());
        let elsewhere: BTreeSet<BytePath> = elsewhere.filter_map(|member| member.path.parent()).collect();
        let reports = agent.space(asked.paths.iter().cloned().chain(elsewhere).collect()).await?;
        let (gains, past, holdings) = match before.filter(|before| before.ids().eq(ids(&found))) {
            Some(before) => (before.gains.clone(), before.past.clone(), before.holdings.clone()),
            None => {
                let dir = BytePath::from(asked.snapshots.snapshot_dir.as_path());
                let mut gains = agent.gains(dir.clone()).await?;
                gains.retain(|gain| gain.data_bytes > 0);
                gains.sort_by(|a, b| (b.data_bytes, &b.session).cmp(&(a.data_bytes, &a.session)));
                let there = agent.space(vec![dir.clone()]).await?.into_iter().next();
                let fs_uuid = there.map(|report| report.fs_uuid).unwrap_or_default();
                let subvolumes = asked.snapshots.subvolumes.as_slice().to_vec();
                let held = agent.holdings(HoldingsRequest { snapshot_dir: dir, subvolumes }).await?;
                (gains, seen::recall(agent).await?, (fs_uuid, held))
            }
        };
        Ok(Self { at: clock::system()(), found, reports, gains, past, holdings })
    }

    fn ids(&self) -> impl Iterator<Item = SetId> {
        ids(&self.found)
    }

    /// Returns what the file system of the snapshots is taken up by; `None` of others.
    fn parts(&self, report: &SpaceReport) -> Option<Parts> {
        let (fs_uuid, held) = &self.holdings;
        (report.fs_uuid == *fs_uuid).then(|| Parts::of(report, held))
    }

    /// Returns what is to be expected of a file system by what syncs saw of it.
    fn outlook(&self, report: &SpaceReport) -> Outlook {
        let seen = self.past.get(&report.fs_uuid).map(Vec::as_slice).unwrap_or_default();
        outlook(seen, Seen::of(report, self.at), Pace::DAYS)
    }
}

fn ids(found: &Found) -> impl Iterator<Item = SetId> {
    found.sets.iter().map(|stored| stored.set.id())
}

/// Prints it.
///
/// # Errors
/// If the config is wrong, or the machine cannot be reached.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = context.load_config(&[], &[])?;
    let (disk, snapshots): (DiskConfig, BtrfsSnapshotsConfig) =
        (table(&config, "disk-monitor")?, table(&config, "btrfs-snapshots")?);
    let mut paths = vec![BytePath::from("/"), BytePath::from(snapshots.snapshot_dir.as_path())];
    let folders = config.table(&ModuleName::literal("user-data"))["folders"].as_array();
    paths.extend(folders.into_iter().flatten().filter_map(Value::as_str).map(BytePath::from));
    let asked = Asked { paths, disk, snapshots };
    let env = context.env.clone();
    let shown = with_agent_in(&args.place, &env, async |agent, _| {
        let first = Look::take(agent, &asked, None).await?;
        let Some(seconds) = args.watch else { return Ok(show(&first, &asked.disk, context)) };
        watch(agent, &asked, first, Duration::from_secs(seconds), context).await
    })?;
    shown.map(|()| Exit::Completed)
}

/// Prints one look.
fn show(look: &Look, disk: &DiskConfig, context: &mut Context<'_>) -> Result<(), CliError> {
    if context.global.json {
        return context.print_json(&render::as_json(look, disk));
    }
    for (at, report) in look.reports.iter().enumerate() {
        if at > 0 {
            writeln!(context.out)?;
        }
        for line in render::lines(&look.found.hostname, report, disk, look.outlook(report)) {
            writeln!(context.out, "{line}")?;
        }
        for line in look.parts(report).iter().flat_map(|parts| render::part_lines(report, parts)) {
            writeln!(context.out, "{line}")?;
        }
    }
    show_gains(look, context)
}

fn show_gains(look: &Look, context: &mut Context<'_>) -> Result<(), CliError> {
    if !look.gains.is_empty() {
        writeln!(context.out, "\n{}: what only one session holds, in data", look.found.hostname)?;
    }
    for line in render::gain_lines(&look.found, &look.gains) {
        writeln!(context.out, "{line}")?;
    }
    Ok(())
}

/// Looks again and again; each look is a line per file system, or one of JSON.
async fn watch(
    agent: &Agent,
    asked: &Asked,
    mut last: Look,
    every: Duration,
    context: &mut Context<'_>,
) -> Result<Result<(), CliError>, ModuleError> {
    let mut watched: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    if !context.global.json
        && let Err(error) = show(&last, &asked.disk, context)
    {
        return Ok(Err(error));
    }
    let mut is_first = true;
    loop {
        let now = match std::mem::take(&mut is_first) {
            true => None,
            false => {
                tokio::time::sleep(every).await;
                Some(Look::take(agent, asked, Some(&last)).await?)
            }
        };
        if let Err(error) = step(&last, now.as_ref(), asked, &mut watched, context) {
            return Ok(Err(error));
        }
        last = now.unwrap_or(last);
    }
}

/// Prints what one more look found; without one, how it begins.
fn step(
    last: &Look,
    now: Option<&Look>,
    asked: &Asked,
    watched: &mut BTreeMap<String, Vec<Seen>>,
    context: &mut Context<'_>,
) -> Result<(), CliError> {
    let look = now.unwrap_or(last);
    if context.global.json {
        writeln!(context.out, "{}", render::as_json(look, &asked.disk))?;
    } else if let Some(now) = now {
        if !now.ids().eq(last.ids()) {
            show_gains(now, context)?;
            writeln!(context.out)?;
        }
        for report in &now.reports {
            let before = last.reports.iter().find(|before| before.fs_uuid == report.fs_uuid);
            let seen = watched.get(&report.fs_uuid).map(Vec::as_slice).unwrap_or_default();
            let outlook = outlook(seen, Seen::of(report, now.at), Pace::WATCHED);
            writeln!(context.out, "{}", render::watched(now.at, report, before, &asked.disk, outlook))?;
        }
    } else {
        writeln!(context.out)?;
    }
    for report in &look.reports {
        let seen = watched.entry(report.fs_uuid.clone()).or_default();
        note(seen, Seen::of(report, look.at), Pace::WATCHED);
    }
    context.out.flush()?;
    Ok(())
}

fn table<T: DeserializeOwned>(config: &Config, module: &'static str) -> Result<T, CliError> {
    T::deserialize(config.table(&ModuleName::literal(module)))
        .map_err(|error| CliError::Failed(error.to_string()))
}
