//! `bench-sets`: what the store of sets takes by itself, without the processes of a command. Called by `benches/snapshots`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use clap::{Parser, Subcommand};
use jiff::{Timestamp, ToSpan};
use pc_switcher_agent::linux::snapshots::{Needs, list_sets, take_set};
use pc_switcher_agent::proto::{AgentError, StoredSet, TakeSet};
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_btrfs_snapshots::retention::judge;
use pc_switcher_contract::{SnapshotKind, SnapshotSet, SubvolumeName, UtcStamp};
use serde::Deserialize;
use serde_json::{Value, json};

/// Times the store of sets in one snapshot directory, and prints what it saw as JSON.
#[derive(Debug, Parser)]
struct Cli {
    #[arg(long)]
    snapshot_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes so many sets.
    Take {
        #[arg(long)]
        count: u32,
        #[arg(long = "subvolume", required = true)]
        subvolumes: Vec<SubvolumeName>,
        /// They are dated an hour from each other; otherwise all are of now.
        #[arg(long)]
        hourly: bool,
    },
    /// Lists all sets so many times, and reads their records by themselves.
    List { count: u32 },
    /// Says of all sets so many times which would stay.
    Plan { count: u32 },
}

/// Of a record of a set this is read.
#[derive(Debug, Deserialize)]
struct Record {
    set: SnapshotSet,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(seen) => {
            println!("{seen}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<Value, Box<dyn Error>> {
    let dir = cli.snapshot_dir.as_path();
    match &cli.command {
        Command::Take { count, subvolumes, hourly } => take(dir, *count, subvolumes, *hourly),
        Command::List { count } => {
            let (mut lists, mut records, mut sets) = (Vec::new(), Vec::new(), 0);
            for _ in 0..*count {
                let begun = Instant::now();
                sets = listed(dir)?.len();
                lists.push(millis(begun));
                let begun = Instant::now();
                let read = read_records(dir)?;
                records.push(millis(begun));
                if read != sets {
                    return Err(format!("{read} records of {sets} sets").into());
                }
            }
            Ok(json!({ "sets": sets, "ms": lists, "records_ms": records }))
        }
        Command::Plan { count } => {
            let config = BtrfsSnapshotsConfig::default();
            let (mut plans, mut stay) = (Vec::new(), 0);
            for _ in 0..*count {
                let begun = Instant::now();
                let sets = listed(dir)?;
                let verdicts = judge(&sets, Timestamp::now(), &config.keep, &config.keep_min);
                plans.push(millis(begun));
                stay = verdicts.iter().filter(|verdict| verdict.stays).count();
            }
            Ok(json!({ "ms": plans, "stay": stay }))
        }
    }
}

fn take(dir: &Path, count: u32, subvolumes: &[SubvolumeName], hourly: bool) -> Result<Value, Box<dyn Error>> {
    let first = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let (mut times, mut consistent) = (Vec::new(), 0);
    for n in 0..count {
        let hours = if hourly { i64::from(count - n) } else { 0 };
        let request = TakeSet {
            session: format!("{:08x}", first.wrapping_add(n)).parse()?,
            stamp: UtcStamp::new(Timestamp::now() - hours.hours()),
            kind: SnapshotKind::PostSync,
            snapshot_dir: dir.into(),
            subvolumes: subvolumes.to_vec(),
        };
        let begun = Instant::now();
        let (set, reference) = take_set(&request)?;
        times.push(millis(begun));
        drop(reference);
        consistent += u32::from(set.consistent);
    }
    Ok(json!({ "ms": times, "of_one_instant": consistent }))
}

fn listed(dir: &Path) -> Result<Vec<StoredSet>, AgentError> {
    let mut sets = Vec::new();
    list_sets(dir, Ok(Needs::default()), &mut |set| {
        sets.push(set);
        Ok(())
    })?;
    Ok(sets)
}

/// Reads what lies beside each set and nothing else; how many there are.
fn read_records(dir: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir.join(".pc-switcher/sets"))? {
        let record: Record = serde_json::from_slice(&fs::read(entry?.path().join("meta.json"))?)?;
        count += usize::from(!record.set.members.is_empty());
    }
    Ok(count)
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}
