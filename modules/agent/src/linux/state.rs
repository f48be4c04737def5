//! The machine's own state: small files below one directory, each written whole or not at all.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::proto::AgentError;

/// Where the state of a machine lies.
pub const STATE_PATH: &str = "/var/lib/pc-switcher";

/// A directory of named values.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Uses a directory; it is made, closed to others, when something is first written.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, key: &str) -> Result<PathBuf, AgentError> {
        let part = |part: &str| {
            let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(ok)
        };
        if key.len() > 200 || !key.split('/').all(part) {
            return Err(AgentError::protocol(format!(
                "`{}` is no key of the machine's state",
                key.escape_debug()
            )));
        }
        Ok(self.root.join(key))
    }

    /// Returns a value.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, AgentError> {
        let path = self.path(key)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AgentError::io(format!("cannot read `{}`", path.display()), &error)),
        }
    }

    /// Returns the keys below a prefix such as `pairs/`, sorted.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, AgentError> {
        let dir = self.path(prefix.trim_end_matches('/'))?;
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(AgentError::io(format!("cannot read `{}`", dir.display()), &error)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut keys: Vec<String> = names
            .map(|name| format!("{}/{name}", prefix.trim_end_matches('/')))
            .filter(|key| self.path(key).is_ok())
            .collect();
        keys.sort();
        Ok(keys)
    }

    /// Writes a value durably, or removes it.
    ///
    /// # Errors
    /// If the disk refuses; the old value stays.
    pub fn put(&self, key: &str, value: Option<&[u8]>) -> Result<(), AgentError> {
        let path = self.path(key)?;
        let Some(dir) = path.parent() else { return Err(AgentError::protocol("a key has a directory")) };
        let failed = |error: &io::Error| AgentError::io(format!("cannot write `{}`", path.display()), error);
        match value {
            Some(bytes) => {
                DirBuilder::new().mode(0o700).recursive(true).create(dir).map_err(|error| failed(&error))?;
                // A name that is no key, so that it is never taken for a value.
                let temporary = dir.join(format!(".{}.new", path.file_name().unwrap_or_default().display()));
                let write = || {
                    let mut file = File::options()
                        .write(true)
                        .create(true)
                        .truncate(true)
                        .mode(0o600)
                        .open(&temporary)?;
                    file.write_all(bytes)?;
                    file.sync_all()?;
                    fs::rename(&temporary, &path)
                };
                write().map_err(|error| failed(&error))?;
            }
            None => match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed(&error)),
            },
        }
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        assert_eq!(state.get("pairs/a.json"), Ok(None));
        assert_eq!(state.list("pairs/"), Ok(vec![]));
        state.put("pairs/b.json", Some(b"2")).unwrap();
        state.put("pairs/a.json", Some(b"1")).unwrap();
        assert_eq!(state.get("pairs/a.json"), Ok(Some(b"1".to_vec())));
        assert_eq!(state.list("pairs/"), Ok(vec!["pairs/a.json".into(), "pairs/b.json".into()]));
        state.put("pairs/a.json", None).unwrap();
        state.put("pairs/a.json", None).unwrap();
        assert_eq!(state.get("pairs/a.json"), Ok(None));
    }

    #[test]
    fn a_key_cannot_leave_the_directory() {
        let state = StateDir::new("/nowhere");
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", ".x", "A", "a b"] {
            assert!(state.get(bad).is_err(), "{bad}");
        }
    }
}
