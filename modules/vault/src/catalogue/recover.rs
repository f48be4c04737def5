//! What a catalogue that comes from a copy must learn of where it is now.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::params;

use super::entities::moment;
use super::{Catalogue, stamp};
use crate::error::Result;

/// What says which vault holds what.
const TABLES: [&str; 3] = ["content_locations", "content_chunks", "vault_state"];

impl Catalogue {
    /// Calls vaults what they are called here; each comes with its id. What is noted of another vault of that name goes.
    ///
    /// # Errors
    /// If the catalogue fails; then nothing has changed.
    pub fn call_vaults(&mut self, vaults: &[(String, String)]) -> Result<()> {
        self.together(|catalogue| {
            // What trees say since a snapshot that this one knew is not what is to be looked at now.
            for table in ["trees", "bases"] {
                let done = catalogue.db.execute(&format!("DELETE FROM {table}"), []);
                catalogue.ok(done)?;
            }
            // A name has no line breaks, so these are free.
            let mut between = Vec::new();
            for (name, vault_id) in vaults {
                if let Some(old) = catalogue.vault_called(vault_id)? {
                    catalogue.rename_vault(&old, &format!("\n{vault_id}"))?;
                    between.push((format!("\n{vault_id}"), name));
                }
            }
            for (name, _) in vaults {
                for table in TABLES {
                    let done = catalogue.db.execute(&format!("DELETE FROM {table} WHERE vault = ?1"), [name]);
                    catalogue.ok(done)?;
                }
            }
            between.iter().try_for_each(|(old, name)| catalogue.rename_vault(old, name))
        })
    }

    fn rename_vault(&self, old: &str, new: &str) -> Result<()> {
        for table in TABLES {
            let done =
                self.db.execute(&format!("UPDATE {table} SET vault = ?2 WHERE vault = ?1"), [old, new]);
            self.ok(done)?;
        }
        Ok(())
    }

    /// Returns when the newest version was made.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn newest_version(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT MAX(created_at) FROM file_snapshots";
        let found = self.db.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
        Ok(self.ok(found)?.and_then(|at| Timestamp::from_nanosecond(at.into()).ok()))
    }

    /// Returns what says of a moment whether a backup of then is known here: by its line in the history, or by versions of then.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn knows_moments(&self) -> Result<impl Fn(Timestamp) -> bool + use<>> {
        let parse = |text: String| text.parse::<Timestamp>().ok();
        let sql = "SELECT operation, started_at, finished_at FROM backup_operations ORDER BY id DESC";
        let all: Vec<(String, String, Option<String>)> =
            self.all(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let (mut runs, mut next) = (Vec::new(), Timestamp::MAX);
        for (operation, began, ended) in all {
            let Some(began) = parse(began) else { continue };
            // Of one that was killed the next one says that it was over.
            if operation == "backup" {
                runs.push((began, ended.and_then(parse).unwrap_or(next)));
            }
            next = began;
        }
        let made: HashSet<i64> =
            self.all("SELECT DISTINCT created_at FROM file_snapshots", [], |row| row.get(0))?;
        Ok(move |at: Timestamp| {
            made.contains(&moment(at)) || runs.iter().any(|(began, ended)| *began <= at && at <= *ended)
        })
    }

    /// Returns when the last command began that is noted here.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn last_operation_at(&self) -> Result<Option<Timestamp>> {
        let all: Vec<String> = self.all("SELECT started_at FROM backup_operations", [], |row| row.get(0))?;
        Ok(all.iter().filter_map(|at| at.parse().ok()).max())
    }

    /// Returns how many versions there are.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn count_versions(&self) -> Result<u64> {
        let counted =
            self.db.query_row("SELECT COUNT(*) FROM file_snapshots", [], |row| row.get::<_, i64>(0));
        Ok(self.ok(counted)? as u64)
    }

    /// Notes that a command begins, with a number that is larger than `least` and than all before; returns it.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn begin_operation_after(
        &mut self,
        least: i64,
        operation: &str,
        parameters: &str,
        now: Timestamp,
    ) -> Result<i64> {
        self.close_running("unknown", "the copy of the catalogue was made before it ended")?;
        let done = self.db.execute(
            "INSERT INTO backup_operations (id, started_at, operation, parameters, status)
             VALUES (1 + MAX(?1, (SELECT COALESCE(MAX(id), 0) FROM backup_operations)), ?2, ?3, ?4, 'running')",
            params![least, stamp(now), operation, parameters],
        );
        self.ok(done)?;
        Ok(self.db.last_insert_rowid())
    }
}
