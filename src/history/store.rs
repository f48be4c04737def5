//! The store: one SQLite file, write-ahead logged, migrated by its `user_version`.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use pc_switcher_contract::{Role, SessionId};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, TransactionBehavior, named_params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::HistoryError;
use super::rows::SessionRow;

/// How long a writer waits for another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Each entry brings the format one further; entries are never changed, only added.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE sessions (
        id        TEXT PRIMARY KEY NOT NULL,
        started   TEXT NOT NULL,
        ended     TEXT,
        role      TEXT NOT NULL,
        source    TEXT NOT NULL,
        target    TEXT NOT NULL,
        state     TEXT NOT NULL,
        exit_code INTEGER,
        modules   TEXT NOT NULL,
        results   TEXT NOT NULL,
        snapshots TEXT NOT NULL,
        warnings  INTEGER NOT NULL,
        errors    INTEGER NOT NULL,
        dry_run   INTEGER NOT NULL,
        config    TEXT NOT NULL,
        report    TEXT,
        process   TEXT
    ) STRICT;
    CREATE INDEX sessions_by_start ON sessions (started);
",
    "ALTER TABLE sessions ADD COLUMN typed TEXT",
];

const COLUMNS: &str = "id, started, ended, role, source, target, typed, state, exit_code, modules, results, \
                       snapshots, warnings, errors, dry_run, config, report, process";

/// The history of one machine.
pub struct Store {
    db: Connection,
}

impl Store {
    /// Opens the store and makes it if need be; only its owner may read it.
    ///
    /// # Errors
    /// If the file cannot be opened, is no database, or comes from a newer version.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let failed = |source| HistoryError::Directory { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        }
        // SQLite gives its side files the rights of the main file.
        fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        Self::connect(path)
    }

    /// Opens the store if there is one; makes nothing.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(path: &Path) -> Result<Option<Self>, HistoryError> {
        match fs::metadata(path) {
            Ok(_) => Self::connect(path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HistoryError::Directory { path: path.to_owned(), source }),
        }
    }

    fn connect(path: &Path) -> Result<Self, HistoryError> {
        let failed = |source| HistoryError::Open { path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags).map_err(failed)?;
        db.busy_timeout(PATIENCE).map_err(failed)?;
        log_ahead(&db).map_err(failed)?;
        // A line that a power cut takes back says only how far a session had come.
        db.pragma_update(None, "synchronous", "normal").map_err(failed)?;
        migrate(&mut db, path)?;
        Ok(Self { db })
    }

    /// Adds a session that begins.
    ///
    /// # Errors
    /// If the session is already there, or the store fails.
    pub fn begin(&mut self, row: &SessionRow) -> Result<(), HistoryError> {
        self.lasting(|store| store.insert(row))
    }

    /// Does what must be on the disk when it is done.
    fn lasting<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, HistoryError>,
    ) -> Result<T, HistoryError> {
        self.db.pragma_update(None, "synchronous", "full")?;
        let done = write(self);
        self.db.pragma_update(None, "synchronous", "normal")?;
        done
    }

    fn insert(&mut self, row: &SessionRow) -> Result<(), HistoryError> {
        let sql = format!(
            "INSERT INTO sessions ({COLUMNS}) VALUES (:id, :started, :ended, :role, :source, :target, :typed, \
             :state, :exit_code, :modules, :results, :snapshots, :warnings, :errors, :dry_run, :config, :report, :process)"
        );
        self.write(&sql, row).map(drop)
    }

    /// Stores how a session stands; a power cut may take it back.
    ///
    /// # Errors
    /// If it never began, or the store fails.
    pub fn update(&mut self, row: &SessionRow) -> Result<(), HistoryError> {
        let sql = format!(
            "UPDATE sessions SET ({COLUMNS}) = (:id, :started, :ended, :role, :source, :target, :typed, :state, \
             :exit_code, :modules, :results, :snapshots, :warnings, :errors, :dry_run, :config, :report, :process) WHERE id = :id"
        );
        match self.write(&sql, row)? {
            0 => Err(HistoryError::Missing(row.id.to_string())),
            _ => Ok(()),
        }
    }

    /// Stores how a session ended, and brings everything into the main file.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub fn finish(&mut self, row: &SessionRow) -> Result<(), HistoryError> {
        self.lasting(|store| store.update(row))?;
        // Another reader may hold the log; what is committed is safe all the same.
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).ok();
        Ok(())
    }

    /// Returns the newest `count` sessions, newest first.
    ///
    /// # Errors
    /// If the store fails or holds what cannot be read.
    pub fn list(&self, count: usize) -> Result<Vec<SessionRow>, HistoryError> {
        let sql = format!("SELECT {COLUMNS} FROM sessions ORDER BY started DESC, rowid DESC LIMIT ?1");
        let mut statement = self.db.prepare(&sql)?;
        let mut rows = statement.query([i64::try_from(count).unwrap_or(i64::MAX)])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// Returns one session.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn get(&self, id: &SessionId) -> Result<Option<SessionRow>, HistoryError> {
        let sql = format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1");
        self.db.query_row(&sql, [id.as_str()], |row| Ok(read(row))).optional()?.transpose()
    }

    /// Returns the newest session.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn last(&self) -> Result<Option<SessionRow>, HistoryError> {
        Ok(self.list(1)?.pop())
    }

    fn write(&mut self, sql: &str, row: &SessionRow) -> Result<usize, HistoryError> {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Ok(self.db.execute(
            sql,
            named_params! {
                ":id": row.id.as_str(),
                ":started": stamp(row.started),
                ":ended": row.ended.map(stamp),
                ":role": word(row.role),
                ":source": row.source_hostname,
                ":target": row.target_hostname,
                ":typed": row.target_typed,
                ":state": row.state.as_str(),
                ":exit_code": row.exit_code,
                ":modules": json(&row.enabled_modules)?,
                ":results": json(&row.module_results)?,
                ":snapshots": json(&row.snapshots)?,
                ":warnings": count(row.warnings),
                ":errors": count(row.errors),
                ":dry_run": row.dry_run,
                ":config": row.config,
                ":report": row.report.as_ref().map(json).transpose()?,
                ":process": row.process.as_ref().map(json).transpose()?,
            },
        )?)
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

fn migrate(db: &mut Connection, path: &Path) -> Result<(), HistoryError> {
    let known = MIGRATIONS.len() as i64;
    // Two first runs at the same time: the second one waits and finds the work done.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(found).ok().filter(|done| *done <= MIGRATIONS.len());
    let Some(done) = done else {
        return Err(HistoryError::Newer { path: path.to_owned(), found, known });
    };
    for step in &MIGRATIONS[done..] {
        transaction.execute_batch(step)?;
    }
    if done < MIGRATIONS.len() {
        transaction.pragma_update(None, "user_version", known)?;
    }
    Ok(transaction.commit()?)
}

/// Fixed width, so that the text sorts like the time.
fn stamp(at: jiff::Timestamp) -> String {
    format!("{at:.9}")
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Source => "source",
        Role::Target => "target",
    }
}

fn json(value: &impl Serialize) -> Result<String, HistoryError> {
    serde_json::to_string(value).map_err(|error| HistoryError::Row(error.to_string()))
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, HistoryError> {
    serde_json::from_str(text).map_err(|error| HistoryError::Row(error.to_string()))
}

/// A bare word is read through its JSON form: the contract's own parsing decides.
fn from_word<T: DeserializeOwned>(text: String) -> Result<T, HistoryError> {
    serde_json::from_value(serde_json::Value::String(text))
        .map_err(|error| HistoryError::Row(error.to_string()))
}

fn read(row: &Row<'_>) -> Result<SessionRow, HistoryError> {
    let text = |column: &str| row.get::<_, String>(column);
    let maybe = |column: &str| row.get::<_, Option<String>>(column);
    let count = |column: &str| row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0));
    Ok(SessionRow {
        id: from_word(text("id")?)?,
        started: from_word(text("started")?)?,
        ended: maybe("ended")?.map(from_word).transpose()?,
        role: from_word(text("role")?)?,
        source_hostname: text("source")?,
        target_hostname: text("target")?,
        target_typed: maybe("typed")?,
        state: from_word(text("state")?)?,
        exit_code: row.get("exit_code")?,
        enabled_modules: parsed(&text("modules")?)?,
        module_results: parsed(&text("results")?)?,
        snapshots: parsed(&text("snapshots")?)?,
        warnings: count("warnings")?,
        errors: count("errors")?,
        dry_run: row.get("dry_run")?,
        config: text("config")?,
        report: maybe("report")?.as_deref().map(parsed).transpose()?,
        process: maybe("process")?.as_deref().map(parsed).transpose()?,
    })
}
