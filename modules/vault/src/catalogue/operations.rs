//! The log of what changed the catalogue, and what is known of each vault.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::entities::{Operation, VaultState};
use super::{Catalogue, stamp};
use crate::error::Result;

/// What became of a command that did not live to say it.
pub const KILLED: &str = "killed";
/// What stands behind the path of an `add` that looked into no directory below it.
pub const ONE_LEVEL: &str = " (one level)";

impl Catalogue {
    /// Notes that a command begins, and returns its number. Commands work one after the other: one that has not ended was killed.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn begin_operation(&mut self, operation: &str, parameters: &str, now: Timestamp) -> Result<i64> {
        self.close_running(KILLED, "nobody heard how it ended; the next one goes on where it was")?;
        let done = self.db.execute(
            "INSERT INTO backup_operations (started_at, operation, parameters, status) VALUES (?1, ?2, ?3, 'running')",
            params![stamp(now), operation, parameters],
        );
        self.ok(done)?;
        Ok(self.db.last_insert_rowid())
    }

    /// Notes of each command that has not ended what became of it.
    pub(super) fn close_running(&mut self, status: &str, details: &str) -> Result<()> {
        let done = self.db.execute(
            "UPDATE backup_operations SET status = ?1, details = ?2 WHERE status = 'running'",
            [status, details],
        );
        self.ok(done).map(drop)
    }

    /// Notes how a command ended.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn end_operation(&mut self, id: i64, success: bool, details: &str, now: Timestamp) -> Result<()> {
        let status = if success { "success" } else { "error" };
        let done = self.db.execute(
            "UPDATE backup_operations SET finished_at = ?2, status = ?3, details = ?4 WHERE id = ?1",
            params![id, stamp(now), status, details],
        );
        self.ok(done).map(drop)
    }

    /// Returns when the last command of this name began that was about this and ended well.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn last_success(&self, operation: &str, parameters: &str) -> Result<Option<Timestamp>> {
        let sql = "SELECT started_at FROM backup_operations
                   WHERE operation = ?1 AND parameters = ?2 AND status = 'success' ORDER BY id DESC LIMIT 1";
        let found = self.db.query_row(sql, params![operation, parameters], |row| row.get::<_, String>(0));
        Ok(self.ok(found.optional())?.and_then(|text| text.parse().ok()))
    }

    /// Returns when the commands of this name began and whether they ended well, the oldest first.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn runs(&self, operation: &str) -> Result<Vec<(String, bool)>> {
        let sql =
            "SELECT started_at, status = 'success' FROM backup_operations WHERE operation = ?1 ORDER BY id";
        self.all(sql, [operation], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Returns what an `add` was about that told this and ended with an error, as far as none went well since of the same or of what holds it.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn failed_adds(&self, told: &str) -> Result<Vec<String>> {
        let sql = "SELECT parameters, status = 'success' FROM backup_operations WHERE operation = 'add'
                   AND (status = 'success' OR status = 'error' AND details LIKE ?1) ORDER BY id";
        let all: Vec<(String, bool)> = self.all(sql, [told], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut failed: Vec<(String, bool)> = Vec::new();
        for (text, is_good) in all {
            let (path, is_deep) = text.strip_suffix(ONE_LEVEL).map_or((&*text, true), |path| (path, false));
            // One level makes up for one level alone.
            failed.retain(|(other, was_deep)| match is_deep {
                true => !Path::new(other).starts_with(path),
                false => other != path || *was_deep,
            });
            if !is_good {
                failed.push((path.to_owned(), is_deep));
            }
        }
        Ok(failed.into_iter().map(|(path, _)| path).collect())
    }

    /// Returns the last operations, the newest first.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn operations(&self, most: usize) -> Result<Vec<Operation>> {
        self.all("SELECT * FROM backup_operations ORDER BY id DESC LIMIT ?1", [most as i64], |row| {
            Ok(Operation {
                id: row.get("id")?,
                started_at: row.get("started_at")?,
                finished_at: row.get("finished_at")?,
                operation: row.get("operation")?,
                parameters: row.get("parameters")?,
                status: row.get("status")?,
                details: row.get("details")?,
            })
        })
    }

    /// Returns the number of the last command.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn last_operation(&self) -> Result<i64> {
        let sql = "SELECT COALESCE(MAX(id), 0) FROM backup_operations";
        let found = self.db.query_row(sql, [], |row| row.get(0));
        self.ok(found)
    }

    /// Whether a command after this one may have made versions.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn has_stored_since(&self, operation: i64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM backup_operations WHERE id > ?1 AND operation IN ('backup', 'recover'))";
        let found = self.db.query_row(sql, [operation], |row| row.get(0));
        self.ok(found)
    }

    /// Returns what is known of a vault; `None` if it was never set up from here.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn vault_state(&self, vault: &str) -> Result<Option<VaultState>> {
        let found = self.db.query_row("SELECT * FROM vault_state WHERE vault = ?1", [vault], |row| {
            Ok(VaultState {
                vault_id: row.get("vault_id")?,
                uploaded: row.get("uploaded")?,
                pending: row.get("pending")?,
            })
        });
        self.ok(found.optional())
    }

    /// Returns what the vault of this id is called here; `None` if it was never set up from here.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn vault_called(&self, vault_id: &str) -> Result<Option<String>> {
        let sql = "SELECT vault FROM vault_state WHERE vault_id = ?1";
        let found = self.db.query_row(sql, [vault_id], |row| row.get(0));
        self.ok(found.optional())
    }

    /// Notes what is known of a vault. Another one of the same name has no snapshot yet.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn set_vault_state(&mut self, vault: &str, state: &VaultState) -> Result<()> {
        let done = self.db.execute(
            "INSERT INTO vault_state (vault, vault_id, uploaded, pending) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (vault) DO UPDATE SET due = due OR vault_id <> excluded.vault_id, vault_id = excluded.vault_id,
                 uploaded = excluded.uploaded, pending = excluded.pending",
            params![vault, state.vault_id, state.uploaded, state.pending],
        );
        self.ok(done).map(drop)
    }

    /// Has the next backup store a copy of the catalogue in a vault.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn need_copy(&mut self, vault: &str) -> Result<()> {
        let done = self.db.execute("UPDATE vault_state SET pending = 1 WHERE vault = ?1", [vault]);
        self.ok(done).map(drop)
    }

    /// Whether something changed that the last snapshot in a vault does not say: a vault that missed a backup catches up with the
    /// next one, though nothing changes any more.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn is_snapshot_due(&self, vault: &str) -> Result<bool> {
        let found =
            self.db.query_row("SELECT due FROM vault_state WHERE vault = ?1", [vault], |row| row.get(0));
        Ok(self.ok(found.optional())?.unwrap_or(true))
    }

    /// Has the next backup write a snapshot into a vault, whether anything changes until then or not.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn need_snapshot(&mut self, vault: &str) -> Result<()> {
        let done = self.db.execute("UPDATE vault_state SET due = 1 WHERE vault = ?1", [vault]);
        self.ok(done).map(drop)
    }

    /// Notes that a vault has a snapshot of all that is known.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn note_snapshot(&mut self, vault: &str) -> Result<()> {
        let done = self.db.execute("UPDATE vault_state SET due = 0 WHERE vault = ?1", [vault]);
        self.ok(done).map(drop)
    }
}

/// What changes the current versions changes what each vault's next snapshot says.
pub(super) const ALL_DUE: &str = "UPDATE vault_state SET due = 1";
