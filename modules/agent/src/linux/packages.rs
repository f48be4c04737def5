//! The packages that are installed, as the databases of their managers say: read, never asked of a program, since a set is taken
//! in milliseconds, and while a manager works.
//!
//! A list is text, a line `NAME VERSION` for each package, sorted. Its digest is what tells two states apart.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::proto::{PackageChange, PackageManager, Packages};

/// Where each manager keeps what is installed, below the root of a system.
const DATABASES: [(PackageManager, &str); 6] = [
    (PackageManager::Dpkg, "var/lib/dpkg/status"),
    (PackageManager::Pacman, "var/lib/pacman/local"),
    (PackageManager::Rpm, "usr/lib/sysimage/rpm/rpmdb.sqlite"),
    (PackageManager::Rpm, "var/lib/rpm/rpmdb.sqlite"),
    (PackageManager::Rpm, "usr/lib/sysimage/rpm/Packages.db"),
    (PackageManager::Rpm, "var/lib/rpm/Packages"),
];
/// Digits of a digest: enough to tell states of one machine apart.
const DIGITS: usize = 32;

/// A database that is there.
#[derive(Debug)]
pub(crate) struct Database {
    manager: PackageManager,
    path: PathBuf,
    /// Which state of the database it is: told without reading it.
    pub(crate) state: String,
}

/// What a database says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    /// In short.
    pub(crate) packages: Packages,
    /// The list; `None` if only the manager itself can read it.
    pub(crate) list: Option<Vec<u8>>,
}

/// Finds the database of the system below this root.
pub(crate) fn database(root: &Path) -> Option<Database> {
    DATABASES.into_iter().find_map(|(manager, place)| {
        let path = root.join(place);
        let meta = fs::metadata(&path).ok()?;
        let (seconds, nanos) = (meta.mtime(), meta.mtime_nsec());
        let state = format!("{manager} {} {} {seconds}.{nanos:09}", meta.ino(), meta.size());
        Some(Database { manager, path, state })
    })
}

impl Database {
    /// Reads it; `None` if it cannot be read.
    pub(crate) fn read(&self) -> Option<Installed> {
        let packages = match self.manager {
            PackageManager::Dpkg => of_dpkg(&fs::read(&self.path).ok()?),
            PackageManager::Pacman => of_pacman(fs::read_dir(&self.path).ok()?),
            PackageManager::Rpm => {
                let packages =
                    Packages { manager: self.manager, count: None, digest: digest(self.state.as_bytes()) };
                return Some(Installed { packages, list: None });
            }
        };
        let list: Vec<u8> =
            packages.iter().flat_map(|(name, version)| [name, &b" "[..], version, b"\n"].concat()).collect();
        let count = u32::try_from(packages.len()).ok();
        let packages = Packages { manager: self.manager, count, digest: digest(&list) };
        Some(Installed { packages, list: Some(list) })
    }
}

/// Returns the digest of a list.
pub(crate) fn digest(list: &[u8]) -> String {
    blake3::hash(list).to_hex()[..DIGITS].to_owned()
}

type Versions = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads the paragraphs of dpkg: those whose third word of `Status` is `installed`.
fn of_dpkg(text: &[u8]) -> Versions {
    let mut found = Versions::new();
    let (mut name, mut arch, mut version, mut is_installed): (&[u8], &[u8], &[u8], bool) =
        (b"", b"", b"", false);
    for line in text.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        match line.first() {
            None => {
                if is_installed && !name.is_empty() {
                    found.insert([name, b":", arch].concat(), version.to_vec());
                }
                (name, arch, version, is_installed) = (b"", b"", b"", false);
            }
            Some(b'P') => name = line.strip_prefix(b"Package: ").unwrap_or(name),
            Some(b'A') => arch = line.strip_prefix(b"Architecture: ").unwrap_or(arch),
            Some(b'V') => version = line.strip_prefix(b"Version: ").unwrap_or(version),
            Some(b'S') if line.starts_with(b"Status: ") => is_installed = line.ends_with(b" installed"),
            _ => {}
        }
    }
    found
}

/// Reads the directories of pacman: `NAME-VERSION-RELEASE` each.
fn of_pacman(entries: fs::ReadDir) -> Versions {
    let mut found = Versions::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_bytes();
        let mut dashes = (0..name.len()).rev().filter(|at| name[*at] == b'-').skip(1);
        if let Some(at) = dashes.next().filter(|_| entry.path().is_dir()) {
            found.insert(name[..at].to_vec(), name[at + 1..].to_vec());
        }
    }
    found
}

/// Says what differs between two lists.
pub(crate) fn changes(from: &[u8], to: &[u8]) -> Vec<PackageChange> {
    let versions = |list: &[u8]| -> BTreeMap<String, String> {
        let text = String::from_utf8_lossy(list);
        let pair = |line: &str| line.split_once(' ').map(|(name, version)| (name.into(), version.into()));
        text.lines().filter_map(pair).collect()
    };
    let (mut from, mut to) = (versions(from), versions(to));
    let mut names: Vec<String> = from.keys().chain(to.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| PackageChange { from: from.remove(&name), to: to.remove(&name), name })
        .filter(|change| change.from != change.to)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: zsh\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.9-4\n\
        Description: shell\n Package: not-one\n\nPackage: old\nStatus: deinstall ok config-files\nArchitecture: amd64\n\
        Version: 1\n\nPackage: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 2.36\n\n\
        Package: libc6\nStatus: hold ok installed\nArchitecture: amd64\nVersion: 2.36\n";

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn read(root: &Path) -> Installed {
        database(root).unwrap().read().unwrap()
    }

    #[test]
    fn what_dpkg_has_installed_is_listed_and_what_it_only_remembers_is_not() {
        let dir = system(&[("var/lib/dpkg/status", STATUS)]);
        let Installed { packages, list } = read(dir.path());
        let list = list.unwrap();
        assert_eq!(String::from_utf8_lossy(&list), "libc6:amd64 2.36\nlibc6:i386 2.36\nzsh:amd64 5.9-4\n");
        assert_eq!((packages.manager, packages.count), (PackageManager::Dpkg, Some(3)));
        assert_eq!(packages.digest, digest(&list));
    }

    #[test]
    fn packages_of_pacman_are_their_directories_and_of_rpm_only_a_change_is_told() {
        let dir = system(&[
            ("var/lib/pacman/local/xorg-server-21.1.13-1/desc", ""),
            ("var/lib/pacman/local/zsh-5.9-5/desc", ""),
            ("var/lib/pacman/local/ALPM_DB_VERSION", "9"),
        ]);
        let list = read(dir.path()).list.unwrap();
        assert_eq!(String::from_utf8_lossy(&list), "xorg-server 21.1.13-1\nzsh 5.9-5\n");

        let dir = system(&[("var/lib/rpm/rpmdb.sqlite", "SQLite")]);
        let before = read(dir.path());
        assert_eq!((before.packages.count, &before.list), (None, &None));
        assert_eq!(read(dir.path()), before);
        fs::write(dir.path().join("var/lib/rpm/rpmdb.sqlite"), "SQLite, and one more").unwrap();
        assert_ne!(read(dir.path()).packages.digest, before.packages.digest);
        assert!(database(&dir.path().join("nowhere")).is_none());
    }

    #[test]
    fn packages_that_came_went_or_changed_are_told_and_the_others_are_not() {
        let said = changes(b"a 1\nb 1\nc 1\n", b"a 1\nb 2\nd 1\n");
        let said: Vec<_> =
            said.iter().map(|one| (one.name.as_str(), one.from.as_deref(), one.to.as_deref())).collect();
        assert_eq!(said, [("b", Some("1"), Some("2")), ("c", Some("1"), None), ("d", None, Some("1"))]);
    }
}
