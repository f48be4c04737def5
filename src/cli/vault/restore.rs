//! Bringing versions back.

use std::path::PathBuf;

use jiff::Timestamp;
use pc_switcher_contract::human_bytes;
use pc_switcher_vault::service::{RestoreOrder, Which};
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::dirs::{ending, said, shown, tell, text};
use super::passphrase::Secret;
use super::watch::Watch;
use super::{absolute, here, open};

/// Restore a version of a file, or all files of a directory
///
/// The file is written beside the original as NAME.CHECKSUM, with its rights, owner, times and attributes. Nothing is
/// replaced unless --in-place is given; then what is there is staged first, and the next backup makes a version of it. Links,
/// pipes and devices come back, too, and in a directory hard links and the directories' own rights, times and attributes.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The file or directory; it need not be there any more
    filename: PathBuf,
    /// The checksum of the version, or its beginning; the current version if none is given
    #[arg(value_name = "VERSION", conflicts_with = "at")]
    version: Option<String>,
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
    #[command(flatten)]
    secret: Secret,
}

/// How much of what is refused is named, before it is only counted.
const SHOWN: usize = 20;

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let order = RestoreOrder {
        path: here(&args.filename)?,
        which: match (&args.version, args.at) {
            (Some(prefix), _) => Which::Checksum(prefix.to_ascii_lowercase()),
            (None, Some(at)) => Which::At(at),
            (None, None) => Which::Current,
        },
        to: absolute(args.to.as_ref())?,
        in_place: args.in_place,
        content_only: args.content_only,
        short_name: args.short_name,
    };
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    service.stop_when(watch.is_stopped());
    let observer = watch.observer();
    let report = service.restore(&order, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    if context.global.json {
        let files: Vec<_> = report.files.iter().map(|file| text(file)).collect();
        context.print_json(
            &json!({
                "files": files, "bytes": report.bytes, "troubles": said(&report.troubles), "refused": said(&report.refused),
                "elsewhere": said(&report.elsewhere),
            }),
        )?;
    } else {
        for file in &report.files {
            writeln!(context.out, "{}", shown(file))?;
        }
        for elsewhere in report.elsewhere.iter().take(SHOWN) {
            writeln!(context.err, "warning: {}: {}", shown(&elsewhere.path), elsewhere.why)?;
        }
        let more = report.elsewhere.len().saturating_sub(SHOWN);
        if more > 0 {
            writeln!(context.err, "warning: {more} more files came from another vault than the first")?;
        }
        for refused in report.refused.iter().take(SHOWN) {
            writeln!(context.err, "warning: {}: {}", shown(&refused.path), refused.why)?;
        }
        if !report.refused.is_empty() {
            let (paths, more) = (report.paths_refused(), report.refused.len().saturating_sub(SHOWN));
            let more =
                if more > 0 { format!(" ({more} more such lines with --json)") } else { String::new() };
            writeln!(
                context.err,
                "warning: {paths} files or directories are without an owner, a group or attributes that only root may \
                 give{more}"
            )?;
        }
        tell(&report.troubles, context)?;
        writeln!(context.err, "restored {} files, {}", report.files.len(), human_bytes(report.bytes))?;
    }
    Ok(ending(&report.troubles))
}
