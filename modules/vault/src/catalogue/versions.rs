//! Files and their versions, and where their contents are.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::entities::{self, Chunk, Directory, File, FileFacts, StagedItem, Version, moment};
use super::operations::ALL_DUE;
use super::{Catalogue, from_down, next_after, place_of, stamp};
use crate::error::{Result, usage};
use crate::format::Id;

/// A queued item whose content the vaults hold.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The item.
    pub item: StagedItem,
    /// The SHA-256 of its content.
    pub content: Id,
    /// Its chunks in each vault that was written; none for a vault that holds it already.
    pub stored: Vec<(String, Vec<Chunk>)>,
}

/// A file with the version that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentFile {
    /// The file.
    pub file_id: i64,
    /// Relative to its directory.
    pub name: PathBuf,
    /// Whether it was gone at the last backup.
    pub deleted: bool,
    /// Its version.
    pub version: Version,
}

/// A vault that holds a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub vault: String,
    /// Where the content was put there, if the settings said it then.
    pub class: Option<String>,
}

impl Catalogue {
    /// Returns a file of a tracked directory by its relative name.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn find_file_by_path(&self, directory: &Directory, name: &Path) -> Result<Option<File>> {
        let found = self.db.query_row(
            "SELECT id, place, current_snapshot_id, deleted FROM files WHERE directory_id = ?1 AND place = ?2",
            params![directory.id, place_of(name)],
            |row| {
                Ok(File {
                    id: row.get(0)?,
                    name: entities::name(row, 1)?,
                    directory_id: directory.id,
                    current_snapshot_id: row.get(2)?,
                    deleted: row.get(3)?,
                })
            },
        );
        self.ok(found.optional())
    }

    /// Returns the versions of a file, the newest first.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn find_file_snapshots_for_file(&self, file: &File) -> Result<Vec<Version>> {
        let sql = format!(
            "SELECT {} FROM file_snapshots v JOIN contents c ON c.number = v.content WHERE v.file_id = ?1
             ORDER BY v.number DESC",
            Version::COLUMNS
        );
        self.all(&sql, [file.id], Version::read)
    }

    /// Returns the newest version of a file whose checksum begins so.
    ///
    /// # Errors
    /// If the beginning fits several contents of the file, or the catalogue fails.
    pub fn find_file_snapshot_by_checksum(&self, file: &File, prefix: &str) -> Result<Option<Version>> {
        let mut fitting = self.find_file_snapshots_for_file(file)?;
        fitting.retain(|version| version.content_id.hex().starts_with(prefix));
        match fitting.first().cloned() {
            Some(first) if fitting.iter().any(|version| version.content_id != first.content_id) => {
                Err(usage(format!("`{prefix}` is the beginning of several checksums"))
                    .hint("give more of its digits"))
            }
            found => Ok(found),
        }
    }

    /// Returns files with their current versions, from `name` down, after `after`, ordered as paths are, at most `most`.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn current_files(
        &self,
        directory: &Directory,
        name: &Path,
        after: Option<&Path>,
        most: usize,
    ) -> Result<Vec<CurrentFile>> {
        let (from, to) = from_down(&place_of(name));
        let from = next_after(&after.map(place_of).unwrap_or_default()).max(from);
        let sql = current("f.place >= ?2 AND f.place < ?3 ORDER BY f.place LIMIT ?4");
        self.all(&sql, params![directory.id, from, to, most as i64], current_file)
    }

    /// Returns what is there of a directory by what is known, with its current versions, from a place on, ordered as paths are, at
    /// most `most`. The directory itself is not among it.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn present_from(&self, directory: &Directory, from: &[u8], most: usize) -> Result<Vec<CurrentFile>> {
        let from = from.max(&[0]);
        let sql = current("f.place >= ?2 AND f.deleted = 0 ORDER BY f.place LIMIT ?3");
        self.all(&sql, params![directory.id, from, most as i64], current_file)
    }

    /// Returns what lies right in a directory of a tracked one, with its current version, and that directory itself.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn current_files_right_in(&self, directory: &Directory, name: &Path) -> Result<Vec<CurrentFile>> {
        let (from, to) = from_down(&place_of(name));
        // Where the name of an entry begins in its place, from 1 on.
        let begins = if from.is_empty() { 1 } else { from.len() + 2 };
        let sql = current("f.place >= ?2 AND f.place < ?3 AND instr(substr(f.place, ?4), x'00') = 0");
        self.all(&sql, params![directory.id, from, to, begins as i64], current_file)
    }

    /// Returns a file with its current version, if it has one.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn current_file(&self, directory: &Directory, name: &Path) -> Result<Option<CurrentFile>> {
        let sql = current("f.place = ?2");
        let found: Vec<CurrentFile> = self.all(&sql, params![directory.id, place_of(name)], current_file)?;
        Ok(found.into_iter().next())
    }

    /// Returns the chunks of a content in a vault; `None` if that vault does not hold it.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn chunks(&self, vault: &str, content: Id) -> Result<Option<Vec<Chunk>>> {
        let numbers: Vec<i64> =
            self.all("SELECT number FROM contents WHERE id = ?1", [content.0], |row| row.get(0))?;
        numbers.first().map_or(Ok(None), |number| self.chunks_of(vault, *number))
    }

    /// As [`Catalogue::chunks`], of a content by its number: to find that takes as long as all else.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn chunks_of(&self, vault: &str, content: i64) -> Result<Option<Vec<Chunk>>> {
        let sql = "SELECT blob_id, size FROM content_chunks WHERE content = ?1 AND vault = ?2 ORDER BY seq";
        let chunks: Vec<Chunk> = self.all(sql, params![content, vault], |row| {
            Ok(Chunk { blob_id: entities::id(row, 0)?, size: row.get(1)? })
        })?;
        if !chunks.is_empty() {
            return Ok(Some(chunks));
        }
        // An empty content has no chunks wherever it is.
        let sql = "SELECT 1 FROM content_locations WHERE content = ?1 AND vault = ?2";
        let places: Vec<i64> = self.all(sql, params![content, vault], |row| row.get(0))?;
        Ok((!places.is_empty()).then_some(chunks))
    }

    /// Returns the vaults that hold a content.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn locations(&self, content: Id) -> Result<Vec<String>> {
        let sql = "SELECT l.vault FROM contents c JOIN content_locations l ON l.content = c.number
                   WHERE c.id = ?1 ORDER BY l.vault";
        self.all(sql, [content.0], |row| row.get(0))
    }

    /// Returns the vaults that hold the contents of a file's versions.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn locations_of_versions(&self, file: &File) -> Result<HashMap<Id, Vec<Holder>>> {
        let sql = "SELECT c.id, l.vault, l.storage_class FROM content_locations l JOIN contents c ON c.number = l.content
                   WHERE l.content IN (SELECT content FROM file_snapshots WHERE file_id = ?1) ORDER BY l.vault";
        let all: Vec<(Id, Holder)> = self.all(sql, [file.id], |row| {
            Ok((entities::id(row, 0)?, Holder { vault: row.get(1)?, class: row.get(2)? }))
        })?;
        let mut found: HashMap<Id, Vec<Holder>> = HashMap::new();
        all.into_iter().for_each(|(content, holder)| found.entry(content).or_default().push(holder));
        Ok(found)
    }

    /// Returns the names of what is there of a directory by what is known, and has its version since that second.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn stored_since(&self, directory: &Directory, at: Timestamp) -> Result<Vec<PathBuf>> {
        // Of one second all count, whatever their fractions.
        let second = moment(at).div_euclid(1_000_000_000).saturating_mul(1_000_000_000);
        let sql = "SELECT f.place FROM files f JOIN file_snapshots v ON v.id = f.current_snapshot_id
                   WHERE f.directory_id = ?1 AND f.deleted = 0 AND v.created_at >= ?2";
        self.all(sql, params![directory.id, second], |row| entities::name(row, 0))
    }

    /// Counts what is there of a directory by what is known.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn count_present(&self, directory: &Directory) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM files WHERE directory_id = ?1 AND deleted = 0";
        let counted = self.db.query_row(sql, [directory.id], |row| Ok(row.get::<_, i64>(0)? as u64));
        self.ok(counted)
    }

    /// Returns the contents of current versions that one of these vaults does not hold.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn lacking(&self, vaults: &[String]) -> Result<HashSet<Id>> {
        let mut lacking = HashSet::new();
        for vault in vaults {
            if self.is_whole(vault)? {
                continue;
            }
            let sql = "SELECT c.id FROM files f JOIN file_snapshots v ON v.id = f.current_snapshot_id
                       JOIN contents c ON c.number = v.content WHERE f.deleted = 0 AND NOT EXISTS
                           (SELECT 1 FROM content_locations l WHERE l.content = v.content AND l.vault = ?1)";
            let of_this: Vec<Id> = self.all(sql, [vault], |row| entities::id(row, 0))?;
            lacking.extend(of_this);
        }
        Ok(lacking)
    }

    /// Returns the regular files of a directory that are there by what is known, and whose moment in a span comes after `last` and not
    /// after `now`; in the same units each file has one, which is that of [`moment_of`].
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn files_in_turn(
        &self,
        directory: &Directory,
        last: i64,
        now: i64,
        span: i64,
    ) -> Result<Vec<CurrentFile>> {
        let sql = current(&format!(
            "f.deleted = 0 AND v.kind = 'file' AND (f.id * {SPREAD} % ?4 - ?2 + ?4) % ?4 < ?3 ORDER BY f.place"
        ));
        let begin = (last + 1).rem_euclid(span);
        self.all(&sql, params![directory.id, begin, now - last, span], current_file)
    }

    /// Counts the files whose current version a vault does not hold.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn count_lacking(&self, vault: &str) -> Result<u64> {
        if self.is_whole(vault)? {
            return Ok(0);
        }
        let sql = "SELECT COUNT(*) FROM files f JOIN file_snapshots v ON v.id = f.current_snapshot_id
                   WHERE f.deleted = 0 AND NOT EXISTS
                       (SELECT 1 FROM content_locations l WHERE l.content = v.content AND l.vault = ?1)";
        let counted = self.db.query_row(sql, [vault], |row| Ok(row.get::<_, i64>(0)? as u64));
        self.ok(counted)
    }

    /// Forgets that a vault holds a content, because it does not.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn forget_location(&mut self, vault: &str, content: Id) -> Result<()> {
        for table in ["content_chunks", "content_locations"] {
            let sql = format!(
                "DELETE FROM {table} WHERE vault = ?1 AND content = (SELECT number FROM contents WHERE id = ?2)"
            );
            let done = self.db.execute(&sql, params![vault, content.0]);
            self.ok(done)?;
        }
        Ok(())
    }

    /// Records contents that the vaults hold by now, makes versions of them and takes them off the queue: all or none.
    /// Returns how many versions are new; what equals the current version is none, and directories are not counted.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn record(&mut self, arrived: &[Arrived], now: Timestamp) -> Result<u64> {
        let done = (|| -> rusqlite::Result<u64> {
            let step = self.db.transaction()?;
            let mut fresh = 0;
            if !arrived.is_empty() {
                step.execute(ALL_DUE, [])?;
            }
            for one in arrived {
                let content = record_content(&step, one, &self.classes, now)?;
                let is_new = record_version(&step, one, content, now)?;
                fresh += u64::from(is_new && !one.item.facts.is_dir());
                step.prepare_cached("DELETE FROM staged WHERE seq = ?1")?.execute([one.item.seq])?;
            }
            step.commit()?;
            Ok(fresh)
        })();
        self.ok(done)
    }

    /// Returns the files from `name` down that were gone at a moment, by their ids. What was gone already when nobody noted since
    /// when is not among them.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn absent_at(&self, directory: &Directory, name: &Path, at: Timestamp) -> Result<HashSet<i64>> {
        let (from, to) = from_down(&place_of(name));
        let sql = "SELECT a.file_id, a.gone_at, a.back_at FROM absences a JOIN files f ON f.id = a.file_id
                   WHERE f.directory_id = ?1 AND f.place >= ?2 AND f.place < ?3";
        let all: Vec<(i64, String, Option<String>)> =
            self.all(sql, params![directory.id, from, to], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        let time = |text: &str| text.parse::<Timestamp>().ok();
        let was_gone = |gone_at: &str, back_at: Option<&str>| {
            time(gone_at).is_some_and(|gone_at| gone_at <= at)
                && back_at.and_then(time).is_none_or(|back_at| at < back_at)
        };
        let absent = all.into_iter().filter(|(_, gone_at, back_at)| was_gone(gone_at, back_at.as_deref()));
        Ok(absent.map(|(file, ..)| file).collect())
    }

    /// Returns the directories in a tracked one on which something was mounted, with their ids.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn mounts(&self, directory: &Directory) -> Result<Vec<(i64, PathBuf)>> {
        let sql = "SELECT id, place FROM files WHERE directory_id = ?1 AND mount = 1 ORDER BY place";
        self.all(sql, [directory.id], |row| Ok((row.get(0)?, entities::name(row, 1)?)))
    }

    /// Notes on which directories something is mounted, and on which nothing is any more.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn set_mounts(&mut self, changes: &[(i64, bool)]) -> Result<()> {
        self.together(|catalogue| {
            changes.iter().try_for_each(|(file, mount)| {
                let done =
                    catalogue.db.execute("UPDATE files SET mount = ?2 WHERE id = ?1", params![file, mount]);
                catalogue.ok(done).map(drop)
            })
        })
    }

    /// Notes which files are gone and which are there again.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn set_deleted(&mut self, changes: &[(i64, bool)], now: Timestamp) -> Result<()> {
        let done = (|| -> rusqlite::Result<()> {
            let step = self.db.transaction()?;
            if !changes.is_empty() {
                step.execute(ALL_DUE, [])?;
            }
            let now = stamp(now);
            for (file, deleted) in changes {
                let note = if *deleted { GONE } else { BACK };
                step.prepare_cached(note)?.execute(params![file, now])?;
                step.prepare_cached("UPDATE files SET deleted = ?2 WHERE id = ?1")?
                    .execute(params![file, deleted])?;
            }
            step.commit()
        })();
        self.ok(done)
    }
}

/// Returns a query for files of a directory with their current versions, as [`current_file`] reads them.
fn current(which: &str) -> String {
    format!(
        "SELECT {}, f.place, f.deleted FROM files f JOIN file_snapshots v ON v.id = f.current_snapshot_id
         JOIN contents c ON c.number = v.content WHERE f.directory_id = ?1 AND {which}",
        Version::COLUMNS
    )
}

fn current_file(row: &Row<'_>) -> rusqlite::Result<CurrentFile> {
    let version = Version::read(row)?;
    Ok(CurrentFile {
        file_id: version.file_id,
        name: entities::name(row, Version::WIDTH)?,
        deleted: row.get(Version::WIDTH + 1)?,
        version,
    })
}

/// Numbers that follow each other come to lie evenly in any span.
const SPREAD: i64 = 2_654_435_761;

/// Returns the moment of a file in a span.
pub fn moment_of(file_id: i64, span: i64) -> i64 {
    file_id.wrapping_mul(SPREAD).rem_euclid(span)
}

/// Notes since when a file is gone, unless it was so before.
const GONE: &str =
    "INSERT INTO absences (file_id, gone_at) SELECT id, ?2 FROM files WHERE id = ?1 AND deleted = 0";
/// Notes since when it is back, if it was gone.
const BACK: &str = "UPDATE absences SET back_at = ?2 WHERE file_id = ?1 AND back_at IS NULL";

/// Returns the number of the content.
fn record_content(
    step: &Transaction<'_>,
    one: &Arrived,
    classes: &HashMap<String, String>,
    now: Timestamp,
) -> rusqlite::Result<i64> {
    let find = "SELECT number FROM contents WHERE id = ?1";
    let found = step.prepare_cached(find)?.query_row([one.content.0], |row| row.get(0)).optional()?;
    let content = match found {
        Some(number) => number,
        None => {
            step.prepare_cached("INSERT INTO contents (id, size, created_at) VALUES (?1, ?2, ?3)")?
                .execute(params![one.content.0, one.item.facts.size as i64, moment(now)])?;
            step.last_insert_rowid()
        }
    };
    for (vault, chunks) in &one.stored {
        step.prepare_cached(
            "INSERT OR IGNORE INTO content_locations (content, vault, stored_at, storage_class) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![content, vault, moment(now), classes.get(vault)])?;
        for (seq, chunk) in chunks.iter().enumerate() {
            step.prepare_cached(
                "INSERT OR REPLACE INTO content_chunks (content, vault, seq, blob_id, size) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![content, vault, seq as i64, chunk.blob_id.0, chunk.size])?;
        }
    }
    Ok(content)
}

/// Returns whether the version is a new one.
fn record_version(
    step: &Transaction<'_>,
    one: &Arrived,
    content: i64,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let item = &one.item;
    let place = place_of(&item.name);
    let found: Option<(i64, Option<i64>)> = step
        .prepare_cached("SELECT id, current_snapshot_id FROM files WHERE directory_id = ?1 AND place = ?2")?
        .query_row(params![item.directory_id, place], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (file, current) = match found {
        Some((file, current)) => {
            step.prepare_cached("UPDATE files SET deleted = 0 WHERE id = ?1")?.execute([file])?;
            step.prepare_cached(BACK)?.execute(params![file, stamp(now)])?;
            let sql = format!(
                "SELECT {} FROM file_snapshots v JOIN contents c ON c.number = v.content WHERE v.id = ?1",
                Version::COLUMNS
            );
            let read = |id: i64| step.prepare_cached(&sql)?.query_row([id], Version::read);
            (file, current.map(read).transpose()?)
        }
        None => {
            step.prepare_cached("INSERT INTO files (place, directory_id) VALUES (?1, ?2)")?
                .execute(params![place, item.directory_id])?;
            (step.last_insert_rowid(), None)
        }
    };
    let same =
        |version: &Version| version.content_id == one.content && version.facts.same_version(&item.facts);
    if current.as_ref().is_some_and(same) {
        return Ok(false);
    }
    let number = current.map_or(1, |version| version.number + 1);
    let facts = &item.facts;
    let sql = format!(
        "INSERT INTO file_snapshots (file_id, content, number, created_at, {})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        FileFacts::COLUMNS
    );
    step.prepare_cached(&sql)?.execute(params![
        file,
        content,
        number,
        moment(now),
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
    ])?;
    step.prepare_cached("UPDATE files SET current_snapshot_id = ?2 WHERE id = ?1")?
        .execute(params![file, step.last_insert_rowid()])?;
    Ok(true)
}
