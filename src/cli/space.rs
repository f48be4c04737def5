//! `space`: what is free on the file systems that syncs and snapshots use, judged as a sync judges it.

use pc_switcher_agent::proto::{Gain, SpaceReport};
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{BytePath, Hostname, ModuleName, human_bytes};
use pc_switcher_disk_monitor::config::DiskConfig;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::snapshots::{Found, Where, render, with_agent};
use super::{CliError, Context, Exit};
use crate::config::Config;

/// Sessions that are named, at most.
const MOST_GAINS: usize = 5;

/// Show what is free where syncs write and snapshots lie
///
/// A btrfs can be full while gigabytes are free, so four numbers count. Available is what can be relied on: [disk] min_free
/// and reserve_minimum are compared with it. What only the sets of one session hold comes free when that is deleted; what two
/// hold, when both are.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Where,
}

/// Prints it.
///
/// # Errors
/// If the config is wrong, or the machine cannot be reached.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = context.load_config(&[], &[])?;
    let disk: DiskConfig = table(&config, "disk-monitor")?;
    let snapshots: BtrfsSnapshotsConfig = table(&config, "btrfs-snapshots")?;
    let mut paths = vec![BytePath::from("/"), BytePath::from(snapshots.snapshot_dir.as_path())];
    let folders = config.table(&ModuleName::literal("user-data"))["folders"].as_array();
    paths.extend(folders.into_iter().flatten().filter_map(Value::as_str).map(BytePath::from));
    let (found, reports, mut gains) = with_agent(&args.place, context, async |agent, _| {
        let reports = agent.space(paths).await?;
        let gains = agent.gains(BytePath::from(snapshots.snapshot_dir.as_path())).await?;
        Ok((Found::read(agent, &snapshots).await?, reports, gains))
    })?;
    let hostname = found.hostname.clone();
    gains.retain(|gain| gain.data_bytes > 0);
    gains.sort_by(|a, b| (b.data_bytes, &b.session).cmp(&(a.data_bytes, &a.session)));
    if context.global.json {
        context.print_json(&as_json(&hostname, &reports, &disk, &gains))?;
        return Ok(Exit::Completed);
    }
    for (at, report) in reports.iter().enumerate() {
        if at > 0 {
            writeln!(context.out)?;
        }
        for line in lines(&hostname, report, &disk) {
            writeln!(context.out, "{line}")?;
        }
    }
    if !gains.is_empty() {
        writeln!(context.out, "\n{hostname}: what only one session holds, in data")?;
    }
    for line in gain_lines(&found, &gains) {
        writeln!(context.out, "{line}")?;
    }
    Ok(Exit::Completed)
}

/// Returns the largest gains, with what keeps them from being had.
fn gain_lines(found: &Found, gains: &[Gain]) -> Vec<String> {
    let line = |gain: &Gain| {
        let sets = found.sets.iter().filter(|stored| stored.set.session == gain.session);
        let why: Vec<String> = sets.clone().filter_map(render::protection).collect();
        let name = sets.filter_map(|stored| stored.words.name.clone()).next();
        let name = name.map(|name| format!(", `{name}`")).unwrap_or_default();
        let stays = why.first().map(|why| format!("; {why}")).unwrap_or_default();
        format!("  {:>10}  session {}{name}{stays}", human_bytes(gain.data_bytes), gain.session)
    };
    let mut said: Vec<String> = gains.iter().take(MOST_GAINS).map(line).collect();
    let rest = gains.iter().skip(MOST_GAINS).map(|gain| gain.data_bytes).sum::<u64>();
    if gains.len() > MOST_GAINS {
        let more = gains.len() - MOST_GAINS;
        said.push(format!("  {:>10}  {more} others, each by itself", human_bytes(rest)));
    }
    said
}

fn table<T: DeserializeOwned>(config: &Config, module: &'static str) -> Result<T, CliError> {
    T::deserialize(config.table(&ModuleName::literal(module)))
        .map_err(|error| CliError::Failed(error.to_string()))
}

/// What a sync would make of a file system.
fn verdict(report: &SpaceReport, disk: &DiskConfig) -> &'static str {
    let (wanted, least) = wants(report, disk);
    match report.available_bytes {
        available if available < least => "too little to go on with a sync",
        available if available < wanted => "too little to begin a sync",
        _ => "enough",
    }
}

/// How much a sync wants to begin, and to go on.
fn wants(report: &SpaceReport, disk: &DiskConfig) -> (u64, u64) {
    (disk.min_free.bytes_of(report.size_bytes), disk.reserve_minimum.bytes_of(report.size_bytes))
}

fn lines(hostname: &Hostname, report: &SpaceReport, disk: &DiskConfig) -> Vec<String> {
    let (wanted, least) = wants(report, disk);
    let line = |name: &str, bytes: u64, what: &str| {
        format!("  {name:<14}{:>10}  {what}", human_bytes(bytes)).trim_end().to_owned()
    };
    let mut said = vec![
        format!("{hostname}: `{}`, {} of {}", report.path, report.fs_type, human_bytes(report.size_bytes)),
        line("Available", report.available_bytes, verdict(report, disk)),
    ];
    if report.fs_type == "btrfs" {
        said.push(line("Data", report.data_free_bytes, "free in what is allocated to it"));
        said.push(line("Metadata", report.metadata_free_bytes, "as well, without btrfs's own reserve"));
        said.push(line("Unallocated", report.unallocated_bytes, "can become either"));
    }
    said.push(line("To begin", wanted, "must be available: [disk] min_free"));
    said.push(line("Reserve", least, "a running sync stops below it: [disk] reserve_minimum"));
    said
}

fn as_json(hostname: &Hostname, reports: &[SpaceReport], disk: &DiskConfig, gains: &[Gain]) -> Value {
    let gain = |gain: &Gain| json!({ "session": gain.session, "data_bytes": gain.data_bytes });
    let one = |report: &SpaceReport| {
        let (wanted, least) = wants(report, disk);
        json!({
            "path": report.path,
            "file_system": report.fs_uuid,
            "type": report.fs_type,
            "size_bytes": report.size_bytes,
            "available_bytes": report.available_bytes,
            "data_free_bytes": report.data_free_bytes,
            "metadata_free_bytes": report.metadata_free_bytes,
            "unallocated_bytes": report.unallocated_bytes,
            "min_free_bytes": wanted,
            "reserve_minimum_bytes": least,
        })
    };
    json!({
        "machine": hostname,
        "file_systems": reports.iter().map(one).collect::<Vec<_>>(),
        "gains": gains.iter().map(gain).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn report(available_bytes: u64) -> SpaceReport {
        SpaceReport {
            path: "/".into(),
            fs_uuid: "x".into(),
            fs_type: "btrfs".into(),
            size_bytes: 100 * GIB,
            data_free_bytes: GIB,
            unallocated_bytes: 30 * GIB,
            metadata_free_bytes: GIB / 2,
            metadata_copies: 2,
            available_bytes,
        }
    }

    #[test]
    fn a_file_system_is_judged_as_a_sync_judges_it() {
        let disk = DiskConfig::default();
        let said = |gib: u64| verdict(&report(gib * GIB), &disk);
        assert_eq!(said(20), "enough");
        assert_eq!(said(19), "too little to begin a sync");
        assert_eq!(said(9), "too little to go on with a sync");
        let wanted = [
            "laptop: `/`, btrfs of 100.0 GiB",
            "  Available       31.0 GiB  enough",
            "  Data             1.0 GiB  free in what is allocated to it",
            "  Metadata       512.0 MiB  as well, without btrfs's own reserve",
            "  Unallocated     30.0 GiB  can become either",
            "  To begin        20.0 GiB  must be available: [disk] min_free",
            "  Reserve         10.0 GiB  a running sync stops below it: [disk] reserve_minimum",
        ];
        assert_eq!(lines(&"laptop".parse().unwrap(), &report(31 * GIB), &disk), wanted);
    }

    #[test]
    fn the_largest_gains_are_named_and_the_rest_is_summed_up() {
        let gain = |n: u64| Gain { session: format!("{n:08x}").parse().unwrap(), data_bytes: n << 20 };
        let gains: Vec<Gain> = (1..8).rev().map(gain).collect();
        let found = Found {
            hostname: "laptop".parse().unwrap(),
            sets: Vec::new(),
            strays: pc_switcher_agent::proto::Strays::default(),
        };
        let said = gain_lines(&found, &gains);
        assert_eq!((said.len(), said[0].as_str()), (6, "     7.0 MiB  session 00000007"));
        assert_eq!(said[5], "     3.0 MiB  2 others, each by itself");
    }
}
