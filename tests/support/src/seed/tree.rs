//! Writes files below a home with mode and owner, remembers every path, and sets all times in the end.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, lchown, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::random::Random;

/// A home that is being written.
pub(super) struct Tree<'a> {
    home: &'a Path,
    owner: u32,
}

impl<'a> Tree<'a> {
    pub(super) fn new(home: &'a Path, owner: u32) -> Self {
        Self { home, owner }
    }

    /// Returns the path of `name` (any bytes) in the home, without an older file in its place.
    pub(super) fn fresh(&self, name: impl AsRef<[u8]>) -> io::Result<PathBuf> {
        let path = self.home.join(OsStr::from_bytes(name.as_ref()));
        if let Some(parent) = path.parent() {
            self.make_dirs(parent)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(path),
        }
    }

    pub(super) fn file(&mut self, name: impl AsRef<[u8]>, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
        let path = self.fresh(name)?;
        fs::write(&path, bytes)?;
        self.own(&path, mode)?;
        Ok(path)
    }

    pub(super) fn sparse(&mut self, name: &str, length: u64, islands: &[(u64, Vec<u8>)]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let path = self.fresh(name)?;
        let file = File::create(&path)?;
        file.set_len(length)?;
        for (offset, bytes) in islands {
            file.write_all_at(bytes, *offset)?;
        }
        self.own(&path, 0o644)
    }

    pub(super) fn dir(&mut self, name: impl AsRef<[u8]>, mode: u32) -> io::Result<PathBuf> {
        let path = self.home.join(OsStr::from_bytes(name.as_ref()));
        self.make_dirs(&path)?;
        self.own(&path, mode)?;
        Ok(path)
    }

    pub(super) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        let path = self.fresh(name)?;
        symlink(target, &path)?;
        lchown(&path, Some(self.owner), Some(self.owner))
    }

    pub(super) fn hard_link(&mut self, name: &str, original: &str) -> io::Result<()> {
        let path = self.fresh(name)?;
        fs::hard_link(self.home.join(original), path)
    }

    /// Sets owner, then mode (a change of owner clears setuid).
    pub(super) fn own(&self, path: &Path, mode: u32) -> io::Result<()> {
        lchown(path, Some(self.owner), Some(self.owner))?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn make_dirs(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_dirs(parent)?;
        }
        fs::create_dir(path)?;
        self.own(path, 0o755)
    }

    /// Gives every path, the home included, a modification time of its own; `special` names those with a given one.
    pub(super) fn set_times(&self, random: &mut Random, special: &[(&str, i64, i64)]) -> io::Result<()> {
        self.set_times_of(self.home, random, special)
    }

    /// From the leaves up, since a directory's time changes with what is made in it.
    fn set_times_of(&self, path: &Path, random: &mut Random, special: &[(&str, i64, i64)]) -> io::Result<()> {
        // 2020-01-01 and six years on.
        const FIRST: i64 = 1_577_836_800;
        const SPAN: u64 = 6 * 365 * 86_400;
        let relative = path.strip_prefix(self.home).unwrap_or(path);
        if relative == Path::new(".ssh") {
            return Ok(());
        }
        if fs::symlink_metadata(path)?.is_dir() {
            let mut paths =
                fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            paths.sort();
            for path in paths {
                self.set_times_of(&path, random, special)?;
            }
        }
        let (tv_sec, tv_nsec) = match special.iter().find(|(name, ..)| Path::new(name) == relative) {
            Some(&(_, seconds, nanoseconds)) => (seconds, nanoseconds),
            None => (FIRST + random.below(SPAN).cast_signed(), random.below(1_000_000_000).cast_signed()),
        };
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}
