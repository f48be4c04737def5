//! Whether a snapshot holds a tree exactly as it is.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::Source;
use crate::data::apply::remove::list;
use crate::data::open;
use crate::data::seen::Seen;

/// A tree that was moved away.
pub(super) struct Displaced<'a> {
    /// The directory that holds it.
    pub(super) dir: &'a OwnedFd,
    /// Its name there.
    pub(super) name: &'a BytePath,
}

/// Whether every inode of the tree is in the snapshot at the same place and has not changed since. The topmost one was
/// renamed, which changes the time of its inode: there the time and size of the content count.
pub(super) fn is_held(safety: &Source<'_>, displaced: &Displaced<'_>) -> Result<bool, Errno> {
    let mut todo = vec![BytePath::default()];
    while let Some(at) = todo.pop() {
        let old = safety.inside.join(at.as_bytes());
        let now = displaced.name.join(at.as_bytes());
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let old_fd = match open::beneath(safety.root, old.as_bytes(), flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            opened => opened?,
        };
        let now_fd = open::beneath(displaced.dir, now.as_bytes(), flags)?;
        let (was, is) = (Seen::of(&old_fd)?, Seen::of(&now_fd)?);
        if !same(&was, &is, at.is_empty()) {
            return Ok(false);
        }
        if !is.is_dir() {
            continue;
        }
        let names = |root: &OwnedFd, path: &BytePath| -> Result<BTreeSet<Vec<u8>>, Errno> {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let dir = open::beneath_for_reading(root, path.as_bytes(), flags)?;
            let entries = list(&dir)?.into_iter();
            Ok(entries.map(|(name, _)| name.into_bytes()).collect())
        };
        let there = names(displaced.dir, &now)?;
        if names(safety.root, &old)? != there {
            return Ok(false);
        }
        todo.extend(there.into_iter().map(|name| at.join(&name)));
    }
    Ok(true)
}

fn same(was: &Seen, is: &Seen, is_top: bool) -> bool {
    let plain = |seen: &Seen| (seen.ino(), seen.mtime(), seen.size(), seen.mode(), seen.uid(), seen.gid());
    plain(was) == plain(is) && (is_top || was.ctime() == is.ctime())
}
