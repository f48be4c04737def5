//! Whether one catalogue is what became of another one, told by their histories.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::entities::{Directory, Operation, VaultState, moment};
use super::{Catalogue, KILLED};
use crate::error::Result;

/// A command, by its number and when it began: no two have both in common, whichever copy of a catalogue they are noted in.
pub type Command = (i64, String);

impl Catalogue {
    /// Returns the last command that is noted here.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn last_command(&self) -> Result<Option<Command>> {
        let sql = "SELECT id, started_at FROM backup_operations ORDER BY id DESC LIMIT 1";
        let found = self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
        self.ok(found.optional())
    }

    /// Whether a command is noted here.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn knows_command(&self, (id, began): &Command) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM backup_operations WHERE id = ?1 AND started_at = ?2)";
        let found = self.db.query_row(sql, params![id, began], |row| row.get(0));
        self.ok(found)
    }

    /// Notes commands of another catalogue, after all that are noted here.
    ///
    /// # Errors
    /// If the catalogue fails; then nothing has changed.
    pub fn take_operations(&mut self, operations: &[Operation]) -> Result<()> {
        let sql =
            "INSERT INTO backup_operations (started_at, finished_at, operation, parameters, status, details)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.together(|catalogue| {
            for one in operations {
                let status = if one.status == "running" { KILLED } else { &one.status };
                let given = params![
                    one.started_at,
                    one.finished_at,
                    one.operation,
                    one.parameters,
                    status,
                    one.details
                ];
                let done = catalogue.db.execute(sql, given);
                catalogue.ok(done)?;
            }
            Ok(())
        })
    }

    /// Returns what is known of each vault, by its name.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn vault_states(&self) -> Result<Vec<(String, VaultState)>> {
        self.all("SELECT vault, vault_id, uploaded, pending FROM vault_state ORDER BY vault", [], |row| {
            let state = VaultState { vault_id: row.get(1)?, uploaded: row.get(2)?, pending: row.get(3)? };
            Ok((row.get(0)?, state))
        })
    }

    /// Returns which directories were forgotten, by which command and when.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn forgettings(&self) -> Result<Vec<(i64, String, Timestamp)>> {
        let sql = "SELECT id, parameters, started_at FROM backup_operations
                   WHERE operation = 'dir forget' AND status = 'success'";
        let all: Vec<(i64, String, String)> =
            self.all(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(all.into_iter().filter_map(|(id, path, at)| Some((id, path, at.parse().ok()?))).collect())
    }

    /// Returns the moments at which versions of files of a directory were made.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn moments(&self, directory: &Directory) -> Result<HashSet<i64>> {
        let sql = "SELECT DISTINCT v.created_at FROM file_snapshots v JOIN files f ON f.id = v.file_id
                   WHERE f.directory_id = ?1";
        self.all(sql, [directory.id], |row| row.get(0))
    }

    /// Whether anything was noted at this moment or later of what a backup does: versions, where contents are, what is gone or lost.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn has_recorded_since(&self, since: Timestamp) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM file_snapshots WHERE created_at >= ?1)
                   OR EXISTS (SELECT 1 FROM content_locations WHERE stored_at >= ?1)
                   OR EXISTS (SELECT 1 FROM contents WHERE created_at >= ?1)";
        let found = self.db.query_row(sql, [moment(since)], |row| row.get(0));
        if self.ok(found)? {
            return Ok(true);
        }
        let sql = "SELECT gone_at FROM absences UNION SELECT back_at FROM absences WHERE back_at IS NOT NULL
                   UNION SELECT at FROM losses";
        let all: Vec<String> = self.all(sql, [], |row| row.get(0))?;
        // What cannot be read may be later.
        Ok(all.iter().any(|at| at.parse::<Timestamp>().map_or(true, |at| at >= since)))
    }
}
