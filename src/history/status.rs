//! `pc-switcher status`: the last sync, how it ended, what to do next.

use std::io::Write;

use jiff::Timestamp;
use pc_switcher_contract::{Role, SessionState};
use serde::Serialize;

use super::error::HistoryError;
use super::process::ProcessTag;
use super::rows::{Fate, SessionRow};
use crate::session::text;

const WIDTH: usize = 80;

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatusOptions {
    /// JSON instead of text.
    pub json: bool,
}

/// What `status` looks at.
pub struct StatusEnv<'a> {
    /// The newest session, if there is one.
    pub last: Option<&'a SessionRow>,
    /// The time.
    pub now: Timestamp,
    /// Tells whether a process still lives; [`ProcessTag::is_alive`].
    pub alive: &'a dyn Fn(&ProcessTag) -> bool,
    /// Who holds a lock of this machine right now, in words.
    pub lock_holder: Option<&'a str>,
    /// Markers that dead runs left on this machine, a sentence each.
    pub markers: &'a [String],
}

#[derive(Serialize)]
struct Status<'a> {
    last: Option<Last<'a>>,
    lock_holder: Option<&'a str>,
    markers: &'a [String],
    next: Vec<String>,
}

#[derive(Serialize)]
struct Last<'a> {
    ending: &'static str,
    #[serde(flatten)]
    row: &'a SessionRow,
}

/// Writes the status.
///
/// # Errors
/// If the history or the output fails.
pub fn run(options: &StatusOptions, env: &StatusEnv<'_>, out: &mut dyn Write) -> Result<(), HistoryError> {
    let row = env.last;
    let fate = row.map(|row| row.fate(env.alive));
    let next = next_steps(row.zip(fate));
    if options.json {
        let last = row.map(|row| Last { ending: row.ending(env.alive), row });
        let status = Status { last, lock_holder: env.lock_holder, markers: env.markers, next };
        serde_json::to_writer(&mut *out, &status).map_err(std::io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    let mut lines = Vec::new();
    match row.zip(fate) {
        None => lines.push("No sync yet.".to_owned()),
        Some((row, fate)) => lines.extend(text::wrap(&sentence(row, fate, env.now), WIDTH, "  ")),
    }
    if let Some(holder) = env.lock_holder {
        lines.extend(text::wrap(&format!("Lock: held by {holder}"), WIDTH, "  "));
    }
    for marker in env.markers {
        lines.extend(text::wrap(&format!("Left behind: {marker}"), WIDTH, "  "));
    }
    for step in &next {
        lines.extend(text::wrap(&format!("Next: {step}"), WIDTH, "  "));
    }
    Ok(writeln!(out, "{}", lines.join("\n"))?)
}

fn sentence(row: &SessionRow, fate: Fate, now: Timestamp) -> String {
    let ago = |at: Timestamp| text::duration(now.duration_since(at).unsigned_abs());
    let what = if row.dry_run { "dry run" } else { "sync" };
    let way = format!("{} → {}", row.source_hostname, row.target_hostname);
    let when = format!("began {:.0} ({} ago)", row.started, ago(row.started));
    let how = match fate {
        _ if row.is_rolled_back() => {
            format!("rolled back: {} took it back by itself", row.target_hostname)
        }
        Fate::Running(state) => format!("running, {state}"),
        Fate::Interrupted(state) => {
            format!("interrupted in {state}: its process is gone and left no ending")
        }
        Fate::Ended(state) => match (state, row.ended) {
            (_, None) => state.to_string(),
            (_, Some(ended)) => {
                format!("{state} after {}", text::duration(ended.duration_since(row.started).unsigned_abs()))
            }
        },
    };
    let counts: String = [(row.errors, "error"), (row.warnings, "warning")]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| format!(", {}", text::count(number, noun)))
        .collect();
    format!("Last {what}: {way}, {when}: {how}{counts} (session {})", row.id)
}

fn next_steps(last: Option<(&SessionRow, Fate)>) -> Vec<String> {
    let Some((row, fate)) = last else {
        return vec!["`pc-switcher sync TARGET`".to_owned()];
    };
    let (id, target) = (&row.id, row.target_for_ssh());
    if row.is_rolled_back() {
        let source = &row.source_hostname;
        return vec![format!("mend on {source} what it broke, then `pc-switcher sync {target}` there")];
    }
    if row.role == Role::Target {
        // Its log lies where it was started.
        return match fate {
            Fate::Ended(SessionState::Completed) => Vec::new(),
            _ => {
                vec![format!("`pc-switcher sync {target}` on {} brings what is missing", row.source_hostname)]
            }
        };
    }
    match fate {
        Fate::Running(_) => vec!["`pc-switcher logs --follow` watches it".to_owned()],
        Fate::Interrupted(_) | Fate::Ended(SessionState::Failed | SessionState::Aborted) => vec![
            format!("`pc-switcher logs --session {id}` shows how far it came"),
            format!("`pc-switcher sync {target}` plans anew and brings what is missing"),
        ],
        Fate::Ended(_) if row.dry_run => vec![format!("`pc-switcher sync {target}` is the real run")],
        Fate::Ended(_) => Vec::new(),
    }
}
