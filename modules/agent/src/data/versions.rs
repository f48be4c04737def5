//! The states that a file had: which of them are one.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use pc_switcher_contract::{BytePath, SetId};

use super::seen::Seen;
use super::{digest, open};
use crate::proto::{Kind, Version};

/// Bytes read at once.
const STRETCH: usize = 256 << 10;

/// One look at the file: in a set, or now.
pub(crate) struct Look<'a> {
    /// The set; `None` for now.
    pub(crate) id: Option<SetId>,
    /// The tree.
    pub(crate) root: &'a OwnedFd,
    /// The path in it.
    pub(crate) inside: &'a BytePath,
}

impl Look<'_> {
    /// Looks; `None` if there is no such file.
    pub(crate) fn seen(&self) -> Result<Option<Seen>, Errno> {
        match open::beneath(self.root, self.inside.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            opened => Seen::of(opened?).map(Some),
        }
    }

    fn content(&self, stop: &dyn Fn() -> bool) -> Result<[u8; 32], Errno> {
        let fd = open::beneath_for_reading(self.root, self.inside.as_bytes(), OFlags::NOFOLLOW)?;
        digest::content(&fd, &mut vec![0; STRETCH], stop)
    }
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
            let is_same = (known.ino(), known.ctime()) == (seen.ino(), seen.ctime()) || {
                let plain = |seen: &Seen| (seen.file_type(), seen.mtime(), seen.size());
                plain(known) == plain(&seen)
                    && (seen.file_type() != FileType::RegularFile
                        || first.content(stop)? == look.content(stop)?)
            };
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
