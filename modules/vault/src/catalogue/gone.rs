//! What pruning asks of the catalogue, and tells it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::entities::{self, time_of};
use super::{Catalogue, Directory, stamp};
use crate::error::Result;
use crate::format::Id;

impl Catalogue {
    /// Notes that a backup found most of a tracked directory gone.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn note_loss(&mut self, directory: &Path, files: u64, now: Timestamp) -> Result<()> {
        let done = self.db.execute(
            "INSERT INTO losses (at, directory, files) VALUES (?1, ?2, ?3)",
            params![stamp(now), directory.as_os_str().as_bytes(), files as i64],
        );
        self.ok(done).map(drop)
    }

    /// Notes that a backup found most of a tracked directory with another content. Of those that come again and again in one directory, as
    /// where something is generated anew each time, the first and the last are remembered: each keeps a snapshot.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn note_change(&mut self, directory: &Path, files: u64, now: Timestamp) -> Result<()> {
        self.note_loss(directory, files, now)?;
        let done = self.db.execute(
            "DELETE FROM losses WHERE directory = ?1
                 AND rowid <> (SELECT MIN(rowid) FROM losses WHERE directory = ?1)
                 AND rowid <> (SELECT MAX(rowid) FROM losses WHERE directory = ?1)",
            [directory.as_os_str().as_bytes()],
        );
        self.ok(done).map(drop)
    }

    /// Returns the last version that was there before this backup began, or before those right before it that were killed or given up: what
    /// they did it goes on with.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn version_before_this_run(&self, id: i64) -> Result<i64> {
        // One that came to its end told what it did.
        let sql = "SELECT started_at FROM backup_operations WHERE operation = 'backup' AND id <= ?1 AND id >
                       (SELECT COALESCE(MAX(id), 0) FROM backup_operations WHERE operation = 'backup' AND id < ?1
                        AND finished_at IS NOT NULL AND details LIKE '% new versions, % deleted, % failed')
                   ORDER BY id LIMIT 1";
        let began = self.db.query_row(sql, params![id], |row| row.get::<_, String>(0));
        let began = self.ok(began.optional())?.and_then(|text| text.parse::<Timestamp>().ok());
        // The newest first: those of the runs that were killed come before the one that is looked for.
        let sql = "SELECT id FROM file_snapshots WHERE created_at < ?1 ORDER BY id DESC LIMIT 1";
        let found =
            self.db.query_row(sql, [began.map_or(i64::MAX, entities::moment)], |row| row.get::<_, i64>(0));
        Ok(self.ok(found.optional())?.unwrap_or(0))
    }

    /// Counts the files of a directory that got another content since a version, and all those that are there and were then. Where it is
    /// less than `many`, all are not counted.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn count_changed(&self, directory: &Directory, last_version: i64, many: u64) -> Result<(u64, u64)> {
        let count = |sql: &str| {
            let counted = self.db.query_row(sql, params![directory.id, last_version], |row| row.get(0));
            self.ok(counted).map(|count: i64| count as u64)
        };
        let changed = count(
            "SELECT COUNT(*) FROM file_snapshots v CROSS JOIN files f ON f.id = v.file_id AND f.current_snapshot_id = v.id
             WHERE v.id > ?2 AND f.directory_id = ?1 AND f.deleted = 0 AND v.kind = 'file' AND v.content <>
                 (SELECT b.content FROM file_snapshots b
                  WHERE b.file_id = v.file_id AND b.id <= ?2 AND b.kind = 'file' ORDER BY b.number DESC LIMIT 1)",
        )?;
        if changed < many {
            return Ok((changed, changed));
        }
        let all = count(
            "SELECT COUNT(*) FROM files f WHERE f.directory_id = ?1 AND f.deleted = 0 AND EXISTS
                 (SELECT 1 FROM file_snapshots b WHERE b.file_id = f.id AND b.id <= ?2 AND b.kind = 'file')",
        )?;
        Ok((changed, all))
    }

    /// Has the last command look as if it had been killed.
    #[cfg(test)]
    pub fn as_if_killed(&mut self) -> Result<()> {
        let sql = "UPDATE backup_operations SET finished_at = NULL, status = 'killed' WHERE id = (SELECT MAX(id) FROM backup_operations)";
        let done = self.db.execute(sql, []);
        self.ok(done).map(drop)
    }

    /// Has the last command look as if it had ended before it could say what it did.
    #[cfg(test)]
    pub fn as_if_given_up(&mut self) -> Result<()> {
        let sql = "UPDATE backup_operations SET status = 'error', details = 'no room' WHERE id = (SELECT MAX(id) FROM backup_operations)";
        let done = self.db.execute(sql, []);
        self.ok(done).map(drop)
    }

    /// Returns when backups found most of a directory gone, as far as nobody said since that it should be so.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn losses(&self) -> Result<Vec<Timestamp>> {
        let all: Vec<String> = self.all("SELECT at FROM losses", [], |row| row.get(0))?;
        Ok(all.iter().filter_map(|at| at.parse().ok()).collect())
    }

    /// Forgets that something was lost: somebody said that it should be so.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn accept_losses(&mut self) -> Result<()> {
        let done = self.db.execute("DELETE FROM losses", []);
        self.ok(done).map(drop)
    }

    /// Returns the chunks in a vault of the versions that stay; `stays` is asked once for each moment at which one was made or its
    /// content stored there.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn chunks_of_versions(&self, vault: &str, stays: impl Fn(&str) -> bool) -> Result<HashSet<Id>> {
        let mut asked: HashMap<i64, bool> = HashMap::new();
        let sql = "SELECT v.created_at, l.stored_at, k.blob_id FROM file_snapshots v
                   JOIN content_locations l ON l.content = v.content AND l.vault = ?1
                   JOIN content_chunks k ON k.content = v.content AND k.vault = ?1";
        let found: Vec<Option<Id>> = self.all(sql, [vault], |row| {
            let mut ask = |at: i64| *asked.entry(at).or_insert_with_key(|at| stays(&time_of(*at)));
            let stays = ask(row.get(0)?) || ask(row.get(1)?);
            Ok(if stays { Some(entities::id(row, 2)?) } else { None })
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Tells of the versions that a vault held and does not hold any more: the path of each, when it was made, and when its content was
    /// stored there.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn lost_versions(
        &self,
        vault: &str,
        is_there: impl Fn(Id) -> bool,
        mut tell: impl FnMut(PathBuf, &str, &str),
    ) -> Result<()> {
        for content in self.lost_contents(vault, is_there)? {
            let sql = "SELECT d.path, f.place, v.created_at, l.stored_at FROM contents c
                       JOIN file_snapshots v ON v.content = c.number
                       JOIN files f ON f.id = v.file_id JOIN directories d ON d.id = f.directory_id
                       LEFT JOIN content_locations l ON l.vault = ?1 AND l.content = v.content
                       WHERE c.id = ?2 ORDER BY v.created_at";
            let versions: Vec<(PathBuf, String, Option<String>)> =
                self.all(sql, params![vault, content.0], |row| {
                    let path = entities::path(row, 0)?.join(entities::name(row, 1)?);
                    Ok((path, time_of(row.get(2)?), row.get::<_, Option<i64>>(3)?.map(time_of)))
                })?;
            for (path, created_at, stored_at) in versions {
                tell(path, &created_at, stored_at.as_deref().unwrap_or(&created_at));
            }
        }
        Ok(())
    }

    /// Returns the contents of which a vault does not hold all chunks that it should.
    fn lost_contents(&self, vault: &str, is_there: impl Fn(Id) -> bool) -> Result<BTreeSet<Id>> {
        let sql = "SELECT c.id, k.blob_id FROM content_chunks k JOIN contents c ON c.number = k.content WHERE k.vault = ?1";
        let found: Vec<Option<Id>> = self.all(sql, [vault], |row| {
            let is_there = entities::id(row, 1).is_ok_and(&is_there);
            Ok(if is_there { None } else { Some(entities::id(row, 0)?) })
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Forgets that a vault holds what it does not hold any more, all or nothing, and returns how many versions that are.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn forget_what_is_gone(&mut self, vault: &str, is_there: impl Fn(Id) -> bool) -> Result<u64> {
        let gone = self.lost_contents(vault, is_there)?;
        self.together(|catalogue| {
            let mut versions = 0;
            for content in gone {
                let sql = "SELECT COUNT(*) FROM file_snapshots v JOIN contents c ON c.number = v.content WHERE c.id = ?1";
                let counted = catalogue.db.query_row(sql, [content.0], |row| row.get::<_, i64>(0));
                versions += catalogue.ok(counted)? as u64;
                catalogue.forget_location(vault, content)?;
            }
            Ok(versions)
        })
    }
}
