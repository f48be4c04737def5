//! Makes a tree, name by name.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::freeze::{freeze, link};
use crate::data::{meta, open};
use crate::proto::Meta;

/// An attribute that the file system does not take: of which path, its name, and why.
pub(crate) type Refused = (BytePath, BytePath, Errno);

/// A tree under way. Nobody else uses it.
pub(crate) struct Builder<'a> {
    root: &'a OwnedFd,
    /// The directory that was last worked in.
    near: Option<(BytePath, OwnedFd)>,
    /// Directories get their metadata last, since all that is made in them changes their times.
    dirs: Vec<(BytePath, Meta)>,
    is_frozen: bool,
    /// What could not be set.
    pub(crate) refused: Vec<Refused>,
}

impl<'a> Builder<'a> {
    /// Begins at an empty directory. With `is_frozen` files are immutable as soon as they are whole.
    pub(crate) fn new(root: &'a OwnedFd, is_frozen: bool) -> Self {
        Self { root, near: None, dirs: Vec::new(), is_frozen, refused: Vec::new() }
    }

    /// Makes the directory of a name the one that is worked in, and returns it.
    fn parent(&mut self, path: &BytePath) -> Result<&OwnedFd, Errno> {
        let parent = path.parent().ok_or(Errno::INVAL)?;
        let near = match self.near.take() {
            Some((at, dir)) if at == parent => (at, dir),
            _ => {
                let dir = open::beneath(self.root, parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)?;
                (parent, dir)
            }
        };
        Ok(&self.near.insert(near).1)
    }

    /// Makes a directory; of the root only the metadata is noted.
    pub(crate) fn dir(&mut self, path: &BytePath, meta: &Meta) -> Result<(), Errno> {
        match path.is_empty() {
            // What the place gives its children is not what they had.
            true => meta::strip_acls(self.root)?,
            false => mkdirat(self.parent(path)?, path.name(), Mode::RWXU)?,
        }
        self.dirs.push((path.clone(), meta.clone()));
        Ok(())
    }

    /// Makes an empty file, to be written and then given to [`Builder::close`].
    pub(crate) fn file(&mut self, path: &BytePath) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(self.parent(path)?, path.name(), flags, Mode::RUSR | Mode::WUSR)
    }

    /// Gives a file that has its content its metadata.
    pub(crate) fn close(&mut self, path: &BytePath, file: &OwnedFd, meta: &Meta) -> Result<(), Errno> {
        let refused = meta::fresh(file, meta)?;
        self.note(path, refused);
        if self.is_frozen {
            freeze(file, true)?;
        }
        Ok(())
    }

    /// Gives a file of this tree a further name.
    pub(crate) fn link(&mut self, path: &BytePath, first: &BytePath) -> Result<(), Errno> {
        let above = first.parent().ok_or(Errno::INVAL)?;
        let from = open::beneath(self.root, above.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)?;
        self.link_from(path, (&from, first.name()))
    }

    /// Gives a file elsewhere, in the directory that is open, a name in this tree.
    pub(crate) fn link_from(&mut self, path: &BytePath, from: (&OwnedFd, &[u8])) -> Result<(), Errno> {
        let name = path.name().to_vec();
        link(from, (self.parent(path)?, name.as_slice()))
    }

    /// Makes a symbolic link.
    pub(crate) fn symlink(&mut self, path: &BytePath, target: &BytePath, meta: &Meta) -> Result<(), Errno> {
        symlinkat(target.as_bytes(), self.parent(path)?, path.name())?;
        self.dress(path, meta)
    }

    /// Makes a named pipe.
    pub(crate) fn fifo(&mut self, path: &BytePath, meta: &Meta) -> Result<(), Errno> {
        mknodat(self.parent(path)?, path.name(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        self.dress(path, meta)
    }

    /// Makes a device.
    pub(crate) fn device(
        &mut self,
        path: &BytePath,
        (is_block, major, minor): (bool, u32, u32),
        meta: &Meta,
    ) -> Result<(), Errno> {
        let kind = if is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(self.parent(path)?, path.name(), kind, mode, makedev(major, minor))?;
        self.dress(path, meta)
    }

    fn dress(&mut self, path: &BytePath, wanted: &Meta) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(self.parent(path)?, path.name(), flags, Mode::empty())?;
        let refused = meta::change(&made, wanted)?;
        self.note(path, refused);
        Ok(())
    }

    fn note(&mut self, path: &BytePath, refused: Vec<meta::Refused>) {
        self.refused.extend(refused.into_iter().map(|(name, why)| (path.clone(), BytePath::new(name), why)));
    }

    /// Gives all directories their metadata, the deepest first, and returns what could not be set.
    pub(crate) fn finish(mut self) -> Result<Vec<Refused>, (BytePath, Errno)> {
        self.near = None;
        for (path, wanted) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let done = open::beneath(self.root, path.as_bytes(), flags)
                .and_then(|dir| meta::fresh(&dir, &wanted))
                .map_err(|error| (path.clone(), error))?;
            self.note(&path, done);
        }
        Ok(self.refused)
    }
}
