//! What pruning asks of the catalogue, and tells it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::params;

use super::{Catalogue, entities, stamp};
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
        let mut asked: HashMap<String, bool> = HashMap::new();
        let sql = "SELECT v.created_at, l.stored_at, c.blob_id FROM file_snapshots v
                   JOIN content_locations l ON l.vault = ?1 AND l.content_id = v.content_id
                   JOIN content_chunks c ON c.vault = ?1 AND c.content_id = v.content_id";
        let found: Vec<Option<Id>> = self.all(sql, [vault], |row| {
            let mut ask = |at: String| *asked.entry(at).or_insert_with_key(|at| stays(at));
            let stays = ask(row.get("created_at")?) || ask(row.get("stored_at")?);
            let blob: Vec<u8> = row.get("blob_id")?;
            Ok(Id::from_slice(&blob).filter(|_| stays))
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
            let sql = "SELECT d.path, f.name, v.created_at, l.stored_at FROM file_snapshots v
                       JOIN files f ON f.id = v.file_id JOIN directories d ON d.id = f.directory_id
                       LEFT JOIN content_locations l ON l.vault = ?1 AND l.content_id = v.content_id
                       WHERE v.content_id = ?2 ORDER BY v.created_at";
            let versions: Vec<(PathBuf, String, Option<String>)> =
                self.all(sql, [vault, &content.hex()], |row| {
                    let path = entities::path(row, "path")?.join(entities::path(row, "name")?);
                    Ok((path, row.get("created_at")?, row.get("stored_at")?))
                })?;
            for (path, created_at, stored_at) in versions {
                tell(path, &created_at, stored_at.as_deref().unwrap_or(&created_at));
            }
        }
        Ok(())
    }

    /// Returns the contents of which a vault does not hold all chunks that it should.
    fn lost_contents(&self, vault: &str, is_there: impl Fn(Id) -> bool) -> Result<BTreeSet<Id>> {
        let sql = "SELECT content_id, blob_id FROM content_chunks WHERE vault = ?1";
        let found: Vec<Option<Id>> = self.all(sql, [vault], |row| {
            let blob: Vec<u8> = row.get("blob_id")?;
            let is_there = Id::from_slice(&blob).is_some_and(&is_there);
            Ok(if is_there { None } else { Some(entities::id(row, "content_id")?) })
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
                let sql = "SELECT COUNT(*) FROM file_snapshots WHERE content_id = ?1";
                let counted = catalogue.db.query_row(sql, params![content.hex()], |row| row.get::<_, i64>(0));
                versions += catalogue.ok(counted)? as u64;
                catalogue.forget_location(vault, content)?;
            }
            Ok(versions)
        })
    }
}
