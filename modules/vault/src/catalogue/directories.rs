//! Tracked directories: none lies inside another.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};

use super::entities::{self, Directory};
use super::{Catalogue, place_of, stamp};
use crate::error::Result;

/// What tracking a directory came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracked {
    /// It is tracked from now on, and these directories became part of it.
    New(Directory, Vec<PathBuf>),
    /// It was tracked already.
    Already(Directory),
    /// It lies inside this one, which is tracked.
    Within(Directory),
}

impl Catalogue {
    /// Returns all tracked directories, ordered as paths are.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn directories(&self) -> Result<Vec<Directory>> {
        let mut all: Vec<Directory> =
            self.all("SELECT id, path, created_at FROM directories", [], |row| {
                Ok(Directory { id: row.get(0)?, path: entities::path(row, 1)?, created_at: row.get(2)? })
            })?;
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }

    /// Returns the tracked directory of exactly this path.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn find_directory_by_path(&self, path: &Path) -> Result<Option<Directory>> {
        Ok(self.directories()?.into_iter().find(|directory| directory.path == path))
    }

    /// Returns the tracked directory that holds a path, or is it.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn search_directory_for_path(&self, path: &Path) -> Result<Option<Directory>> {
        Ok(self.directories()?.into_iter().find(|directory| path.starts_with(&directory.path)))
    }

    /// Returns the tracked directories at or below a path.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn find_directories_by_path_prefix(&self, path: &Path) -> Result<Vec<Directory>> {
        Ok(self.directories()?.into_iter().filter(|directory| directory.path.starts_with(path)).collect())
    }

    /// Tracks a directory. Tracked directories below it become part of it, with their versions and what is staged.
    ///
    /// # Errors
    /// If the catalogue fails; then nothing has changed.
    pub fn create_directory(&mut self, path: &Path, now: Timestamp) -> Result<Tracked> {
        if let Some(holder) = self.search_directory_for_path(path)? {
            return Ok(if holder.path == path { Tracked::Already(holder) } else { Tracked::Within(holder) });
        }
        let children = self.find_directories_by_path_prefix(path)?;
        let mut fresh = Directory { id: 0, path: path.to_owned(), created_at: stamp(now) };
        let done = (|| {
            let step = self.db.transaction()?;
            step.execute(
                "INSERT INTO directories (path, created_at) VALUES (?1, ?2)",
                params![path.as_os_str().as_bytes(), fresh.created_at],
            )?;
            fresh.id = step.last_insert_rowid();
            for child in &children {
                let prefix = child.path.strip_prefix(path).unwrap_or(Path::new(""));
                for table in ["files", "staged"] {
                    move_rows(&step, table, child.id, fresh.id, prefix)?;
                }
                step.execute("DELETE FROM directories WHERE id = ?1", [child.id])?;
            }
            step.commit()
        })();
        self.ok(done)?;
        Ok(Tracked::New(fresh, children.into_iter().map(|child| child.path).collect()))
    }

    /// Returns what was recorded as the base of a directory.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn base(&self, directory: &Directory) -> Result<Option<String>> {
        let sql = "SELECT recorded FROM bases WHERE directory_id = ?1";
        let found = self.db.query_row(sql, [directory.id], |row| row.get(0));
        self.ok(found.optional())
    }

    /// Records the base of a directory, or that it has none.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn set_base(&mut self, directory: &Directory, recorded: Option<&str>) -> Result<()> {
        let done = match recorded {
            Some(text) => self.db.execute(
                "INSERT OR REPLACE INTO bases (directory_id, recorded) VALUES (?1, ?2)",
                params![directory.id, text],
            ),
            None => self.db.execute("DELETE FROM bases WHERE directory_id = ?1", [directory.id]),
        };
        self.ok(done).map(drop)
    }

    /// Forgets a directory, its versions and what is staged of it; the vaults keep what they hold.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn delete_directory(&mut self, directory: &Directory) -> Result<()> {
        let done = self.db.execute("DELETE FROM directories WHERE id = ?1", [directory.id]);
        self.ok(done).map(drop)
    }
}

/// Moves what is below `from` below `to`, with `prefix` before its name.
fn move_rows(step: &Transaction<'_>, table: &str, from: i64, to: i64, prefix: &Path) -> rusqlite::Result<()> {
    let mut place = place_of(prefix);
    place.push(0);
    // `||` makes text of blobs; the cast makes bytes of it again.
    let sql = format!(
        "UPDATE {table} SET directory_id = ?2, place = CAST(?3 || place AS BLOB) WHERE directory_id = ?1"
    );
    step.execute(&sql, params![from, to, place]).map(drop)
}
