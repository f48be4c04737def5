//! A store in a directory: the layout of a local repository; our own things lie in `pc-switcher`, which restic ignores.

use std::fs::{self, DirBuilder, DirEntry, File, ReadDir};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use pc_switcher_contract::ModuleError;

use super::{Kind, Store};
use crate::error::{Result, at};
use crate::format::Id;

/// What is ours in the root.
const OURS: &str = "pc-switcher";
/// The file that says that a vault lies here.
const MARKER: &str = "pc-switcher-vault";

/// Keeps objects in a directory.
#[derive(Debug)]
pub struct FsStore {
    root: PathBuf,
}

impl FsStore {
    /// Takes a directory as it is; makes nothing.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directories of a repository where they are missing.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn create(root: &Path) -> Result<Self> {
        let store = Self::at(root);
        store.make_ready()?;
        Ok(store)
    }

    fn directory(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Config | Kind::Marker => self.root.clone(),
            Kind::Key => self.root.join("keys"),
            Kind::Lock => self.root.join("locks"),
            Kind::Index => self.root.join("index"),
            Kind::Snapshot => self.root.join("snapshots"),
            Kind::Pack => self.root.join("data"),
            Kind::Meta => self.root.join(OURS).join("hosts"),
        }
    }

    fn path(&self, kind: Kind, name: &str) -> PathBuf {
        let directory = self.directory(kind);
        match kind {
            Kind::Config => directory.join("config"),
            Kind::Marker => directory.join(MARKER),
            Kind::Pack => directory.join(name.get(..2).unwrap_or_default()).join(name),
            _ => directory.join(name),
        }
    }

    /// Proves that the directory of a kind is there: one that is not, or is empty where it never is, says nothing of what is in it.
    fn prove_there(&self, kind: Kind) -> Result<()> {
        let directory = self.directory(kind);
        let is_there = match kind {
            // Made only when there is something for it.
            Kind::Config | Kind::Marker | Kind::Meta => return Ok(()),
            // It holds a directory for each beginning of a name, wherever its disk is.
            Kind::Pack => directory.read_dir().map(|mut entries| entries.next().is_some()),
            Kind::Key | Kind::Lock | Kind::Index | Kind::Snapshot => directory.metadata().map(|_| true),
        };
        match is_there {
            Ok(true) => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(at("list", &directory, &error)),
            found => {
                let why = if found.is_ok() { "is empty" } else { "is not there" };
                let message = format!("`{}` {why}, which is a part of each vault", directory.display());
                Err(ModuleError::new(pc_switcher_contract::ErrorKind::Unreachable, message).hint(
                    "is all of the vault mounted? a directory that was only left out when the vault was copied, being empty, \
                     may be made again",
                ))
            }
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<bool> {
        let mut file = tempfile::Builder::new().tempfile_in(self.root.join(OURS).join("tmp"))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(error.error),
        }
        File::open(path.parent().unwrap_or(&self.root))?.sync_all()?;
        Ok(true)
    }
}

impl Store for FsStore {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        let path = self.path(kind, name);
        if kind == Kind::Meta
            && let Some(parent) = path.parent()
            && self.root.join(OURS).is_dir()
        {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.map_err(|error| at("make the directory", parent, &error))?;
        }
        self.write(&path, bytes).map_err(|error| at("write", &path, &error))
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(kind, name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => self.prove_there(kind).map(|()| None),
            Err(error) => Err(at("read", &path, &error)),
        }
    }

    fn get_afresh(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        if let Ok(file) = File::open(self.path(kind, name)) {
            // What the system keeps of it in memory goes; where that cannot be, the second read is one like the first.
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).ok();
        }
        self.get(kind, name)
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let path = self.path(kind, name);
        let mut bytes = vec![0; length];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, offset));
        match read {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(ModuleError::failed(format!("{} `{}` is cut short", kind.noun(), path.display())))
            }
            Err(error) => Err(at("read", &path, &error)),
        }
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        self.prove_there(kind)?;
        let directory = self.directory(kind);
        let mut found = Vec::new();
        let below = matches!(kind, Kind::Pack | Kind::Meta);
        walk(&directory, below, &mut found).map_err(|error| at("list", &directory, &error))?;
        if kind == Kind::Meta {
            for (path, _) in &mut found {
                // The host before the name.
                let host = Path::new(path.as_str()).parent().and_then(Path::file_name).unwrap_or_default();
                let name = Path::new(path.as_str()).file_name().unwrap_or_default();
                *path = format!("{}/{}", host.display(), name.display());
            }
        } else {
            for (path, _) in &mut found {
                *path = path.rsplit('/').next().unwrap_or_default().to_owned();
            }
            found.retain(|(name, _)| kind == Kind::Lock || name.len() == 64);
        }
        found.sort();
        Ok(found)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        let path = self.path(kind, name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(at("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    fn salvage(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(kind, name);
        let Ok(file) = File::open(&path) else { return self.get(kind, name) };
        // Not what the system keeps of it in memory.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).ok();
        let length = file.metadata().map(|facts| facts.len());
        let bytes = length.and_then(|length| read_around(length, |piece, at| file.read_exact_at(piece, at)));
        bytes.map(Some).map_err(|error| at("read", &path, &error))
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn is_vacant(&self) -> Result<bool> {
        match self.root.read_dir() {
            Ok(entries) => is_skeleton(entries).map_err(|error| at("list", &self.root, &error)),
            // Whoever makes it finds out why.
            Err(_) => Ok(true),
        }
    }

    fn make_ready(&self) -> Result<()> {
        let make = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| at("make the directory", path, &error))
        };
        for name in ["data", "index", "keys", "locks", "snapshots", "pc-switcher/tmp"] {
            make(&self.root.join(name))?;
        }
        for first in 0..=255 {
            make(&self.root.join(format!("data/{first:02x}")))?;
        }
        Ok(())
    }
}

/// How much of a file is left out when the disk does not give a part of it: what most of them fail in.
const PIECE: usize = 4096;

/// Reads so many bytes, with zeros for what the disk does not give.
fn read_around(
    length: u64,
    read_at: impl Fn(&mut [u8], u64) -> std::io::Result<()>,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
    for (number, piece) in bytes.chunks_mut(PIECE).enumerate() {
        match read_at(piece, (number * PIECE) as u64) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => piece.fill(0),
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Whether there is nothing but the directories of a repository, and keys.
fn is_skeleton(entries: ReadDir) -> std::io::Result<bool> {
    let all = |directory: &Path, fits: &dyn Fn(&DirEntry, &str) -> bool| {
        let entries: Vec<DirEntry> = directory.read_dir()?.collect::<std::io::Result<_>>()?;
        Ok::<bool, std::io::Error>(
            entries.iter().all(|entry| entry.file_name().to_str().is_some_and(|name| fits(entry, name))),
        )
    };
    let is_empty =
        |entry: &DirEntry| entry.path().read_dir().is_ok_and(|mut entries| entries.next().is_none());
    for entry in entries {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let fits = entry.file_type()?.is_dir()
            && match name.to_str() {
                Some("index" | "locks" | "snapshots") => is_empty(&entry),
                Some("keys") => all(&path, &|_, name| name.parse::<Id>().is_ok())?,
                Some("data") => all(&path, &|entry, name| name.len() == 2 && is_empty(entry))?,
                Some(OURS) => all(&path, &|_, name| name == "tmp")?,
                _ => false,
            };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Collects the files of a directory, and of those right below it if asked for.
fn walk(directory: &Path, below: bool, found: &mut Vec<(String, u64)>) -> std::io::Result<()> {
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && below {
            walk(&entry.path(), false, found)?;
        } else if kind.is_file() {
            match entry.metadata() {
                Ok(facts) => found.push((entry.path().to_string_lossy().into_owned(), facts.len())),
                // Locks of others come and go.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_disk_does_not_give_is_read_around_and_other_errors_are_errors() {
        let whole: Vec<u8> = (0..3 * PIECE + 100).map(|at| (at % 251 + 1) as u8).collect();
        let from =
            |piece: &mut [u8], at: u64| piece.copy_from_slice(&whole[at as usize..at as usize + piece.len()]);
        let bad = |number: i32| {
            move |piece: &mut [u8], at: u64| {
                from(piece, at);
                let is_bad = at == PIECE as u64 || at == 3 * PIECE as u64;
                if is_bad { Err(std::io::Error::from_raw_os_error(number)) } else { Ok(()) }
            }
        };
        let read = read_around(whole.len() as u64, bad(5)).unwrap();
        let mut expected = whole.clone();
        expected[PIECE..2 * PIECE].fill(0);
        expected[3 * PIECE..].fill(0);
        assert_eq!(read, expected);
        assert_eq!(read_around(whole.len() as u64, bad(13)).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert!(read_around(0, bad(5)).unwrap().is_empty());
    }

    #[test]
    fn what_can_be_read_is_salvaged_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = FsStore::create(dir.path()).unwrap();
        let (name, bytes) = ("ab".repeat(32), vec![7; 10_000]);
        store.put(Kind::Pack, &name, &bytes).unwrap();
        assert_eq!(store.salvage(Kind::Pack, &name).unwrap(), Some(bytes));
        assert_eq!(store.salvage(Kind::Pack, &"cd".repeat(32)).unwrap(), None);
    }
}
