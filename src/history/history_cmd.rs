//! `pc-switcher history`: the sessions of this machine.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::error::HistoryError;
use super::process::ProcessTag;
use super::rows::SessionRow;
use crate::session::text;

/// What the user asked for.
#[derive(Debug, Clone, Copy)]
pub struct HistoryOptions {
    /// JSON instead of a table.
    pub json: bool,
    /// How many sessions, newest first.
    pub count: usize,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self { json: false, count: 20 }
    }
}

/// What `history` looks at.
pub struct HistoryEnv<'a> {
    /// The newest sessions, newest first.
    pub rows: &'a [SessionRow],
    /// Tells whether a process still lives; [`ProcessTag::is_alive`].
    pub alive: &'a dyn Fn(&ProcessTag) -> bool,
}

#[derive(Serialize)]
struct Entry<'a> {
    ending: &'static str,
    #[serde(flatten)]
    row: &'a SessionRow,
}

/// Writes the newest sessions, as a table of 80 columns or as one JSON array.
///
/// # Errors
/// If the history or the output fails.
pub fn run(options: &HistoryOptions, env: &HistoryEnv<'_>, out: &mut dyn Write) -> Result<(), HistoryError> {
    let rows = &env.rows[..env.rows.len().min(options.count)];
    if options.json {
        let entries: Vec<Entry<'_>> =
            rows.iter().map(|row| Entry { ending: row.ending(env.alive), row }).collect();
        serde_json::to_writer(&mut *out, &entries).map_err(std::io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    if rows.is_empty() {
        return Ok(writeln!(out, "No sync yet: `pc-switcher sync TARGET`")?);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(80);
    table.set_header(["SESSION", "STARTED (UTC)", "FROM → TO", "ENDING", "TOOK", "WARN"]);
    for row in rows {
        let ending = row.ending(env.alive);
        let took = row.ended.map_or_else(
            || "-".to_owned(),
            |ended| text::duration(ended.duration_since(row.started).unsigned_abs()),
        );
        table.add_row([
            row.id.to_string(),
            row.started.strftime("%Y-%m-%d %H:%M").to_string(),
            format!("{} → {}", row.source_hostname, row.target_hostname),
            if row.dry_run { format!("{ending} (dry)") } else { ending.to_owned() },
            took,
            row.warnings.to_string(),
        ]);
    }
    for line in table.to_string().lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
