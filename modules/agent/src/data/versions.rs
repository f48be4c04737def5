//! The states that a file had: which of them are one.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use pc_switcher_contract::{BytePath, SetId};

use super::seen::Seen;
use super::{digest, open};
use crate::proto::{FileTime, Kind, Version};

/// Bytes read at once.
const STRETCH: usize = 256 << 10;

/// One look at the file: in a set, or now.
pub(crate) struct Look<'a> {
    /// The set; `None` for now.
    pub(crate) id: Option<SetId>,
    /// The tree, if it is open still.
    pub(crate) root: Option<&'a OwnedFd>,
    /// The path in it.
    pub(crate) inside: &'a BytePath,
    /// What is in it, if that was read before.
    pub(crate) digest: Option<[u8; 32]>,
}

impl Look<'_> {
    /// Looks; `None` if there is no such file.
    pub(crate) fn seen(&self) -> Result<Option<Seen>, Errno> {
        match open::beneath(
            self.root.ok_or(Errno::BADF)?,
            self.inside.as_bytes(),
            OFlags::PATH | OFlags::NOFOLLOW,
        ) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            opened => Seen::of(opened?).map(Some),
        }
    }

    /// Reads what is in it.
    pub(crate) fn content(&self, stop: &dyn Fn() -> bool) -> Result<[u8; 32], Errno> {
        if let Some(digest) = self.digest {
            return Ok(digest);
        }
        let fd = open::beneath_for_reading(
            self.root.ok_or(Errno::BADF)?,
            self.inside.as_bytes(),
            OFlags::NOFOLLOW,
        )?;
        digest::content(&fd, &mut vec![0; STRETCH], stop)
    }
}

/// Whether two are one inode that did not change.
pub(crate) fn is_one(a: &Seen, b: &Seen) -> bool {
    (a.ino(), a.ctime()) == (b.ino(), b.ctime())
}

fn plain(seen: &Seen) -> (FileType, FileTime, u64) {
    (seen.file_type(), seen.mtime(), seen.size())
}

/// Whether only the content tells if two files are the same.
pub(crate) fn are_alike(a: &Seen, b: &Seen) -> bool {
    a.file_type() == FileType::RegularFile && plain(a) == plain(b) && !is_one(a, b)
}

/// Versions with the looks that first showed them.
#[derive(Default)]
pub(crate) struct Grouped<'a> {
    found: Vec<(Look<'a>, Seen, Version)>,
}

impl<'a> Grouped<'a> {
    /// Adds a look at the file; the newest come first. One inode that did not change is one version without being read; where
    /// only time and size agree, the content decides.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn add(&mut self, look: Look<'a>, seen: Seen, stop: &dyn Fn() -> bool) -> Result<(), Errno> {
        for (first, known, version) in &mut self.found {
            let is_same = is_one(known, &seen)
                || (plain(known) == plain(&seen)
                    && (seen.file_type() != FileType::RegularFile
                        || first.content(stop)? == look.content(stop)?));
            if is_same {
                version.is_now |= look.id.is_none();
                version.sets.extend(look.id);
                return Ok(());
            }
        }
        let version = Version {
            kind: match seen.file_type() {
                FileType::Directory => Kind::Dir,
                FileType::Symlink => Kind::Symlink,
                FileType::Fifo => Kind::Fifo,
                _ => Kind::File,
            },
            mtime: seen.mtime(),
            size: seen.size(),
            is_now: look.id.is_none(),
            sets: look.id.clone().into_iter().collect(),
        };
        self.found.push((look, seen, version));
        Ok(())
    }

    /// Returns the versions, newest first.
    pub(crate) fn finish(self) -> Vec<Version> {
        self.found.into_iter().map(|(_, _, version)| version).collect()
    }
}
