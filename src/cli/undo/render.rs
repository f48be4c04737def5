//! An undo for people and for programs: pure.

use pc_switcher_agent::proto::{UndoWord, UndoneHow};
use serde_json::{Value, json};

use super::Undone;
use crate::session::text::count;

/// So many paths are named in a list for people.
const NAMED: usize = 20;

fn word(how: UndoneHow) -> &'static str {
    match how {
        UndoneHow::Restored => "restored",
        UndoneHow::Replaced => "replaced",
        UndoneHow::Metadata => "metadata",
        UndoneHow::Removed => "removed",
    }
}

/// Returns what is printed.
pub(super) fn text(undone: &Undone) -> Vec<String> {
    let Undone { hostname, sync, dry_run, lines, report, .. } = undone;
    let when = undone.stamp.timestamp().strftime("%Y-%m-%d %H:%M");
    let back: Vec<String> = lines
        .iter()
        .filter_map(|line| match &line.word {
            UndoWord::Undone(how) => Some(format!("  {}  {}", word(*how), line.path)),
            _ => None,
        })
        .collect();
    let stays: Vec<String> = lines
        .iter()
        .filter_map(|line| match &line.word {
            UndoWord::Touched(why) | UndoWord::Beyond(why) => Some(format!("  {}: {why}", line.path)),
            UndoWord::Undone(_) => None,
        })
        .collect();
    let what = format!("sync {sync} of {when} UTC");
    let mut said = vec![match (back.is_empty(), stays.is_empty(), dry_run) {
        (true, true, _) => format!("{hostname}: there is nothing to undo of {what}"),
        (true, false, _) => {
            format!("{hostname}: nothing of {what} is left to undo but what was changed since")
        }
        (false, _, true) => {
            format!("{hostname}: an undo of {what} would take back {}", count(back.len() as u64, "path"))
        }
        (false, _, false) => format!("{hostname}: {what}: {} taken back", count(back.len() as u64, "path")),
    }];
    said.extend(short(back));
    if !stays.is_empty() {
        said.push(format!("{} left as found:", count(stays.len() as u64, "path")));
        said.extend(short(stays));
    }
    if report.already > 0 {
        said.push(format!("{} already as before the sync", count(report.already, "path")));
    }
    if let Some(safety) = &undone.safety {
        said.push(format!("the state before this undo is kept: set {safety}"));
        said.push("the next sync asks about every path that was taken back".into());
    }
    said.extend(undone.unmarked.lines(&undone.hostname));
    said
}

fn short(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > NAMED {
        let more = lines.len() - NAMED;
        lines.truncate(NAMED);
        lines.push(format!("  … and {more} more; `--json` names all"));
    }
    lines
}

/// Returns what a person should know besides.
pub(super) fn warnings(undone: &Undone) -> Vec<String> {
    let commit = &undone.report.commit;
    let known = |path| undone.lines.iter().any(|line| line.path == path);
    let conflicts = commit.conflicts.iter().filter(|conflict| !known(conflict.path.clone()));
    let conflicts = conflicts.map(|conflict| format!("warning: `{}`: {}", conflict.path, conflict.why));
    let refused = commit.refused.lines(&undone.hostname);
    let warnings =
        commit.warnings.iter().cloned().chain(refused).map(|warning| format!("warning: {warning}"));
    let failed = commit.failed.iter().map(|error| {
        format!("error: {error}; each path is its old or its new version, and the next boot tries the rest once more")
    });
    conflicts.chain(warnings).chain(failed).collect()
}

/// Returns all of it for a program.
pub(super) fn json(undone: &Undone) -> Value {
    let (mut back, mut stays) = (Vec::new(), Vec::new());
    for line in &undone.lines {
        match &line.word {
            UndoWord::Undone(how) => back.push(json!({ "path": line.path.to_string(), "how": word(*how) })),
            UndoWord::Touched(why) | UndoWord::Beyond(why) => {
                stays.push(json!({ "path": line.path.to_string(), "why": why }));
            }
        }
    }
    json!({
        "machine": undone.hostname,
        "session": undone.sync,
        "dry_run": undone.dry_run,
        "undone": back,
        "stays": stays,
        "already": undone.report.already,
        "safety_set": undone.safety,
        "unmarked": undone.unmarked.sets,
        "warnings": warnings(undone),
    })
}
