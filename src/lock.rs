//! The front's own lock: one sync per user and machine. The machine-wide one is the agent's.
//!
//! An OS lock on an open file (ssh.md S40): it dies with its process, so nothing is ever stale and the file is never
//! deleted. The holder's record is written after the lock was taken, so a loser cannot overwrite it (S37).

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The session, or what else it does.
    pub session: String,
    /// What the user typed for the target.
    pub target: String,
    /// Since when, ISO 8601 UTC.
    pub since: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}, session {} to `{}`, since {}", self.pid, self.session, self.target, self.since)
    }
}

/// Why the lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another sync runs; `None` if it has not written its name yet.
    #[error("another sync runs here{}", .0.as_ref().map(|holder| format!(": {holder}")).unwrap_or_default())]
    Busy(Option<Holder>),
    /// The file could not be used.
    #[error("cannot use the lock file `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
}

/// The lock, held. Dropping it releases it.
#[derive(Debug)]
pub struct FrontLock {
    file: File,
    path: PathBuf,
}

impl FrontLock {
    /// Tries to take the lock; never waits. `None` without a runtime directory: then the machine's lock stands alone.
    ///
    /// # Errors
    /// If another holds it, or the file cannot be used.
    pub fn try_take(runtime_dir: Option<&Path>, holder: &Holder) -> Result<Option<FrontLock>, LockError> {
        let Some(runtime_dir) = runtime_dir else { return Ok(None) };
        let dir = runtime_dir.join("pc-switcher");
        let path = dir.join("pc-switcher.lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Busy(read_holder(&mut file))),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let mut record = serde_json::to_vec(holder).map_err(|error| io(error.into()))?;
        record.push(b'\n');
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&record));
        written.map_err(io)?;
        Ok(Some(FrontLock { file, path }))
    }

    /// Returns the lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for FrontLock {
    fn drop(&mut self) {
        // The record goes before the lock: nobody reads the name of one who is gone.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

/// Returns who holds the lock of `runtime_dir` now, for `status`.
///
/// # Errors
/// If the file cannot be used.
pub fn current_holder(runtime_dir: &Path) -> Result<Option<Option<Holder>>, LockError> {
    let path = runtime_dir.join("pc-switcher/pc-switcher.lock");
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LockError::Io { path, source }),
    };
    // Shared, so that two who look do not take each other for a holder.
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
        Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
    }
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(64 << 10).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(session: &str) -> Holder {
        Holder {
            pid: 42,
            session: session.into(),
            target: "desk".into(),
            since: "2026-01-02T03:04:05Z".into(),
        }
    }

    #[test]
    fn the_loser_learns_who_holds_it_and_leaves_the_record_alone() {
        let dir = tempfile::tempdir().unwrap();
        let held = FrontLock::try_take(Some(dir.path()), &holder("aaaaaaaa")).unwrap();
        for _ in 0..2 {
            match FrontLock::try_take(Some(dir.path()), &holder("bbbbbbbb")) {
                Err(LockError::Busy(Some(other))) => assert_eq!(other, holder("aaaaaaaa")),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(current_holder(dir.path()).unwrap(), Some(Some(holder("aaaaaaaa"))));
        drop(held);
        assert_eq!(current_holder(dir.path()).unwrap(), None);
        assert!(FrontLock::try_take(Some(dir.path()), &holder("bbbbbbbb")).unwrap().is_some());
    }

    #[test]
    fn a_record_of_a_dead_holder_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pc-switcher")).unwrap();
        std::fs::write(dir.path().join("pc-switcher/pc-switcher.lock"), "{\"pid\":1,").unwrap();
        assert_eq!(current_holder(dir.path()).unwrap(), None);
        assert!(FrontLock::try_take(Some(dir.path()), &holder("cccccccc")).unwrap().is_some());
    }

    #[test]
    fn a_busy_lock_says_who_where_to_and_since_when() {
        let text = LockError::Busy(Some(holder("aaaaaaaa"))).to_string();
        assert_eq!(
            text,
            "another sync runs here: process 42, session aaaaaaaa to `desk`, since 2026-01-02T03:04:05Z"
        );
        assert_eq!(LockError::Busy(None).to_string(), "another sync runs here");
    }

    #[test]
    fn without_a_runtime_directory_there_is_no_such_lock() {
        assert!(FrontLock::try_take(None, &holder("aaaaaaaa")).unwrap().is_none());
    }
}
