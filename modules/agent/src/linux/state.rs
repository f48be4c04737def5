//! The machine's own state: small files below one directory of root's alone, each written whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::proto::AgentError;

/// Where the state lies.
pub const STATE_PATH: &str = "/var/lib/pc-switcher";

/// The state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Names the directory; it is made with the first file.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a file's bytes, `None` if there is none.
    ///
    /// # Errors
    /// If the key is none or the file cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, AgentError> {
        match fs::read(self.path(key)?) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AgentError::io(format!("cannot read state `{key}`"), &error)),
        }
    }

    /// Returns all keys below `prefix`, sorted; all keys if it is empty.
    ///
    /// # Errors
    /// If the prefix is no key or the directory cannot be read.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, AgentError> {
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() {
            self.path(prefix)?;
        }
        let mut keys = Vec::new();
        let mut todo = vec![prefix.to_owned()];
        while let Some(dir) = todo.pop() {
            let entries = match fs::read_dir(self.root.join(&dir)) {
                Ok(entries) => entries,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(AgentError::io(format!("cannot list state `{dir}`"), &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| AgentError::io("cannot list the state", &error))?;
                let name = entry.file_name();
                let Some(name) = name.to_str().filter(|name| is_key(name)) else { continue };
                let key = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => todo.push(key),
                    Ok(kind) if kind.is_file() => keys.push(key),
                    _ => {}
                }
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// Writes a file, or removes it with `None`; durable when it returns.
    ///
    /// # Errors
    /// If the key is none or the file cannot be written.
    pub fn put(&self, key: &str, value: Option<&[u8]>) -> Result<(), AgentError> {
        let path = self.path(key)?;
        let parent = path.parent().unwrap_or(&self.root);
        let failed = |error: io::Error| AgentError::io(format!("cannot write state `{key}`"), &error);
        match value {
            Some(bytes) => {
                self.make_dirs(parent).map_err(failed)?;
                write_file(&path, bytes).map_err(failed)
            }
            None => match fs::remove_file(&path) {
                Ok(()) => sync_dir(parent).map_err(failed),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(failed(error)),
            },
        }
    }

    /// Begins a file that is too long to be held in memory; it is there when [`Draft::finish`] returns.
    ///
    /// # Errors
    /// If the key is none or the file cannot be made.
    pub fn draft(&self, key: &str) -> Result<Draft, AgentError> {
        let path = self.path(key)?;
        let parent = path.parent().unwrap_or(&self.root);
        let failed = |error: io::Error| AgentError::io(format!("cannot write state `{key}`"), &error);
        self.make_dirs(parent).map_err(failed)?;
        let temp = path.with_file_name(temp_name(path.file_name().unwrap_or_default()));
        let file = new_file(&temp).map_err(failed)?;
        Ok(Draft { file: BufWriter::with_capacity(256 << 10, file), temp, path })
    }

    /// Opens a file for reading, `None` if there is none.
    ///
    /// # Errors
    /// If the key is none or the file cannot be opened.
    pub fn open(&self, key: &str) -> Result<Option<File>, AgentError> {
        match File::open(self.path(key)?) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AgentError::io(format!("cannot read state `{key}`"), &error)),
        }
    }

    /// Removes what dead processes were writing when they died, and in the records of commits whatever was being written. The
    /// caller holds the machine's lock and is about to redo commits, so nobody else writes there.
    pub fn sweep(&self) {
        let mut todo = vec![self.root.clone()];
        while let Some(dir) = todo.pop() {
            let is_ours = ["commits", "redone"].iter().any(|name| dir == self.root.join(name));
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                    // What cannot be removed now is in nobody's way.
                    Ok(kind) if kind.is_file() && is_dead(&entry.file_name(), is_ours) => {
                        let _ = fs::remove_file(entry.path());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Removes what was being written in one directory of keys, to which nobody but the caller writes.
    pub(super) fn sweep_dir(&self, dir: &str) {
        for entry in fs::read_dir(self.root.join(dir)).into_iter().flatten().flatten() {
            if is_dead(&entry.file_name(), true) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Makes the directories down to `dir`, each durable.
    fn make_dirs(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.is_dir()).collect();
        for dir in missing.into_iter().rev() {
            let mode = if dir.starts_with(&self.root) { 0o700 } else { 0o755 };
            match DirBuilder::new().mode(mode).create(dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            sync_dir(dir.parent().unwrap_or(dir))?;
        }
        Ok(())
    }

    fn path(&self, key: &str) -> Result<PathBuf, AgentError> {
        match key.split('/').all(is_key) {
            true => Ok(self.root.join(key)),
            false => Err(AgentError::protocol(format!("`{}` is no state key", key.escape_default()))),
        }
    }
}

/// A file that is being written. Dropping it leaves the older one of its key in place.
#[derive(Debug)]
pub struct Draft {
    file: BufWriter<File>,
    temp: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Puts the file in its place; durable when it returns.
    ///
    /// # Errors
    /// If it cannot be written whole.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.temp, &self.path)?;
        sync_dir(self.path.parent().unwrap_or(&self.path))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already if it was finished; otherwise the next session sweeps it.
        let _ = fs::remove_file(&self.temp);
    }
}

/// Makes a temporary file. One of this name can only be a dead process's.
fn new_file(temp: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(temp)
}

/// Whether a name is one that [`write_file`] gives to `name` until it is whole.
pub(super) fn is_unfinished(found: &OsStr, name: &str) -> bool {
    let found = found.as_encoded_bytes();
    found.strip_prefix(b".").is_some_and(|rest| rest.starts_with(name.as_bytes()) && rest.ends_with(b"~"))
}

/// Writes a file of root's alone: temporary file, fsync, rename, fsync of the directory (facts/btrfs.md B4).
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_to_rename(path, bytes)?;
    sync_dir(path.parent().unwrap_or(path))
}

/// As [`write_file`], without the fsync of the directory: the content is on the disk, and whole whenever the name is.
pub(super) fn write_to_rename(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_file_name(temp_name(path.file_name().unwrap_or_default()));
    let write = || {
        let mut file = new_file(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temp);
    })
}

/// A name that is no key, and that no other call uses at the same time.
fn temp_name(name: &OsStr) -> OsString {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut temp = OsString::from(".");
    temp.push(name);
    temp.push(format!(".{}-{}~", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    temp
}

/// Whether a name is one of [`temp_name`] that another process has made, or this one where that counts as well.
fn is_dead(name: &OsStr, own_too: bool) -> bool {
    let number = |text: &str| text.parse::<u32>().ok();
    let made = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix('~')?.rsplit_once('.'));
    let made = made.and_then(|(key, numbers)| is_key(key).then(|| numbers.split_once('-')).flatten());
    let pid = made.and_then(|(pid, count)| number(count).and(number(pid)));
    pid.is_some_and(|pid| own_too || pid != std::process::id())
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether a text is one step of a key: `[a-z0-9._-]+` and no directory entry of its own.
fn is_key(step: &str) -> bool {
    let ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    !step.is_empty() && step.len() <= 200 && !matches!(step, "." | "..") && step.bytes().all(ok)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_comes_back_is_listed_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        assert_eq!(state.list("").unwrap(), Vec::<String>::new());
        state.put("pairs/01", Some(b"one")).unwrap();
        state.put("pairs/02", Some(b"two")).unwrap();
        state.put("pairs/02", Some(b"three")).unwrap();
        state.put("intent", Some(b"")).unwrap();
        assert_eq!(state.get("pairs/02").unwrap(), Some(b"three".to_vec()));
        assert_eq!(state.list("pairs").unwrap(), ["pairs/01", "pairs/02"]);
        assert_eq!(state.list("pairs/").unwrap().len(), 2);
        assert_eq!(state.list("").unwrap(), ["intent", "pairs/01", "pairs/02"]);
        state.put("pairs/01", None).unwrap();
        state.put("pairs/01", None).unwrap();
        assert_eq!(state.get("pairs/01").unwrap(), None);
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("state"), mode("state/pairs"), mode("state/intent")), (0o700, 0o700, 0o600));
    }

    #[test]
    fn a_half_written_file_is_never_listed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        state.put("a", Some(b"1")).unwrap();
        fs::write(dir.path().join(temp_name("b".as_ref())), "half").unwrap();
        assert_eq!(state.list("").unwrap(), ["a"]);
    }

    #[test]
    fn what_a_dead_process_was_writing_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        state.put("pairs/95cb6c8d", Some(b"1")).unwrap();
        state.put("commits/95cb6c8d", Some(b"1")).unwrap();
        let pairs = dir.path().join("pairs");
        let own = temp_name("95cb6c8d".as_ref());
        let others =
            [own.to_str().unwrap(), ".editor~", ".95cb6c8d.102~", "95cb6c8d.102-2~", ".95cb6c8d.102-2"];
        for name in others.into_iter().chain([".95cb6c8d.0-2~"]) {
            fs::write(pairs.join(name), "half").unwrap();
        }
        fs::write(dir.path().join("commits").join(&own), "half").unwrap();
        state.sweep();
        assert_eq!(fs::read_dir(dir.path().join("commits")).unwrap().count(), 1);
        let names = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut left: Vec<String> = fs::read_dir(&pairs).unwrap().map(names).collect();
        left.sort();
        let mut wanted: Vec<&str> = others.into_iter().chain(["95cb6c8d"]).collect();
        wanted.sort_unstable();
        assert_eq!(left, wanted);
    }

    #[test]
    fn writers_of_one_key_at_one_time_leave_one_whole_value() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        std::thread::scope(|scope| {
            for letter in b'a'..b'e' {
                let state = &state;
                scope.spawn(move || state.put("one/key", Some(&[letter; 5000])).unwrap());
            }
        });
        let value = state.get("one/key").unwrap().unwrap();
        assert!(value.len() == 5000 && value.iter().all(|byte| *byte == value[0]));
        assert_eq!(fs::read_dir(dir.path().join("one")).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn no_key_leads_out_of_the_directory(key in "[a-z./_A-Z\\-]{0,12}") {
            let state = StateDir::new("/state");
            if let Ok(path) = state.path(&key) {
                prop_assert!(path.starts_with("/state") && path != Path::new("/state"));
                prop_assert!(super::super::mounts::is_plain(&path));
            }
        }
    }
}
