//! The versions of a file, and what was done.

use std::path::PathBuf;

use jiff::Timestamp;
use pc_switcher_contract::human_bytes;
use pc_switcher_vault::service::VersionLine;
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::{here, open};
use crate::events::clean;

/// Show the versions of a file, the newest first; it need not be there any more
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// The file
    filename: PathBuf,
}

/// Show what was done, the newest first
#[derive(Debug, Clone, clap::Args)]
pub struct HistoryArgs {
    /// How many lines
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
    count: usize,
}

pub(super) fn log(args: &LogArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let history = open(context)?.history_of(&here(&args.filename)?)?;
    if context.global.json {
        return context.print_json(&json!(history)).map(|()| Exit::Completed);
    }
    if history.deleted {
        writeln!(context.err, "{} was gone at the last backup", clean(&history.path))?;
    }
    context.print_lines(history.versions.iter().map(line)).map(|()| Exit::Completed)
}

fn line(version: &VersionLine) -> String {
    let facts = &version.facts;
    let modified = Timestamp::from_nanosecond(facts.modified_at.into()).unwrap_or_default();
    let mut parts = vec![
        seconds(&version.created_at),
        version.checksum.clone(),
        human_bytes(facts.size),
        format!("{:04o} {}:{}", facts.permissions, facts.uid, facts.gid),
        format!("modified {}", seconds(&modified.to_string())),
    ];
    parts.extend((!facts.target.is_empty()).then(|| {
        let target = String::from_utf8_lossy(&facts.target);
        format!("-> {}", clean(&target))
    }));
    parts.extend((!version.changed.is_empty()).then(|| format!("new {}", version.changed.join(", "))));
    parts.push(match version.vaults.is_empty() {
        true => "in no vault".into(),
        false => format!("in {}", holders(version)),
    });
    parts.extend(version.current.then(|| "[current]".into()));
    parts.join("  ")
}

/// Names the vaults, and says of which it can be restored once it was fetched.
fn holders(version: &VersionLine) -> String {
    if version.after_thaw.len() == version.vaults.len() {
        return format!("{}, after a thaw", version.vaults.join(", "));
    }
    let name = |vault: &String| match version.after_thaw.contains(vault) {
        true => format!("{vault} (after a thaw)"),
        false => vault.clone(),
    };
    version.vaults.iter().map(name).collect::<Vec<_>>().join(", ")
}

pub(super) fn seconds(stamp: &str) -> String {
    stamp
        .parse::<Timestamp>()
        .map_or_else(|_| stamp.into(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

pub(super) fn history(args: &HistoryArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let all = open(context)?.operations(args.count)?;
    if context.global.json {
        return context.print_json(&json!(all)).map(|()| Exit::Completed);
    }
    for operation in all {
        let parse = |stamp: &str| stamp.parse::<Timestamp>().ok();
        let span =
            parse(&operation.started_at).zip(operation.finished_at.as_deref().and_then(parse)).map_or_else(
                || "-".into(),
                |(from, to)| format!("{:.1}s", to.duration_since(from).as_secs_f64()),
            );
        let what = format!("{} {}", operation.operation, operation.parameters);
        let status = &operation.status;
        writeln!(
            context.out,
            "{}  {}  {status}  {span}  {}  {}",
            operation.id,
            seconds(&operation.started_at),
            clean(what.trim_end()),
            clean(&operation.details)
        )?;
    }
    Ok(Exit::Completed)
}
