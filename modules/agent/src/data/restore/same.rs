//! Whether a snapshot holds a tree exactly as it is.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, unlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::Source;
use crate::data::apply::remove::list;
use crate::data::open;
use crate::data::seen::Seen;
use crate::data::trees::Copied;
use crate::proto::FileTime;

/// A tree that was moved away.
pub(super) struct Displaced<'a> {
    /// The directory that holds it.
    pub(super) dir: &'a OwnedFd,
    /// Its name there.
    pub(super) name: &'a BytePath,
}

/// Whether the snapshot holds what stands at a name as it is. Asked right before that is renamed, which moves the time of its inode;
/// so that of a file with several names may have been moved by another one of them.
pub(super) fn is_untouched(
    safety: &Source<'_>,
    copied: Option<&Copied>,
    dir: &OwnedFd,
    name: &BytePath,
) -> Result<bool, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let is = Seen::of(&open::beneath(dir, name.as_bytes(), flags)?)?;
    if let Some(copied) = copied {
        return Ok(copied.is_of(safety.inside, &is, is.nlink() > 1));
    }
    let was = Seen::of(&open::beneath(safety.root, safety.inside.as_bytes(), flags)?)?;
    Ok(same(&was, &is, is.nlink() > 1))
}

/// Whether every inode of the tree is in the snapshot at the same place and has not changed since. The topmost one was
/// renamed, which changes the time of its inode: there the time and size of the content count, and what [`is_untouched`] said before.
/// Of a copy its list says which inodes it was made of.
pub(super) fn is_held(
    safety: &Source<'_>,
    copied: Option<&Copied>,
    displaced: &Displaced<'_>,
) -> Result<bool, Errno> {
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
        let is_same = match copied {
            Some(copied) => copied.is_of(&old, &is, at.is_empty()),
            None => same(&was, &is, at.is_empty()),
        };
        if !is_same {
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

/// Removes of a tree that [`is_held`] what is held still. A program may work in it until the end: what came or changed since
/// stays, with the directories above it.
///
/// # Errors
/// `EBUSY` if something stays, or what the file system says.
pub(super) fn remove_held(
    safety: &Source<'_>,
    copied: Option<&Copied>,
    displaced: &Displaced<'_>,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let top = open::beneath(displaced.dir, displaced.name.as_bytes(), flags).ok();
    let mode = top.as_ref().and_then(|top| Seen::of(top).ok()).map(|seen| Mode::from_raw_mode(seen.mode()));
    // A directory that was read-only goes as well.
    let _ = top.as_ref().map(|top| fchmod(top, Mode::RWXU));
    let removed = remove_each(safety, copied, displaced);
    if let (Err(_), Some(top), Some(mode)) = (&removed, &top, mode) {
        let _ = fchmod(top, mode);
    }
    removed
}

fn remove_each(safety: &Source<'_>, copied: Option<&Copied>, displaced: &Displaced<'_>) -> Result<(), Errno> {
    let mut result = Ok(());
    let mut todo = vec![(BytePath::default(), false)];
    while let Some((at, is_emptied)) = todo.pop() {
        let now = displaced.name.join(at.as_bytes());
        let parent = now.parent().unwrap_or_default();
        let parent = open::beneath(displaced.dir, parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)?;
        let removed = if is_emptied {
            unlinkat(&parent, now.name(), AtFlags::REMOVEDIR)
        } else {
            let is = open::beneath(&parent, now.name(), OFlags::PATH | OFlags::NOFOLLOW)?;
            if Seen::of(&is)?.is_dir() {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let names = list(open::beneath_for_reading(&parent, now.name(), flags)?)?;
                todo.push((at.clone(), true));
                todo.extend(names.iter().map(|(name, _)| (at.join(name.to_bytes()), false)));
                continue;
            }
            let old = safety.inside.join(at.as_bytes());
            let is = Seen::of(&is)?;
            let held = match copied {
                // Its further names that went before changed the time of its inode.
                Some(copied) => Ok(copied.is_of(&old, &is, true)),
                None => open::beneath(safety.root, old.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW)
                    .and_then(|old| Ok(plain(&Seen::of(&old)?) == plain(&is))),
            };
            match held {
                Ok(true) => unlinkat(&parent, now.name(), AtFlags::empty()),
                _ => Err(Errno::BUSY),
            }
        };
        match removed {
            Err(Errno::BUSY | Errno::NOTEMPTY | Errno::EXIST) => result = Err(Errno::BUSY),
            removed => removed?,
        }
    }
    result
}

/// What tells one state of an inode from another; the time of the inode itself changes with each of its names that goes.
fn plain(seen: &Seen) -> (u64, FileTime, u64, u32, u32, u32) {
    (seen.ino(), seen.mtime(), seen.size(), seen.mode(), seen.uid(), seen.gid())
}

fn same(was: &Seen, is: &Seen, is_top: bool) -> bool {
    plain(was) == plain(is) && (is_top || was.ctime() == is.ctime())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_came_or_changed_since_it_was_looked_at_stays_and_the_rest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("safety/top/d/e")).unwrap();
        fs::create_dir_all(path("now/top/d/e")).unwrap();
        // Two names of one inode stand for a file and its snapshot.
        for held in ["top/held", "top/d/held", "top/d/e/held"] {
            fs::write(path("safety").join(held), "x").unwrap();
            fs::hard_link(path("safety").join(held), path("now").join(held)).unwrap();
        }
        fs::write(path("safety/top/d/changed"), "x").unwrap();
        fs::write(path("now/top/d/changed"), "more").unwrap();
        fs::write(path("now/top/d/new"), "x").unwrap();
        fs::set_permissions(path("now/top"), PermissionsExt::from_mode(0o555)).unwrap();
        let (safety, now): (OwnedFd, OwnedFd) =
            (File::open(path("safety")).unwrap().into(), File::open(path("now")).unwrap().into());
        let top = BytePath::from("top");
        let source = Source { root: &safety, inside: &top, path: &top, live: &top };
        let remove = || remove_held(&source, None, &Displaced { dir: &now, name: &top });
        assert_eq!(remove(), Err(Errno::BUSY));
        let left = |at: &str| {
            let mut names: Vec<_> =
                fs::read_dir(path(at)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(
            (left("now/top"), left("now/top/d")),
            (vec!["d".into()], vec!["changed".into(), "new".into()])
        );
        assert_eq!(fs::metadata(path("now/top")).unwrap().permissions().mode() & 0o7777, 0o555);
        fs::remove_file(path("now/top/d/changed")).unwrap();
        fs::remove_file(path("now/top/d/new")).unwrap();
        assert_eq!(remove(), Ok(()));
        assert_eq!(left("now").len(), 0);
    }
}
