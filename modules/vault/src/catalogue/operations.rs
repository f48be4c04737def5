//! The log of what changed the catalogue, and what is known of each vault.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::entities::{Operation, VaultState};
use super::{Catalogue, stamp};
use crate::error::Result;

impl Catalogue {
    /// Notes that a command begins, and returns its number.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn begin_operation(&mut self, operation: &str, parameters: &str, now: Timestamp) -> Result<i64> {
        let done = self.db.execute(
            "INSERT INTO backup_operations (started_at, operation, parameters, status) VALUES (?1, ?2, ?3, 'running')",
            params![stamp(now), operation, parameters],
        );
        self.ok(done)?;
        Ok(self.db.last_insert_rowid())
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

    /// Notes what is known of a vault.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn set_vault_state(&mut self, vault: &str, state: &VaultState) -> Result<()> {
        let done = self.db.execute(
            "INSERT OR REPLACE INTO vault_state (vault, vault_id, uploaded, pending) VALUES (?1, ?2, ?3, ?4)",
            params![vault, state.vault_id, state.uploaded, state.pending],
        );
        self.ok(done).map(drop)
    }
}
