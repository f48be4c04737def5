//! Bringing versions back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use jiff::Timestamp;
use pc_switcher_contract::human_bytes;
use pc_switcher_vault::engine::{Full, Trouble};
use pc_switcher_vault::service::{RestoreOrder, SnapshotOrder, SnapshotReport, Waiting, Which};
use pc_switcher_vault::store::{Thaw, Tier};
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::dirs::{ending, said, shown, tell, text};
use super::passphrase::Secret;
use super::watch::Watch;
use super::{absolute, here, open};
use crate::events::clean;

/// Restore a version of a file, all files of a directory, or what a snapshot holds
///
/// The file is written beside the original as NAME.CHECKSUM, with its rights, owner, times and attributes. Nothing is
/// replaced unless --in-place is given; then what is there is staged first, and the next backup makes a version of it. Links,
/// pipes and devices come back, too, and in a directory hard links and the directories' own rights, times and attributes.
///
/// What lies in cold storage (GLACIER, DEEP_ARCHIVE) the provider is asked to fetch, and all else is restored; the same command goes on once it
/// is there.
///
/// With --snapshot, what one snapshot holds comes back below --to, whoever wrote it: also restic, and other machines. Without a path that is
/// everything, with one directory what is in it; several paths come back under their own names.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The file or directory; it need not be there any more
    #[arg(required_unless_present = "snapshot")]
    filename: Option<PathBuf>,
    /// The checksum of the version, or its beginning; the current version if none is given. With --snapshot further paths
    #[arg(value_name = "VERSION", conflicts_with = "at")]
    version: Vec<OsString>,
    /// From the snapshot with this id, or with the only one that begins so; `bt list --snapshots` names them
    #[arg(long, value_name = "ID", requires = "to", conflicts_with_all = ["at", "in_place", "short_name"])]
    snapshot: Option<String>,
    /// Only from the vault of this name
    #[arg(long, value_name = "NAME", requires = "snapshot")]
    vault: Option<String>,
    /// The newest version that is not later, for example 2026-01-02T15:00:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Below this directory, under the original name
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// In place of what is there
    #[arg(long, conflicts_with_all = ["to", "short_name"])]
    in_place: bool,
    /// Leave rights, owner, times and attributes alone
    #[arg(long)]
    content_only: bool,
    /// Give the name twelve digits of the checksum and .btrestored
    #[arg(long, conflicts_with = "to")]
    short_name: bool,
    /// For so many days the provider keeps there what it fetches from cold storage
    #[arg(long, value_name = "DAYS", default_value_t = Thaw::default().days, value_parser = clap::value_parser!(u32).range(1..=365))]
    thaw_days: u32,
    /// How fast it fetches that; what is faster costs more
    #[arg(long, value_name = "TIER", value_enum, default_value_t = ThawTier::Standard)]
    thaw_tier: ThawTier,
    #[command(flatten)]
    secret: Secret,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ThawTier {
    Bulk,
    Standard,
    Expedited,
}

impl Args {
    fn thaw(&self) -> Thaw {
        let tier = match self.thaw_tier {
            ThawTier::Bulk => Tier::Bulk,
            ThawTier::Standard => Tier::Standard,
            ThawTier::Expedited => Tier::Expedited,
        };
        Thaw { days: self.thaw_days, tier }
    }
}

/// How much of what is refused is named, before it is only counted.
const SHOWN: usize = 20;

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    if let (Some(snapshot), Some(to)) = (&args.snapshot, absolute(args.to.as_ref())?) {
        return from_snapshot(args, snapshot, to, context);
    }
    let Some(filename) = &args.filename else {
        return Err(CliError::Usage {
            message: "nothing is named that is to be restored".into(),
            help: None,
        });
    };
    let order = RestoreOrder {
        path: here(filename)?,
        which: match (args.version.as_slice(), args.at) {
            ([prefix], _) => Which::Checksum(prefix.to_string_lossy().to_ascii_lowercase()),
            ([], Some(at)) => Which::At(at),
            ([], None) => Which::Current,
            (several, _) => {
                let message = format!("{} versions of one file are named", several.len());
                let help = "one at a time; several paths are restored from a snapshot, with --snapshot ID"
                    .to_owned();
                return Err(CliError::Usage { message, help: Some(help) });
            }
        },
        to: absolute(args.to.as_ref())?,
        in_place: args.in_place,
        content_only: args.content_only,
        short_name: args.short_name,
        thaw: args.thaw(),
    };
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let observer = watch.observer();
    let report = service.restore(&order, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    if context.global.json {
        let files: Vec<_> = report.files.iter().map(|file| text(file)).collect();
        context.print_json(
            &json!({
                "files": files, "bytes": report.bytes, "troubles": said(&report.troubles), "refused": said(&report.refused),
                "elsewhere": said(&report.elsewhere), "there": report.there, "full": report.full.as_ref().map(as_json),
                "waiting": report.waiting,
            }),
        )?;
    } else {
        context.print_lines(report.files.iter().map(|file| shown(file)))?;
        for elsewhere in report.elsewhere.iter().take(SHOWN) {
            writeln!(context.err, "warning: {}: {}", shown(&elsewhere.path), elsewhere.why)?;
        }
        let more = report.elsewhere.len().saturating_sub(SHOWN);
        if more > 0 {
            writeln!(context.err, "warning: {more} more files came from another vault than the first")?;
        }
        say_refused(&report.refused, context)?;
        tell(&report.troubles, context)?;
        let there = were_there(report.there);
        writeln!(context.err, "restored {} files, {}{there}", report.files.len(), human_bytes(report.bytes))?;
        report.waiting.iter().try_for_each(|waiting| say_waiting(waiting, context))?;
    }
    match &report.full {
        Some(full) => Err(full
            .error(report.files.len() as u64 + report.there, report.bytes + report.there_bytes)
            .into()),
        None if report.waiting.is_empty() => Ok(ending(&report.troubles)),
        None => Ok(Exit::Failed),
    }
}

/// Says how many files an earlier restore left.
fn were_there(there: u64) -> String {
    if there > 0 { format!("; {there} more are there already, as they should be") } else { String::new() }
}

/// Says what is still to be fetched, and when to come back.
fn say_waiting(waiting: &Waiting, context: &mut Context<'_>) -> Result<(), CliError> {
    let Waiting { vault, files, bytes, directories, packs, asked, refused, why, seconds, order } = waiting;
    let mut what = Vec::new();
    what.extend((*files > 0).then(|| format!("{files} files, {},", human_bytes(*bytes))));
    what.extend((*directories > 0).then(|| format!("{directories} directories with all that is in them")));
    let what = what.join(" and ");
    let before = packs - asked;
    let how = format!("{asked} were asked for now ({}, for {} days)", order.tier.word(), order.days);
    let said = match (packs, asked) {
        (0, _) if *refused == 0 => "and can be read by now".to_owned(),
        (0, _) => "and nobody fetches them".into(),
        (packs, 0) => format!("of which {packs} packs are being fetched since an earlier request"),
        (packs, _) if before == 0 => format!("of which {packs} packs are being fetched: {how}"),
        (packs, _) => format!("of which {packs} packs are being fetched: {how}, {before} before"),
    };
    writeln!(context.err, "{what} lie in cold storage of `{vault}`, {said}")?;
    if let Some(why) = why {
        writeln!(context.err, "error: {refused} packs are not being fetched: {}", clean(why))?;
    }
    match (packs, refused) {
        (0, 0) => writeln!(context.err, "restore them with the same command")?,
        (0, _) => {}
        _ => {
            let when = match before {
                0 => String::new(),
                _ => format!(" after they were asked for as {}", order.tier.word()),
            };
            let span = span(*seconds);
            writeln!(context.err, "they are there in {span} at most{when}; then the same command goes on")?;
        }
    }
    Ok(())
}

/// Says how long something takes.
fn span(seconds: u64) -> String {
    let minutes = seconds / 60;
    if minutes < 60 { format!("{minutes} minutes") } else { format!("{} hours", minutes.div_ceil(60)) }
}

fn as_json(full: &Full) -> serde_json::Value {
    let Full { why, files_left, bytes_left, free_bytes } = full;
    json!({ "why": why, "files_left": files_left, "bytes_left": bytes_left, "free_bytes": free_bytes })
}

/// Names what its restorer may not give.
fn say_refused(refused: &[Trouble], context: &mut Context<'_>) -> Result<(), CliError> {
    for refused in refused.iter().take(SHOWN) {
        writeln!(context.err, "warning: {}: {}", shown(&refused.path), refused.why)?;
    }
    if !refused.is_empty() {
        let paths = refused.iter().map(|one| &one.path).collect::<BTreeSet<_>>().len();
        let more = refused.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" ({more} more such lines with --json)") } else { String::new() };
        writeln!(
            context.err,
            "warning: {paths} files or directories are without an owner, a group or attributes that only root may \
             give{more}"
        )?;
    }
    Ok(())
}

/// Returns the names that a path may have in a snapshot: where it is here, and as it was typed, for those that hold no whole paths.
fn names_of(typed: &PathBuf) -> Result<Vec<PathBuf>, CliError> {
    let mut names: Vec<PathBuf> = absolute(Some(typed))?.into_iter().collect();
    names.extend(here(typed));
    names.push(typed.clone());
    Ok(names)
}

fn from_snapshot(
    args: &Args,
    snapshot: &str,
    to: PathBuf,
    context: &mut Context<'_>,
) -> Result<Exit, CliError> {
    let typed = args.filename.iter().cloned().chain(args.version.iter().map(PathBuf::from));
    let order = SnapshotOrder {
        snapshot: snapshot.to_owned(),
        only: args.vault.clone(),
        paths: typed.map(|path| names_of(&path)).collect::<Result<_, _>>()?,
        to,
        content_only: args.content_only,
        thaw: args.thaw(),
    };
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let observer = watch.observer();
    let report = service.restore_snapshot(&order, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    let SnapshotReport { vault, id, snapshot, summary, waiting } = report;
    if context.global.json {
        context.print_json(&json!({
            "vault": vault, "snapshot": id, "time": snapshot.time, "hostname": snapshot.hostname, "to": text(&order.to),
            "files": summary.files, "bytes": summary.bytes, "troubles": said(&summary.troubles), "refused": said(&summary.refused),
            "there": summary.there, "full": summary.full.as_ref().map(as_json), "waiting": waiting.as_slice(),
        }))?;
    } else {
        say_refused(&summary.refused, context)?;
        tell(&summary.troubles, context)?;
        writeln!(
            context.err,
            "restored {} files, {}, from the snapshot {} of {} ({}){}",
            summary.files,
            human_bytes(summary.bytes),
            id.short(),
            snapshot.hostname,
            snapshot.time,
            were_there(summary.there)
        )?;
        waiting.iter().try_for_each(|waiting| say_waiting(waiting, context))?;
    }
    match &summary.full {
        Some(full) => {
            Err(full.error(summary.files + summary.there, summary.bytes + summary.there_bytes).into())
        }
        None if waiting.is_none() => Ok(ending(&summary.troubles)),
        None => Ok(Exit::Failed),
    }
}
