//! Moves a subvolume from one tree to the same place in another of the same file system (docs/adr/0024).
//!
//! **Invariant: it is in exactly one of them at each moment.** The kernel does it in one step, and replaces by it only what is an
//! empty directory, such as the one that a snapshot has where a subvolume lay inside (facts/btrfs.md B47). No symbolic link is
//! followed.

use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, renameat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::apply::list_names;
use super::carry::make_way;
use super::seen::Seen;
use super::{meta, open};

/// The inode of the root of each subvolume.
const ROOT: u64 = 256;

/// The inode of what a snapshot has where a subvolume lay inside: nobody can write into it.
pub(super) const PLACEHOLDER: u64 = 2;

const DIRS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW);

/// Opens what stands at `path` of a tree, if that is a directory.
pub(crate) fn open_inside(tree: &OwnedFd, path: &BytePath) -> Result<OwnedFd, Errno> {
    open::beneath(tree, path.as_bytes(), OFlags::RDONLY | DIRS)
}

/// Opens the root of a tree by its path.
pub(crate) fn open_tree(path: &BytePath) -> Result<OwnedFd, Errno> {
    open::root(path)
}

/// Says why the subvolume at `path` of a tree cannot leave it, if so.
pub(crate) fn held_back(from: &OwnedFd, path: &BytePath) -> Result<Option<String>, Errno> {
    let parent = path.parent().unwrap_or_default();
    for (path, what) in [(parent, "the directory around it"), (path.clone(), "it")] {
        if let Some(flag) = Seen::of(open_inside(from, &path)?)?.frozen_by() {
            return Ok(Some(format!("`chattr +{flag}` keeps {what} as it is (`sudo chattr -{flag}`)")));
        }
    }
    Ok(None)
}

/// Says why a subvolume cannot come to `path` of a tree, if so. What is missing of the directories above it could be made.
pub(crate) fn obstacle(to: &OwnedFd, path: &BytePath) -> Result<Option<String>, Errno> {
    let parent = path.parent().unwrap_or_default();
    let mut dir = open::beneath(to, b"", OFlags::PATH | DIRS)?;
    let mut so_far = BytePath::default();
    let frozen = |dir: &OwnedFd, at: &BytePath| -> Result<Option<String>, Errno> {
        let flag = Seen::of(dir)?.frozen_by();
        let name = if at.is_empty() { "its root".to_owned() } else { format!("`{at}`") };
        Ok(flag.map(|flag| format!("{name} is kept as it is there by `chattr +{flag}`")))
    };
    for step in parent.as_bytes().split(|byte| *byte == b'/').filter(|step| !step.is_empty()) {
        let below = so_far.join(step);
        let above = std::mem::replace(&mut so_far, below);
        match Seen::at(&dir, step) {
            // It can be made.
            Err(Errno::NOENT) => return frozen(&dir, &above),
            Err(error) => return Err(error),
            Ok(seen) if !seen.is_dir() => return Ok(Some(format!("`{so_far}` is no directory there"))),
            Ok(seen) if seen.ino() == PLACEHOLDER => return frozen(&dir, &above),
            Ok(_) => dir = open::beneath(&dir, step, OFlags::PATH | DIRS)?,
        }
    }
    if let Some(why) = frozen(&dir, &so_far)? {
        return Ok(Some(why));
    }
    let is_taken = match Seen::at(&dir, path.name()) {
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
        Ok(seen) if !seen.is_dir() => Some("something that is no directory"),
        Ok(seen) if seen.ino() == PLACEHOLDER => None,
        Ok(seen) if seen.ino() == ROOT => Some("another subvolume"),
        Ok(_) => {
            let names = list_names(&open::beneath(&dir, path.name(), OFlags::RDONLY | DIRS)?)?;
            (!names.is_empty()).then_some("a directory that is not empty")
        }
    };
    Ok(is_taken.map(|what| format!("{what} is in its place there")))
}

/// Moves the subvolume at `path` of one tree to that path of another; directories above it are made as they are in the first.
/// Directories keep the time of their last change. Returns why it stays, if it does.
pub(crate) fn move_along(from: &OwnedFd, to: &OwnedFd, path: &BytePath) -> Result<Option<String>, Errno> {
    if let Some(why) = obstacle(to, path)? {
        return Ok(Some(why));
    }
    let parent = path.parent().unwrap_or_default();
    let there = open_inside(from, &parent)?;
    let here = make_way(from, to, &parent)?;
    let times = [Seen::of(&there)?.mtime(), Seen::of(&here)?.mtime()];
    match renameat(&there, path.name(), &here, path.name()) {
        Ok(()) => {}
        // Somebody put it there just now.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
            return Ok(Some("something else is in its place there".into()));
        }
        Err(Errno::BUSY) => return Ok(Some("something is mounted on it, or in its place".into())),
        Err(error) => return Err(error),
    }
    for (dir, time) in [there, here].iter().zip(times) {
        meta::set_mtime(dir, time)?;
    }
    Ok(None)
}
