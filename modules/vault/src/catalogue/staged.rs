//! The queue: what `add` read and the next backup stores.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Row, params};

use super::entities::{self, Directory, FileFacts, StagedItem};
use super::{Catalogue, from_down, place_of};
use crate::error::Result;
use crate::format::Id;

impl Catalogue {
    /// Appends a version of a file to the queue. One of the same file that is read where it lies waits no longer, nor does one
    /// that has no content.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn stage_for_backup(
        &mut self,
        directory: &Directory,
        name: &Path,
        facts: &FileFacts,
        content: Option<Id>,
    ) -> Result<()> {
        let superseded = "DELETE FROM staged WHERE directory_id = ?1 AND place = ?2
                          AND (content_id IS NULL OR kind <> 'file')";
        let done = self
            .db
            .prepare_cached(superseded)
            .and_then(|mut delete| delete.execute(params![directory.id, place_of(name)]));
        self.ok(done)?;
        let sql = format!(
            "INSERT INTO staged (directory_id, place, content_id, origin, {})
             VALUES (?1, ?2, ?3, 'manual', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
            FileFacts::COLUMNS
        );
        let done = self.db.prepare_cached(&sql).and_then(|mut insert| {
            insert.execute(params![
                directory.id,
                place_of(name),
                content.map(|id| id.0),
                facts.size as i64,
                facts.permissions,
                facts.uid,
                facts.gid,
                facts.inode as i64,
                facts.accessed_at,
                facts.modified_at,
                facts.changed_at,
                facts.born_at,
                facts.xattrs,
                facts.kind_word(),
                facts.target,
                facts.device as i64,
                facts.links as i64,
            ])
        });
        self.ok(done).map(drop)
    }

    /// Takes off the queue what is read where it lies in a tracked directory.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn remove_unread(&mut self, directory: &Directory) -> Result<()> {
        let sql = "DELETE FROM staged WHERE directory_id = ?1 AND content_id IS NULL";
        let done = self.db.execute(sql, [directory.id]);
        self.ok(done).map(drop)
    }

    /// Whether the queue has files that are read where they lie.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn has_unread(&self) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM staged WHERE content_id IS NULL)";
        let found = self.db.query_row(sql, [], |row| row.get(0));
        self.ok(found)
    }

    /// Runs several changes as one: all of them count, or none.
    ///
    /// # Errors
    /// What `work` returns, or if the catalogue fails.
    pub fn together<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let begun = self.db.execute_batch("BEGIN IMMEDIATE");
        self.ok(begun)?;
        let worked = work(self);
        let ended = self.db.execute_batch(if worked.is_ok() { "COMMIT" } else { "ROLLBACK" });
        self.ok(ended)?;
        worked
    }

    /// Returns the next items of the queue after `after`, at most `most`.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn staged_after(&self, after: i64, most: usize) -> Result<Vec<StagedItem>> {
        let sql = format!(
            "SELECT seq, directory_id, place, content_id, {} FROM staged WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            FileFacts::COLUMNS
        );
        self.all(&sql, params![after, most as i64], read)
    }

    /// Returns the next item of the queue.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn next_staged_operation(&self) -> Result<Option<StagedItem>> {
        Ok(self.staged_after(0, 1)?.pop())
    }

    /// Whether a version of this file waits for the next backup.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn is_staged(&self, directory: &Directory, name: &Path) -> Result<bool> {
        let found = self.db.query_row(
            "SELECT EXISTS (SELECT 1 FROM staged WHERE directory_id = ?1 AND place = ?2)",
            params![directory.id, place_of(name)],
            |row| row.get(0),
        );
        self.ok(found)
    }

    /// Returns the places of `name` and all files below it that wait, for [`Catalogue::place`].
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn staged_places(&self, directory: &Directory, name: &Path) -> Result<HashSet<Vec<u8>>> {
        let (from, to) = from_down(&place_of(name));
        let sql = "SELECT place FROM staged WHERE directory_id = ?1 AND place >= ?2 AND place < ?3";
        self.all(sql, params![directory.id, from, to], |row| row.get(0))
    }

    /// Returns the names of the files of a directory that wait.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn staged_names(&self, directory: &Directory) -> Result<Vec<std::path::PathBuf>> {
        let sql = "SELECT DISTINCT place FROM staged WHERE directory_id = ?1";
        self.all(sql, [directory.id], |row| entities::name(row, 0))
    }

    /// Returns the key by which [`Catalogue::staged_places`] knows a name.
    pub fn place(name: &Path) -> Vec<u8> {
        place_of(name)
    }

    /// Takes items off the queue.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn remove_staged(&mut self, seqs: &[i64]) -> Result<()> {
        for seq in seqs {
            let done = self.db.execute("DELETE FROM staged WHERE seq = ?1", [seq]);
            self.ok(done)?;
        }
        Ok(())
    }

    /// Returns how many items wait, and their bytes.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn staged_count(&self) -> Result<(u64, u64)> {
        let counted = self.db.query_row("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM staged", [], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
        });
        self.ok(counted)
    }

    /// Returns the bytes that waiting items have in the stage.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn staged_bytes(&self) -> Result<u64> {
        let sql = "SELECT COALESCE(SUM(size), 0) FROM staged WHERE content_id IS NOT NULL";
        let counted = self.db.query_row(sql, [], |row| Ok(row.get::<_, i64>(0)? as u64));
        self.ok(counted)
    }

    /// Returns the contents that waiting items need from the stage.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn staged_contents(&self) -> Result<HashSet<Id>> {
        let sql = "SELECT DISTINCT content_id FROM staged WHERE content_id IS NOT NULL";
        self.all(sql, [], |row| entities::id(row, 0))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<StagedItem> {
    let is_read_where_it_lies = row.get_ref(3)? == ValueRef::Null;
    Ok(StagedItem {
        seq: row.get(0)?,
        directory_id: row.get(1)?,
        name: entities::name(row, 2)?,
        content_id: if is_read_where_it_lies { None } else { Some(entities::id(row, 3)?) },
        facts: FileFacts::read(row, 4)?,
    })
}
