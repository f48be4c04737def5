//! Sessions of the past: a small SQLite store, and the commands that read it and the logs.
//!
//! [`store`] and [`rows`] know nothing of the rest of the house: the elevated half can keep the target's history with
//! the same code. A dry run begins no session here, it writes nothing (rulings 24).

mod error;
pub mod history_cmd;
pub mod logs;
mod process;
mod rows;
pub mod status;
mod store;

use pc_switcher_contract::Role;

pub use self::error::HistoryError;
pub use self::process::ProcessTag;
pub use self::rows::{Fate, SessionRow};
pub use self::store::Store;

use crate::events::{Tally, redact};
use crate::session::{Report, SyncSession};

/// Makes the row of a session as it stands; `config` is the resolved config, stored without its secrets.
pub fn row_of(session: &SyncSession, role: Role, config: &str, process: Option<ProcessTag>) -> SessionRow {
    SessionRow {
        id: session.id.clone(),
        started: session.started,
        ended: session.ended,
        role,
        source_hostname: session.source_hostname.to_string(),
        target_hostname: session.target_name().to_owned(),
        target_typed: Some(session.target.clone()),
        state: session.state(),
        exit_code: None,
        enabled_modules: session.enabled_modules.clone(),
        module_results: session.module_results.clone(),
        snapshots: session.snapshots.clone(),
        warnings: 0,
        errors: 0,
        dry_run: session.dry_run,
        config: redact::text(config).into_owned(),
        report: None,
        process,
    }
}

/// Puts the sessions that were started here and those that came here into one list, the newest first.
pub fn merge(own: Vec<SessionRow>, came: Vec<SessionRow>, count: usize) -> Vec<SessionRow> {
    let mut rows = own;
    for row in came {
        if rows.iter().all(|known| known.id != row.id) {
            rows.push(row);
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.started));
    rows.truncate(count);
    rows
}

/// Returns the newest session that did more than to find another one at work, of a list with the newest first.
pub fn last_at_work(rows: &[SessionRow]) -> Option<&SessionRow> {
    rows.iter().find(|row| !row.was_busy()).or_else(|| rows.first())
}

impl SessionRow {
    /// Takes over what changed since the row was made.
    pub fn refresh(&mut self, session: &SyncSession, tally: &Tally) {
        let process = self.process.take();
        let config = std::mem::take(&mut self.config);
        *self = SessionRow { config, ..row_of(session, self.role, "", process) };
        self.warnings = tally.warnings;
        self.errors = tally.errors;
    }

    /// Takes over the end of the session.
    pub fn close(&mut self, session: &SyncSession, report: &Report) {
        self.refresh(session, &report.tally);
        self.ended = Some(report.ended);
        self.exit_code = Some(report.exit_code);
        self.report = serde_json::to_value(report).ok();
    }
}

#[cfg(test)]
mod tests;
