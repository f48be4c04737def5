//! A catalogue in one file, which nobody else has open: as it is put in its place, and taken away from there.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pc_switcher_contract::{ErrorKind, ModuleError};
use rusqlite::ErrorCode;

use super::{Catalogue, PATIENCE, Whole, with};
use crate::error::{Result, at};

impl Catalogue {
    /// Opens a catalogue that must be there.
    ///
    /// # Errors
    /// If it is not, or as [`Catalogue::open`].
    pub fn open_there(path: &Path) -> Result<Self> {
        fs::metadata(path).map_err(|error| at("open the catalogue", path, &error))?;
        Self::open(path)
    }

    /// Brings all of it into its file, so that no log lies beside it: one that is left there would be played back into whatever takes
    /// the file's place. That takes nobody else to have it open.
    ///
    /// # Errors
    /// If others have it open (`Busy`), or it cannot be written.
    pub fn into_one_file(&self) -> Result<()> {
        let since = Instant::now();
        loop {
            let left = self.db.query_row("PRAGMA journal_mode = delete", [], |row| row.get::<_, String>(0));
            match left {
                Err(error)
                    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && since.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                    let message =
                        format!("the catalogue `{}` is being read or written by others", self.path.display());
                    return Err(ModuleError::new(ErrorKind::Busy, message).hint("wait for them to end"));
                }
                left => {
                    let is_left = self.ok(left)? != "wal";
                    let log = with(&self.path, "-wal");
                    return match is_left && fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
                        true => Ok(()),
                        false => Err(ModuleError::failed(format!(
                            "what `{}` holds cannot be brought into the catalogue",
                            log.display()
                        ))),
                    };
                }
            }
        }
    }

    /// Keeps everybody else out until it is dropped.
    ///
    /// # Errors
    /// If others have it open (`Busy`), or it cannot be read.
    pub fn keep_others_out(&self) -> Result<()> {
        let begun = self.db.execute_batch("BEGIN EXCLUSIVE");
        self.ok(begun)
    }

    /// Copies its file to one that must not be there yet, and has that on the disk. Whoever did so without us would give up our locks.
    ///
    /// # Errors
    /// If it cannot be read, or the other one not be written.
    pub fn copy_to(&self, to: &Path) -> Result<()> {
        let mut whole = Whole { file: self.file.file(), at: 0 };
        let copied = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
        let copied = copied.and_then(|mut copy| {
            io::copy(&mut whole, &mut copy)?;
            copy.sync_all()
        });
        copied.map_err(|error| at("write", to, &error))
    }
}
