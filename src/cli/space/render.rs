//! What `space` found, in words and as JSON.

use std::cmp::Ordering;

use jiff::Timestamp;
use pc_switcher_agent::proto::{Gain, SpaceReport};
use pc_switcher_contract::{Hostname, human_bytes};
use pc_switcher_disk_monitor::config::DiskConfig;
use pc_switcher_disk_monitor::forecast::Outlook;
use pc_switcher_disk_monitor::parts::Parts;
use serde_json::{Value, json};

use super::Look;
use crate::cli::snapshots::{Found, render};

/// Sessions that are named, at most.
const MOST_GAINS: usize = 5;

/// Returns the largest gains, with what keeps them from being had.
pub(super) fn gain_lines(found: &Found, gains: &[Gain]) -> Vec<String> {
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

fn row(name: &str, value: &str, what: &str) -> String {
    format!("  {name:<14}{value:>10}  {what}")
}

/// Returns the lines of what the file system of the snapshots is taken up by.
pub(super) fn part_lines(report: &SpaceReport, parts: &Parts) -> Vec<String> {
    let line = |name: &str, bytes: u64, what: &str| row(name, &human_bytes(bytes), what);
    let advised = "or more should the disk have: twice the source, all else and 10 GiB";
    let mut said = vec![
        line("Source", parts.source_bytes, "what sets are taken of"),
        line("All else", parts.other_bytes, "what lies beside it: other subvolumes, images, metadata"),
        line("Snapshots", parts.snapshot_bytes, "what sets alone hold, all together"),
        line("Advised", parts.advised_bytes(), advised),
    ];
    if let Some(lacks) = parts.lacks(report) {
        said.push(line(
            "Too small by",
            lacks,
            "while all of the source is written anew, sets may have to go",
        ));
    }
    said
}

/// Returns the lines for one file system.
pub(super) fn lines(
    hostname: &Hostname,
    report: &SpaceReport,
    disk: &DiskConfig,
    outlook: Outlook,
) -> Vec<String> {
    let (wanted, least) = wants(report, disk);
    let line = |name: &str, bytes: u64, what: &str| row(name, &human_bytes(bytes), what);
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
    said.push(match outlook {
        Outlook::Unknown => row("Full in", "?", "syncs have seen too little of it so far"),
        Outlook::Steady => row("Full in", "-", "it gets no fuller"),
        Outlook::Filling { bytes_per_day, days } => {
            row("Full in", &time(days), &format!("at {} a day", human_bytes(bytes_per_day as u64)))
        }
    });
    said
}

/// Returns a time in the largest unit of which there are at least two.
fn time(days: f64) -> String {
    let (number, unit) = match days {
        days if days >= 2.0 => (days, "days"),
        days if days * 24.0 >= 2.0 => (days * 24.0, "h"),
        days => (days * 1440.0, "min"),
    };
    format!("{} {unit}", number.floor())
}

/// Returns the line for one more look at a file system.
pub(super) fn watched(
    at: Timestamp,
    report: &SpaceReport,
    before: Option<&SpaceReport>,
    disk: &DiskConfig,
    outlook: Outlook,
) -> String {
    let before = before.map_or(report.available_bytes, |before| before.available_bytes);
    let change = match report.available_bytes.cmp(&before) {
        Ordering::Equal => "as before".to_owned(),
        Ordering::Less => format!("{} less", human_bytes(before - report.available_bytes)),
        Ordering::Greater => format!("{} more", human_bytes(report.available_bytes - before)),
    };
    let judged = match verdict(report, disk) {
        "enough" => String::new(),
        verdict => format!(", {verdict}"),
    };
    let pace = match outlook {
        Outlook::Unknown | Outlook::Steady => String::new(),
        Outlook::Filling { days, .. } => format!(", full in {} if it goes on so", time(days)),
    };
    let chunks = match report.fs_type == "btrfs" {
        true => format!(
            " (data {}, metadata {}, unallocated {})",
            human_bytes(report.data_free_bytes),
            human_bytes(report.metadata_free_bytes),
            human_bytes(report.unallocated_bytes)
        ),
        false => String::new(),
    };
    let available = human_bytes(report.available_bytes);
    format!("{}  `{}`  {available}, {change}{chunks}{judged}{pace}", at.strftime("%H:%M:%S"), report.path)
}

/// Returns one look as JSON.
pub(super) fn as_json(look: &Look, disk: &DiskConfig) -> Value {
    let gain = |gain: &Gain| json!({ "session": gain.session, "data_bytes": gain.data_bytes });
    let one = |report: &SpaceReport| {
        let (wanted, least) = wants(report, disk);
        let parts = look.parts(report);
        let (outlook, bytes_per_day, days_to_full) = match look.outlook(report) {
            Outlook::Unknown => ("unknown", None, None),
            Outlook::Steady => ("steady", None, None),
            Outlook::Filling { bytes_per_day, days } => {
                ("filling", Some(bytes_per_day as u64), Some(days as u64))
            }
        };
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
            "outlook": outlook,
            "bytes_per_day": bytes_per_day,
            "days_to_full": days_to_full,
            "source_bytes": parts.map(|parts| parts.source_bytes),
            "other_bytes": parts.map(|parts| parts.other_bytes),
            "snapshot_bytes": parts.map(|parts| parts.snapshot_bytes),
            "advised_bytes": parts.map(|parts| parts.advised_bytes()),
        })
    };
    json!({
        "machine": look.found.hostname,
        "at": look.at,
        "file_systems": look.reports.iter().map(one).collect::<Vec<_>>(),
        "gains": look.gains.iter().map(gain).collect::<Vec<_>>(),
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
            "  Full in          41 days  at 1.5 GiB a day",
        ];
        let filling = Outlook::Filling { bytes_per_day: 1.5 * GIB as f64, days: 41.3 };
        assert_eq!(lines(&"laptop".parse().unwrap(), &report(31 * GIB), &disk, filling), wanted);
    }

    #[test]
    fn what_a_disk_is_taken_up_by_is_said_with_how_large_it_should_be() {
        let parts = Parts {
            source_bytes: 40 * GIB,
            other_bytes: 9 * GIB,
            snapshot_bytes: 20 * GIB,
            free_bytes: 31 * GIB,
        };
        let wanted = [
            "  Source          40.0 GiB  what sets are taken of",
            "  All else         9.0 GiB  what lies beside it: other subvolumes, images, metadata",
            "  Snapshots       20.0 GiB  what sets alone hold, all together",
            "  Advised         99.0 GiB  or more should the disk have: twice the source, all else and 10 GiB",
        ];
        assert_eq!(part_lines(&report(31 * GIB), &parts), wanted);
        let small = Parts { source_bytes: 41 * GIB, ..parts };
        let said = part_lines(&report(31 * GIB), &small).pop().unwrap();
        assert!(said.starts_with("  Too small by     1.0 GiB  "), "{said}");
    }

    #[test]
    fn a_look_while_somebody_watches_says_what_changed_and_where_it_leads() {
        let at = "2025-11-15T12:00:05Z".parse().unwrap();
        let disk = DiskConfig::default();
        let filling = Outlook::Filling { bytes_per_day: 1.0, days: 0.5 };
        assert_eq!(
            watched(at, &report(31 * GIB), Some(&report(32 * GIB)), &disk, filling),
            "12:00:05  `/`  31.0 GiB, 1.0 GiB less (data 1.0 GiB, metadata 512.0 MiB, unallocated 30.0 GiB), \
             full in 12 h if it goes on so"
        );
        let still = watched(at, &report(9 * GIB), Some(&report(9 * GIB)), &disk, Outlook::Unknown);
        assert!(
            still.contains("9.0 GiB, as before (") && still.ends_with(", too little to go on with a sync")
        );
        assert_eq!([40.0, 1.5, 0.01].map(time), ["40 days", "36 h", "14 min"]);
    }

    #[test]
    fn the_largest_gains_are_named_and_the_rest_is_summed_up() {
        let gain = |n: u64| Gain {
            session: format!("{n:08x}").parse().unwrap(),
            data_bytes: n << 20,
            elsewhere_bytes: 0,
        };
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
