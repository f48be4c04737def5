//! `snapshots diff`: what differs between two sets, or between a set and now.

use std::collections::BTreeMap;

use pc_switcher_agent::proto::{
    Change, ChangeKind, CopyOrder, CreateSet, DiffEnd, DiffRequest, Diffed, PackageChange, SystemChange,
    TakeSet, Words,
};
use pc_switcher_contract::{BytePath, Hostname, SessionId, SetId, SnapshotKind, UtcStamp};
use serde_json::json;

use super::restore::absolute;
use super::{Found, Where, both, caller, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;
use crate::session::text::{bytes, count};

/// Say what differs between two sets, or between a set and now
///
/// State is compared with state: a line each for what was created, deleted, renamed, changed in its content, or in its owner,
/// mode, time or attributes only. Then come packages that were installed, removed or have another version, and the kernel if
/// another one ran. For now a set is taken and removed again. You see what you could list yourself.
#[derive(Debug, Clone, clap::Args)]
pub struct DiffArgs {
    /// Two sets, or one to compare with now; of a session the first set stands for A, and the last for B
    #[arg(value_name = "A[..B]")]
    range: String,
    /// Only what lies here: a path as it is now on the machine
    #[arg(long, value_name = "PATH")]
    path: Option<std::ffi::OsString>,
    /// Only say how much differs
    #[arg(long)]
    stat: bool,
    #[command(flatten)]
    place: Where,
}

/// Prints what differs.
///
/// # Errors
/// If there is no such set, or the machine cannot be reached.
pub fn run(args: &DiffArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let (config, copies) = both(context)?;
    let path = args.path.as_ref().map(|path| absolute(path, context)).transpose()?;
    let now = UtcStamp::new(clock::system()());
    let own_uid = context.env.uid;
    let (hostname, outcome) = with_agent(&args.place, context, async |agent, contact| {
        let found = Found::read(agent, &config).await?;
        let (from, to) = match ends(&found, &args.range) {
            Ok(ends) => ends,
            Err(error) => return Ok((found.hostname, Err(error))),
        };
        let uid = caller(agent, contact, own_uid).await?;
        let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
        let end = match &to {
            Some(to) => DiffEnd::Set(to.clone()),
            None => DiffEnd::Now(Box::new(of_now(&snapshot_dir, now, copies))),
        };
        let request = DiffRequest { snapshot_dir, from: from.clone(), to: end, path: path.clone(), uid };
        let mut changes = Vec::new();
        let diffed = agent.diff(request, |batch| changes.extend(batch)).await?;
        Ok((found.hostname, Ok((from, to, changes, diffed))))
    })?;
    let (from, to, changes, diffed) = outcome?;
    for warning in warnings(&hostname, &diffed) {
        writeln!(context.err, "warning: {warning}")?;
    }
    if context.global.json {
        context.print_json(&as_json(&hostname, (&from, to.as_ref()), &changes, &diffed))?;
        return Ok(Exit::Completed);
    }
    if !args.stat {
        for change in &changes {
            writeln!(context.out, "{}", line(change))?;
        }
        for line in system_lines(&diffed.system) {
            writeln!(context.out, "{line}")?;
        }
    }
    if args.stat || changes.is_empty() {
        writeln!(context.out, "{hostname}: {}", summary(&changes))?;
    }
    if args.stat {
        for line in system_sums(&diffed.system) {
            writeln!(context.out, "{hostname}: {line}")?;
        }
    }
    Ok(Exit::Completed)
}

/// Returns the sets that a range means; `None` for now.
fn ends(found: &Found, range: &str) -> Result<(SetId, Option<SetId>), CliError> {
    let (from, to) = range.split_once("..").unwrap_or((range, "now"));
    let from = found.first(from)?.set.id();
    let to = match to {
        "now" | "" => None,
        word => found.meant(word)?.into_iter().map(|stored| stored.set.id()).max(),
    };
    Ok((from, to))
}

/// Returns the set that stands for now; it may be pruned at once, should it not be removed.
fn of_now(snapshot_dir: &BytePath, now: UtcStamp, copies: CopyOrder) -> CreateSet {
    let words = Words { note: Some("for `snapshots diff`".into()), until: Some(now), ..Words::default() };
    let set = TakeSet {
        session: SessionId::from_uuid(uuid::Uuid::new_v4()),
        stamp: now,
        kind: SnapshotKind::Manual,
        snapshot_dir: snapshot_dir.clone(),
        subvolumes: Vec::new(),
    };
    CreateSet { set, words, pinned: false, copies }
}

fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Created => "created",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Changed => "changed",
        ChangeKind::Metadata => "metadata",
    }
}

fn line(change: &Change) -> String {
    let slash = if change.is_dir { "/" } else { "" };
    match &change.from {
        Some(from) => format!("{:<9} {from}{slash} -> {}{slash}", word(change.kind), change.path),
        None => format!("{:<9} {}{slash}", word(change.kind), change.path),
    }
}

fn summary(changes: &[Change]) -> String {
    let mut sums: BTreeMap<ChangeKind, (u64, u64)> = BTreeMap::new();
    for change in changes {
        let sum = sums.entry(change.kind).or_default();
        *sum = (sum.0 + 1, sum.1 + change.size);
    }
    let part = |(kind, (number, size)): (&ChangeKind, &(u64, u64))| match kind {
        ChangeKind::Created | ChangeKind::Deleted | ChangeKind::Changed => {
            format!("{number} {} ({})", word(*kind), bytes(*size))
        }
        ChangeKind::Renamed => format!("{number} renamed"),
        ChangeKind::Metadata => format!("{number} with other metadata"),
    };
    match sums.is_empty() {
        true => "nothing differs".into(),
        false => sums.iter().map(part).collect::<Vec<_>>().join(", "),
    }
}

fn package_line(change: &PackageChange) -> String {
    let name = &change.name;
    match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("package   {name} {from} -> {to}"),
        (Some(from), None) => format!("package   {name} {from} removed"),
        (None, Some(to)) => format!("package   {name} {to} installed"),
        (None, None) => format!("package   {name}"),
    }
}

/// Returns a line for each package that differs, and one for the kernel.
fn system_lines(system: &SystemChange) -> Vec<String> {
    let packages = system.packages.iter().flatten().map(package_line);
    let kernel = system.kernels.iter().map(|(from, to)| format!("kernel    {from} -> {to}"));
    packages.chain(kernel).collect()
}

/// Returns how much of the system differs, if anything.
fn system_sums(system: &SystemChange) -> Vec<String> {
    let number = system.packages.as_ref().map_or(0, Vec::len) as u64;
    let packages = (number > 0).then(|| {
        let differ = if number == 1 { "differs" } else { "differ" };
        format!("{} {differ}", count(number, "package"))
    });
    let kernel = system.kernels.as_ref().map(|(from, to)| format!("kernel {from} became {to}"));
    packages.into_iter().chain(kernel).collect()
}

fn warnings(hostname: &Hostname, diffed: &Diffed) -> Vec<String> {
    let alone = diffed.alone.iter().map(|name| format!("{hostname}: only one of the two has `{name}`"));
    let hidden = (diffed.hidden > 0).then(|| {
        let amount = count(diffed.hidden, "difference");
        format!("{hostname}: {amount} in directories that you may not list; root sees them, with `sudo`")
    });
    alone.chain(hidden).collect()
}

fn as_json(
    hostname: &Hostname,
    (from, to): (&SetId, Option<&SetId>),
    changes: &[Change],
    diffed: &Diffed,
) -> serde_json::Value {
    let one = |change: &Change| {
        json!({
            "change": word(change.kind),
            "path": change.path,
            "from": change.from,
            "directory": change.is_dir,
            "size": change.size,
        })
    };
    json!({
        "machine": hostname,
        "from": from,
        "to": to,
        "changes": changes.iter().map(one).collect::<Vec<_>>(),
        "packages": diffed.system.packages,
        "kernels": diffed.system.kernels.as_ref().map(|(from, to)| json!({ "from": from, "to": to })),
        "alone": diffed.alone,
        "hidden": diffed.hidden,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, path: &str, from: Option<&str>, is_dir: bool) -> Change {
        Change { kind, path: path.into(), from: from.map(Into::into), is_dir, size: 1024 }
    }

    #[test]
    fn a_difference_is_a_line_and_all_of_them_a_summary() {
        let changes = [
            change(ChangeKind::Created, "/home/alice/new", None, true),
            change(ChangeKind::Renamed, "/home/alice/b", Some("/home/alice/a"), false),
            change(ChangeKind::Metadata, "/home/alice/m", None, false),
            change(ChangeKind::Created, "/home/alice/new/x", None, false),
        ];
        let lines: Vec<String> = changes.iter().map(line).collect();
        let wanted = [
            "created   /home/alice/new/",
            "renamed   /home/alice/a -> /home/alice/b",
            "metadata  /home/alice/m",
            "created   /home/alice/new/x",
        ];
        assert_eq!(lines, wanted);
        assert_eq!(summary(&changes), "2 created (2.0 KiB), 1 renamed, 1 with other metadata");
        assert_eq!(summary(&[]), "nothing differs");
    }

    #[test]
    fn packages_and_the_kernel_are_told_behind_the_files() {
        let package = |name: &str, from: Option<&str>, to: Option<&str>| PackageChange {
            name: name.into(),
            from: from.map(Into::into),
            to: to.map(Into::into),
        };
        let system = SystemChange {
            kernels: Some(("6.1.0-25".into(), "6.1.0-26".into())),
            packages: Some(vec![
                package("curl:amd64", Some("8.1"), Some("8.2")),
                package("fish:amd64", None, Some("3.6")),
                package("zsh:amd64", Some("5.9"), None),
            ]),
        };
        let wanted = [
            "package   curl:amd64 8.1 -> 8.2",
            "package   fish:amd64 3.6 installed",
            "package   zsh:amd64 5.9 removed",
            "kernel    6.1.0-25 -> 6.1.0-26",
        ];
        assert_eq!(system_lines(&system), wanted);
        assert_eq!(system_sums(&system), ["3 packages differ", "kernel 6.1.0-25 became 6.1.0-26"]);
        assert!(system_lines(&SystemChange::default()).is_empty());
    }

    #[test]
    fn what_was_left_out_is_said() {
        let diffed = Diffed { alone: vec!["@var".parse().unwrap()], hidden: 2, ..Diffed::default() };
        let said = warnings(&"desk".parse().unwrap(), &diffed);
        assert!(said[0].contains("only one of the two has `@var`"), "{said:?}");
        assert!(said[1].starts_with("desk: 2 differences in directories that you may not list"), "{said:?}");
    }
}
