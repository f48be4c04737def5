//! Directories that are held open: what is done in one of them is done there, whatever its path leads to by then.
//!
//! Whoever owns a directory may put a link in the place of what is in it at any moment. Who restores there with more rights must
//! not be led elsewhere by it, so each step down is one name in an open directory, and a link is no step.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use pc_switcher_contract::ModuleError;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::facts::kind_of;
use crate::error::{Result, at};
use crate::format::NodeKind;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open directory.
#[derive(Debug)]
pub(crate) struct Way {
    directory: OwnedFd,
    /// For people.
    path: PathBuf,
}

impl AsFd for Way {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Way {
    /// Opens a directory that somebody named, and makes it if it is missing; links on the way to it are what they meant.
    ///
    /// # Errors
    /// If it cannot be made or opened.
    pub(crate) fn to(path: &Path) -> Result<Self> {
        if !Path::new("/proc/self/fd").exists() {
            return Err(ModuleError::failed("a restore needs /proc, and nothing is mounted there")
                .hint("mount it: `mount -t proc proc /proc`"));
        }
        fs::create_dir_all(path).map_err(|error| at("make the directory", path, &error))?;
        let directory = openat(CWD, path, DIRECTORY, Mode::empty());
        let directory = directory.map_err(|error| at("open", path, &error.into()))?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// As [`Way::to`], but nothing on the way may be a link.
    ///
    /// # Errors
    /// As [`Way::down_to`].
    pub(crate) fn without_links(path: &Path) -> Result<Self> {
        Self::to(Path::new("/"))?.down_to(path.strip_prefix("/").unwrap_or(path))
    }

    /// Goes down to a directory below, and makes what is missing.
    ///
    /// # Errors
    /// If one of its parts is a link or no directory, or cannot be made or opened.
    pub(crate) fn down_to(&self, below: &Path) -> Result<Self> {
        let directory = self.directory.try_clone().map_err(|error| at("open", &self.path, &error))?;
        let mut here = Self { directory, path: self.path.clone() };
        for part in below.components() {
            let Component::Normal(name) = part else {
                return Err(ModuleError::failed(format!(
                    "`{}` leads out of `{}`; nothing is restored there",
                    below.display(),
                    self.path.display()
                )));
            };
            here = here.step(name)?;
        }
        Ok(here)
    }

    fn step(&self, name: &OsStr) -> Result<Self> {
        let path = self.path.join(name);
        let open = || openat(&self.directory, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let opened = open().or_else(|error| match error {
            Errno::NOENT => match mkdirat(&self.directory, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => open(),
                Err(error) => Err(error),
            },
            error => Err(error),
        });
        match opened {
            Ok(directory) => Ok(Self { directory, path }),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(ModuleError::failed(format!(
                "`{}` is a link or no directory; nothing is restored through it",
                path.display()
            ))
            .hint("move it away, or restore to another directory with --to")),
            Err(error) => Err(at("make the directory", &path, &error.into())),
        }
    }

    /// Returns the directory itself, for calls that take a path; good for as long as this is.
    pub(crate) fn real(&self) -> PathBuf {
        by_descriptor(self)
    }

    /// Returns a name in it, for calls that take a path and follow no link at its end; good for as long as this is.
    pub(crate) fn inside(&self, name: &OsStr) -> PathBuf {
        self.real().join(name)
    }

    /// Opens what a restore made or found under a name, to be dressed and nothing else.
    ///
    /// # Errors
    /// If it is of another kind, or has other names: then it is somebody's else.
    pub(crate) fn open(&self, name: &OsStr, kind: NodeKind) -> io::Result<File> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::empty())?);
        let facts = file.metadata()?;
        match (kind_of(&facts) == kind, facts.nlink()) {
            (true, 1) => Ok(file),
            (true, _) => Err(io::Error::other("it has other names, which would be changed with it")),
            (false, _) => Err(io::Error::other("was replaced while it was restored")),
        }
    }
}

/// Returns a path to what is open, and to nothing else.
pub(crate) fn by_descriptor(of: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", of.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_stays_the_one_that_was_opened_and_a_link_is_no_step() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        let root = Way::to(&target).unwrap();
        let sub = root.down_to(Path::new("a/b")).unwrap();
        fs::rename(target.join("a/b"), target.join("a/moved")).unwrap();
        symlink(&outside, target.join("a/b")).unwrap();
        fs::write(sub.inside(OsStr::new("f")), "x").unwrap();
        assert_eq!(fs::read(target.join("a/moved/f")).unwrap(), b"x");
        for below in ["a/b", "a/b/c", "a/moved/f", "a/.."] {
            assert!(root.down_to(Path::new(below)).is_err(), "{below}");
        }
        assert_eq!(outside.read_dir().unwrap().count(), 0);
        assert!(Way::without_links(&dir.path().canonicalize().unwrap().join("target/a/b")).is_err());
    }

    #[test]
    fn what_is_of_another_kind_or_has_other_names_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let way = Way::to(dir.path()).unwrap();
        symlink("nowhere", dir.path().join("link")).unwrap();
        fs::write(dir.path().join("f"), "x").unwrap();
        assert!(way.open(OsStr::new("link"), NodeKind::Symlink).is_ok());
        assert!(way.open(OsStr::new("link"), NodeKind::Fifo).is_err());
        assert!(way.open(OsStr::new("f"), NodeKind::File).is_ok());
        fs::hard_link(dir.path().join("f"), dir.path().join("g")).unwrap();
        assert!(way.open(OsStr::new("f"), NodeKind::File).is_err());
    }
}
