//! Why the past could not be told.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a store, a log or an output failed.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The store cannot be opened.
    #[error("cannot open the history `{path}`")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// The store's directory cannot be made.
    #[error("cannot write to `{path}`")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The store was written by a newer version.
    #[error("the history `{path}` has format {found}, this version knows {known}; use the newer pc-switcher")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest known one.
        known: i64,
    },
    /// SQLite said no.
    #[error("the history does not answer")]
    Query(#[from] rusqlite::Error),
    /// A value in the store is not what it should be.
    #[error("the history holds a row that cannot be read: {0}")]
    Row(String),
    /// A session that was to be updated is not there.
    #[error("the history has no session `{0}`")]
    Missing(String),
    /// A log cannot be read.
    #[error("cannot read `{path}`")]
    Log {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No log of that session.
    #[error("no log of session `{id}`; {hint}")]
    UnknownSession {
        /// What was asked for.
        id: String,
        /// The nearest or newest ones.
        hint: String,
    },
    /// The output is gone or full.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl HistoryError {
    /// Whether only the reader of our output went away, as in `| head`.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, HistoryError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<io::Error> for HistoryError {
    /// In the commands, what fails without a path of its own is the output.
    fn from(error: io::Error) -> Self {
        HistoryError::Output(error)
    }
}
