//! The catalogue: what is tracked, which versions there are, what waits for the next backup.
//!
//! One SQLite file of one machine, write-ahead logged. Names are bytes. Paths are compared by components: the column
//! `place` is a name whose slashes are zero bytes, so that order and prefixes in SQL are those of paths.

mod alone;
mod directories;
mod entities;
mod gone;
mod held;
mod lineage;
mod operations;
mod reads;
mod recover;
mod schema;
mod staged;
mod tidy;
mod trees;
mod versions;

use std::collections::HashMap;
use std::fs::{self, File as Bytes};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Params, Row};

pub use directories::Tracked;
pub use entities::{Chunk, Directory, File, FileFacts, Operation, StagedItem, VaultState, Version};
pub use lineage::Command;
pub use operations::{KILLED, ONE_LEVEL};
pub use tidy::Tidied;
pub use trees::KnownTree;
pub use versions::{Arrived, CurrentFile, Holder, moment_of};

use self::held::Held;
use crate::error::{Result, at};

/// How long a writer waits for another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many statements are kept in their compiled form.
const STATEMENTS: usize = 64;
/// How much of the tables is kept in memory at most, in KiB below zero, as SQLite has it.
const CACHE: i64 = -(48 << 10);
/// After how many pages in the log these go into the file.
const LOG: i64 = 8000;

/// How often somebody else may come in between before a copy is given up.
const CHECKPOINTS: u32 = 3;

/// Returns the name of one of the files of a catalogue.
fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// The catalogue of one machine.
pub struct Catalogue {
    db: Connection,
    // Goes after the connection.
    file: Held,
    path: PathBuf,
    /// Where vaults put what is stored, of those that say it.
    classes: HashMap<String, String>,
}

impl Catalogue {
    /// Opens the catalogue and makes it if need be; only its owner may read it.
    ///
    /// # Errors
    /// If the file cannot be opened, is no catalogue, or comes from a newer version.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|error| at("make the directory", directory, &error))?;
        }
        let file = Held::open(path, true).map_err(|error| at("open the catalogue", path, &error))?;
        if !has_room(path, LEAST_ROOM) {
            return Err(no_room(path, "less than 64 KiB are free"));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags);
        let (db, classes) = (db.map_err(|error| broken(path, &error))?, HashMap::new());
        let mut catalogue = Self { db, file, path: path.to_owned(), classes };
        let ready = catalogue.prepare();
        ready.map_err(|error| broken(path, &error))?;
        schema::migrate(&mut catalogue)?;
        // From here on nobody takes its place. Before, somebody may have done so between the two who opened it.
        if !catalogue.file.is_at(path) {
            let message = format!("another catalogue took the place of `{}` just now", path.display());
            return Err(ModuleError::new(ErrorKind::Busy, message).hint("start again"));
        }
        Ok(catalogue)
    }

    /// Opens a copy of the catalogue in a directory: of what is not in the main file yet, too.
    ///
    /// # Errors
    /// If it cannot be read, or the copy not be written, or as [`Catalogue::open`].
    pub fn open_copy(path: &Path, directory: &Path) -> Result<Self> {
        let copy = directory.join("catalogue.db");
        let copied = Held::open(path, false)
            .and_then(|held| io::copy(&mut Whole { file: held.file(), at: 0 }, &mut Bytes::create(&copy)?));
        copied.map_err(|error| at("copy", path, &error))?;
        let log = with(path, "-wal");
        match fs::copy(&log, with(&copy, "-wal")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at("copy", &log, &error)),
            _ => Self::open(&copy),
        }
    }

    /// Has it noted where a vault puts what is stored from now on.
    pub fn note_class(&mut self, vault: &str, class: &str) {
        self.classes.insert(vault.to_owned(), class.to_owned());
    }

    fn prepare(&mut self) -> rusqlite::Result<()> {
        self.db.busy_timeout(PATIENCE)?;
        // Otherwise a statement is prepared anew whenever a limit or a bound of it is another value, which takes longer than to run it.
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        self.db.set_prepared_statement_cache_capacity(STATEMENTS);
        self.db.pragma_update(None, "cache_size", CACHE)?;
        self.db.pragma_update(None, "wal_autocheckpoint", LOG)?;
        log_ahead(&self.db)?;
        self.db.pragma_update(None, "synchronous", "full")?;
        self.db.pragma_update(None, "foreign_keys", "on")
    }

    /// Whether an older program wrote it, so that opening it changes all of it.
    ///
    /// # Errors
    /// If the file cannot be opened or is no catalogue.
    pub fn is_older(path: &Path) -> Result<bool> {
        // Its descriptor may be closed again: nobody has the file open in this process yet.
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let asked = db.and_then(|db| {
            db.busy_timeout(PATIENCE)?;
            schema::is_older(&db)
        });
        asked.map_err(|error| broken(path, &error))
    }

    /// Gives the room back that most of its pages have free. Where that cannot be it is done another time.
    pub fn shrink(&self) {
        let count = |pragma| self.db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        if let (Ok(free), Ok(all)) = (count("freelist_count"), count("page_count"))
            && free * 2 > all
        {
            self.db.execute_batch("VACUUM").ok();
        }
    }

    /// Proves that the tables can be read whole and are put together as they should be.
    ///
    /// # Errors
    /// If they are not.
    pub fn prove_sound(&self) -> Result<()> {
        let found = self.db.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match self.ok(found)? {
            said if said == "ok" => Ok(()),
            said => {
                let message = format!("the catalogue `{}` is damaged: {said}", self.path.display());
                Err(ModuleError::failed(message).hint("`bt recover` builds it anew from a vault"))
            }
        }
    }

    /// Has somebody read the file of the catalogue while nobody writes into it and all of it is in there.
    ///
    /// # Errors
    /// If others keep the catalogue busy, or the reading fails.
    pub fn while_still<T>(&self, read: impl FnOnce(&Bytes, &Path) -> Result<T>) -> Result<T> {
        for _ in 0..CHECKPOINTS {
            let written = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
            let is_busy: bool = self.ok(written)?;
            if is_busy {
                continue;
            }
            // Who began to read while the log was empty keeps others from writing what comes after into the file.
            let reading = self.ok(self.db.unchecked_transaction())?;
            let begun =
                reading.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
            self.ok(begun)?;
            if fs::metadata(with(&self.path, "-wal")).map_or(0, |log| log.len()) == 0 {
                return read(self.file.file(), &self.path);
            }
        }
        let message = format!("the catalogue `{}` is being read or written by others", self.path.display());
        Err(ModuleError::new(ErrorKind::Busy, message))
    }

    /// Has many questions asked of one state of the catalogue, which locks its file once.
    ///
    /// # Errors
    /// What `ask` returns, or if the catalogue fails.
    pub fn at_once<T>(&self, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        // It ends with this; nothing was written.
        let _reading = self.ok(self.db.unchecked_transaction())?;
        ask()
    }

    /// Returns all rows of a query.
    fn all<T, C: FromIterator<T>>(
        &self,
        sql: &str,
        given: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<C> {
        let found = self.db.prepare_cached(sql).and_then(|mut query| query.query_map(given, read)?.collect());
        self.ok(found)
    }

    /// Turns an error of the database into one for people.
    fn ok<T>(&self, result: rusqlite::Result<T>) -> Result<T> {
        result.map_err(|error| broken(&self.path, &error))
    }
}

/// Has a database write a log ahead. Of two that do so first in one moment SQLite tells one that it is locked, without waiting.
fn log_ahead(db: &Connection) -> rusqlite::Result<()> {
    let since = Instant::now();
    loop {
        match db.pragma_update(None, "journal_mode", "wal") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && since.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Reads a file from its beginning or from where it is said, wherever others are in it.
pub(crate) struct Whole<'f> {
    pub(crate) file: &'f Bytes,
    pub(crate) at: u64,
}

impl io::Read for Whole<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Less than this is no room: a database that cannot grow says no more than that something went wrong.
const NO_ROOM: u64 = 256 << 10;
/// Less than this ends it before the database is opened: that maps a file into memory (its `-shm`), and where a page of it has no
/// block on a full disk of small blocks the kernel kills whoever writes there.
const LEAST_ROOM: u64 = 64 << 10;

/// Whether so many bytes can still be written where the catalogue lies: by whoever runs this, under whatever quota. What else stands in
/// the way of writing is not for here.
fn has_room(path: &Path, bytes: u64) -> bool {
    use rustix::io::Errno;
    let Some(directory) = path.parent() else { return true };
    match tempfile::tempfile_in(directory) {
        Ok(file) => {
            let flags = rustix::fs::FallocateFlags::empty();
            !matches!(rustix::fs::fallocate(&file, flags, 0, bytes), Err(Errno::NOSPC | Errno::DQUOT))
        }
        Err(error) => at("write", path, &error).kind != ErrorKind::DiskSpace,
    }
}

fn no_room(path: &Path, why: &str) -> ModuleError {
    let message = format!("there is no room left for the catalogue `{}`: {why}", path.display());
    ModuleError::new(ErrorKind::DiskSpace, message)
        .hint("make room there and start again: what was stored is not stored again")
}

fn broken(path: &Path, error: &rusqlite::Error) -> ModuleError {
    let is_full = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => !has_room(path, NO_ROOM),
        _ => false,
    };
    if is_full {
        return no_room(path, &error.to_string());
    }
    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) {
        let message = format!("the catalogue `{}` is being written by another command", path.display());
        return ModuleError::new(ErrorKind::Busy, message).hint("wait for it to end");
    }
    ModuleError::failed(format!("the catalogue `{}` cannot be used: {error}", path.display()))
        .hint("if the file is damaged, `bt recover` builds it anew from a vault")
}

/// Returns a name with zero bytes instead of slashes: ordered as paths are.
fn place_of(name: &Path) -> Vec<u8> {
    name.as_os_str().as_bytes().iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect()
}

/// Returns the bounds of a place and of what lies below it: from the first, before the second. Nothing else lies between them, and one
/// range is what an index is read by: with `OR` in it SQLite reads all of a directory.
fn from_down(place: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut to = place.to_vec();
    match place {
        [] => to.resize(256, 0xff),
        _ => to.push(1),
    }
    (place.to_vec(), to)
}

/// Returns the place that comes right after one.
fn next_after(place: &[u8]) -> Vec<u8> {
    let mut next = place.to_vec();
    next.push(0);
    next
}

fn stamp(now: Timestamp) -> String {
    now.to_string()
}

#[cfg(test)]
mod tests;
