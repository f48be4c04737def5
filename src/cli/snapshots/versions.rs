//! `snapshots versions`: the states that a file had.

use comfy_table::CellAlignment;
use jiff::Timestamp;
use pc_switcher_agent::proto::{FileTime, Kind, Version, Versions, VersionsRequest};
use pc_switcher_contract::{BytePath, Hostname};
use serde_json::json;

use super::restore::absolute;
use super::{Where, caller, render, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::session::text::{bytes, count};

/// List the states that a file had in all sets, newest first
///
/// States that agree in time, size and content are one. SESSION is the newest set that holds it, for `snapshots restore`.
#[derive(Debug, Clone, clap::Args)]
pub struct VersionsArgs {
    /// The file, as it is now on the machine or was before it was deleted
    #[arg(value_name = "PATH")]
    path: std::ffi::OsString,
    #[command(flatten)]
    place: Where,
}

/// Prints the versions.
///
/// # Errors
/// If no set holds the file, it may not be read, or the machine cannot be reached.
pub fn run(args: &VersionsArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let path = absolute(&args.path, context)?;
    let own_uid = context.env.uid;
    let (hostname, found) = with_agent(&args.place, context, async |agent, contact| {
        let uid = caller(agent, contact, own_uid).await?;
        let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
        let request = VersionsRequest { snapshot_dir, path: path.clone(), uid };
        Ok((agent.hostname().clone(), agent.versions(request).await?))
    })?;
    for (id, why) in &found.unread {
        writeln!(context.err, "warning: {hostname}: set `{id}` cannot be read: {why}")?;
    }
    check(&hostname, &path, &found)?;
    if context.global.json {
        context.print_json(&as_json(&hostname, &path, &found))?;
        return Ok(Exit::Completed);
    }
    for line in lines(&hostname, &found) {
        writeln!(context.out, "{line}")?;
    }
    Ok(Exit::Completed)
}

fn check(hostname: &Hostname, path: &BytePath, found: &Versions) -> Result<(), CliError> {
    let refuse = |message: String, help: &str| Err(CliError::Usage { message, help: Some(help.into()) });
    match found.versions.first() {
        None => refuse(
            format!("`{path}` is in no set on {hostname}, and it is not there now"),
            "name it as it was on that machine, from `/` on",
        ),
        Some(version) if version.kind == Kind::Dir => refuse(
            format!("`{path}` is a directory"),
            "`pc-switcher snapshots diff SESSION --path PATH` says what changed in one",
        ),
        Some(_) => Ok(()),
    }
}

fn when(mtime: FileTime) -> String {
    let at = Timestamp::new(mtime.seconds, i32::try_from(mtime.nanos).unwrap_or_default());
    at.map_or_else(|_| "-".into(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

fn lines(hostname: &Hostname, found: &Versions) -> Vec<String> {
    let mut table = render::plain_table(&["MODIFIED (UTC)", "SIZE", "SESSION", "TAKEN (UTC)", "IN"]);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for version in &found.versions {
        let newest = version.sets.first();
        table.add_row([
            when(version.mtime),
            bytes(version.size),
            newest.map_or_else(|| "-".into(), |id| id.session.to_string()),
            newest.map_or_else(|| "-".into(), |id| render::minute(id.stamp)),
            places(version),
        ]);
    }
    let mut said = render::lines(&table);
    if !found.versions.iter().any(|version| version.is_now) {
        said.push(format!("{hostname}: it is not there now"));
    }
    if !found.without.is_empty() {
        said.push(format!("{hostname}: {} without it", count(found.without.len() as u64, "set")));
    }
    said
}

/// Says in how many sets a version is, and whether now.
fn places(version: &Version) -> String {
    let sets = count(version.sets.len() as u64, "set");
    match (version.is_now, version.sets.is_empty()) {
        (true, true) => "now".into(),
        (true, false) => format!("now, {sets}"),
        (false, _) => sets,
    }
}

fn as_json(hostname: &Hostname, path: &BytePath, found: &Versions) -> serde_json::Value {
    let one = |version: &Version| {
        let at =
            Timestamp::new(version.mtime.seconds, i32::try_from(version.mtime.nanos).unwrap_or_default());
        json!({
            "modified": at.ok().map(|at| at.to_string()),
            "size": version.size,
            "now": version.is_now,
            "sets": version.sets,
        })
    };
    json!({
        "machine": hostname,
        "path": path,
        "versions": found.versions.iter().map(one).collect::<Vec<_>>(),
        "without": found.without,
        "unread": found.unread.iter().map(|(id, why)| json!({ "set": id, "why": why })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_a_table_that_names_what_restore_wants() {
        let version = |seconds, sets: &[&str], is_now| Version {
            kind: Kind::File,
            mtime: FileTime { seconds, nanos: 500 },
            size: 2048,
            is_now,
            sets: sets.iter().map(|id| id.parse().unwrap()).collect(),
        };
        let found = Versions {
            versions: vec![
                version(1_763_200_000, &[], true),
                version(0, &["20251115T120000Z-abc12345-manual", "20251114T120000Z-abc12346-presync"], false),
            ],
            without: vec!["20251113T120000Z-abc12347-presync".parse().unwrap()],
            unread: Vec::new(),
        };
        let desk = "desk".parse().unwrap();
        let wanted = [
            " MODIFIED (UTC)          SIZE  SESSION   TAKEN (UTC)       IN",
            " 2025-11-15 09:46:40  2.0 KiB  -         -                 now",
            " 1970-01-01 00:00:00  2.0 KiB  abc12345  2025-11-15 12:00  2 sets",
            "desk: 1 set without it",
        ];
        assert_eq!(lines(&desk, &found), wanted);
        let none = Versions { versions: Vec::new(), without: Vec::new(), unread: Vec::new() };
        assert!(check(&desk, &"/x".into(), &none).unwrap_err().to_string().contains("in no set on desk"));
        assert_eq!(as_json(&desk, &"/x".into(), &found)["versions"][0]["now"], true);
    }
}
