//! Brings files back from a snapshot: whole, or not at all.
//!
//! A copy is made under a name of our own in the directory where it is to stand, made durable, and then renamed: at every
//! moment the final name is what it was, or all of what was restored. What stood there is removed only if the safety set
//! holds it exactly as it was.

mod copy;
pub(crate) mod live;
mod same;

use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, fchmod, fsync, openat2, renameat, renameat_with,
    syncfs, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use pc_switcher_contract::{BytePath, UtcStamp};

use super::apply::remove;
use super::carry::carry;
use super::open;
use super::seen::Seen;
use super::trees::Copied;
use crate::proto::AgentError;
use copy::Copier;
pub(crate) use copy::Owner;

/// Longest name.
const NAME_MAX: usize = 255;
/// How many names are tried for what is put beside.
const TRIES: usize = 1000;

/// What is restored.
pub(crate) struct Source<'a> {
    /// The root of the snapshot.
    pub(crate) root: &'a OwnedFd,
    /// The path in it.
    pub(crate) inside: &'a BytePath,
    /// The path as it is now on the machine, for messages.
    pub(crate) path: &'a BytePath,
    /// The same without symbolic links: whether it is still open to whoever asks.
    pub(crate) live: &'a BytePath,
}

/// Where a copy is to stand.
pub(crate) struct Target<'a> {
    /// The directory.
    pub(crate) parent: &'a BytePath,
    /// The name there.
    pub(crate) name: &'a [u8],
    /// Whether somebody named the directory for it: links on the way count then, and the name must be free. Otherwise the way
    /// has no links, and one that appears is somebody who wants us elsewhere.
    pub(crate) is_named: bool,
}

/// A copy that is whole and does not stand in its place yet; dropping it removes it.
pub(crate) struct Staged {
    dir: OwnedFd,
    parent: BytePath,
    name: BytePath,
    temporary: BytePath,
    is_placed: bool,
    /// Files, directories and others.
    pub(crate) entries: u64,
    /// Bytes of content.
    pub(crate) bytes: u64,
    /// What is not as it was.
    pub(crate) notes: Vec<String>,
}

/// Whether a snapshot holds a path, for whoever asks.
///
/// # Errors
/// If that may not be seen.
pub(crate) fn holds(source: &Source<'_>) -> Result<bool, AgentError> {
    if !geteuid().is_root() && live::is_closed(source.live) {
        return Err(failed(source.path, Errno::ACCESS));
    }
    match open::beneath(source.root, source.inside.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => {
            let is_stand_in = Seen::of(&fd).is_ok_and(|seen| seen.is_dir() && seen.ino() == 2);
            Ok(!is_stand_in)
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV) => Ok(false),
        Err(error) => Err(AgentError::io(format!("`{}` in the snapshot", source.path), &error.into())),
    }
}

/// Opens a directory that a snapshot holds, for whoever asks; `None` if it holds none.
///
/// # Errors
/// If that may not be seen.
pub(crate) fn directory(source: &Source<'_>) -> Result<Option<OwnedFd>, AgentError> {
    if !holds(source)? {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match open::beneath(source.root, source.inside.as_bytes(), flags) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOTDIR) => Ok(None),
        Err(error) => Err(AgentError::io(format!("`{}` in the snapshot", source.path), &error.into())),
    }
}

/// Whether whoever asks may list a directory of a tree.
pub(crate) fn may_list(root: &OwnedFd, dir: &BytePath) -> bool {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open::beneath_for_reading(root, dir.as_bytes(), flags).is_ok()
}

/// Stages a copy where it is to stand. `tag` makes the temporary name ours.
///
/// # Errors
/// Names the path that could not be read or written; nothing is left then.
pub(crate) fn stage(
    source: &Source<'_>,
    target: &Target<'_>,
    tag: &str,
    owner: &Owner,
    stop: &dyn Fn() -> bool,
) -> Result<Staged, AgentError> {
    let Target { parent, name, is_named } = *target;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = if is_named { ResolveFlags::empty() } else { ResolveFlags::NO_SYMLINKS };
    let dir = openat2(CWD, parent.as_path(), flags, Mode::empty(), resolve).map_err(|error| match error {
        Errno::NOENT => AgentError::failed(format!(
            "the directory `{parent}` is not there any more; restore that, or name another with `--to DIR`"
        )),
        error => AgentError::io(format!("`{parent}`"), &error.into()),
    })?;
    if is_named && Seen::at(&dir, name).is_ok() {
        return Err(taken(&parent.join(name)));
    }
    let temporary = BytePath::new(affixed(b".", name, &format!(".restoring-{tag}")));
    if Seen::at(&dir, temporary.as_bytes()).is_ok() {
        return Err(AgentError::failed(format!("`{}` is there already", parent.join(temporary.as_bytes()))));
    }
    let mut staged = Staged {
        dir,
        parent: parent.clone(),
        name: BytePath::new(name),
        temporary,
        is_placed: false,
        entries: 0,
        bytes: 0,
        notes: Vec::new(),
    };
    let mut copier = Copier::new(source, (&staged.dir, &staged.temporary), owner, stop);
    let copied = copier.run();
    let (entries, bytes) = (copier.entries, copier.bytes);
    let notes = std::mem::take(&mut copier.notes);
    copied.map_err(|(at, error)| failed(&source.path.join(at.as_bytes()), error))?;
    (staged.entries, staged.bytes, staged.notes) = (entries, bytes, notes);
    // What is renamed into its place is there after a crash as well, or it would be half.
    syncfs(&staged.dir).map_err(|error| AgentError::io(format!("`{parent}`"), &error.into()))?;
    Ok(staged)
}

fn taken(path: &BytePath) -> AgentError {
    AgentError::failed(format!("`{path}` is there already; name another directory with `--to DIR`"))
}

fn failed(path: &BytePath, error: Errno) -> AgentError {
    match error {
        Errno::CANCELED => AgentError::cancelled(),
        Errno::ACCESS | Errno::PERM => AgentError::failed(format!(
            "nothing was restored: `{path}` may not be read or written by you: {error}; root may, with `sudo`"
        )),
        error => AgentError::io(format!("nothing was restored: `{path}`"), &error.into()),
    }
}

/// Puts a name between two texts, cut so that all of it is a name.
fn affixed(before: &[u8], name: &[u8], after: &str) -> Vec<u8> {
    let mut room = name.len().min(NAME_MAX - before.len() - after.len());
    // A letter of several bytes is not cut in two.
    while room < name.len() && room > 0 && name[room] & 0xc0 == 0x80 {
        room -= 1;
    }
    [before, &name[..room], after.as_bytes()].concat()
}

impl Staged {
    /// Puts the copy beside what is there, under a name that nothing has; returns the path.
    ///
    /// # Errors
    /// If the directory does not take it.
    pub(crate) fn beside(self, stamp: UtcStamp) -> Result<BytePath, AgentError> {
        self.free_name("restored", stamp)
    }

    fn free_name(mut self, word: &str, stamp: UtcStamp) -> Result<BytePath, AgentError> {
        let temporary = self.temporary.clone();
        let name = self.rename_free(&temporary, word, stamp)?;
        self.is_placed = true;
        self.durable()?;
        Ok(self.parent.join(&name))
    }

    fn rename_free(&self, from: &BytePath, word: &str, stamp: UtcStamp) -> Result<Vec<u8>, AgentError> {
        for n in 1..=TRIES {
            let number = if n == 1 { String::new() } else { format!("-{n}") };
            let name = affixed(b"", self.name.as_bytes(), &format!(".{word}-{stamp}{number}"));
            match self.rename(from.as_bytes(), &name, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Ok(()) => return Ok(name),
                Err(error) => return Err(self.refused(&error)),
            }
        }
        Err(AgentError::failed(format!("`{}` has no free name for `{}`", self.parent, self.name)))
    }

    /// Puts the copy under its own name, which must be free; returns the path.
    ///
    /// # Errors
    /// If the name is taken, or the directory does not take it.
    pub(crate) fn under_its_name(mut self) -> Result<BytePath, AgentError> {
        let path = self.parent.join(self.name.as_bytes());
        match self.rename(self.temporary.as_bytes(), self.name.as_bytes(), RenameFlags::NOREPLACE) {
            Ok(()) => self.is_placed = true,
            Err(Errno::EXIST) => return Err(taken(&path)),
            Err(error) => return Err(self.refused(&error)),
        }
        self.durable()?;
        Ok(path)
    }

    /// Returns where the copy stands before it is put into its place.
    pub(crate) fn path(&self) -> BytePath {
        self.parent.join(self.temporary.as_bytes())
    }

    /// Makes these paths of the copy, relative to it, what they are in what stands in its place now, gone included. Returns those
    /// that either of the two has.
    ///
    /// # Errors
    /// If one cannot be read or written.
    pub(crate) fn keep(&self, paths: Vec<BytePath>) -> Result<Vec<BytePath>, AgentError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let tree = |name: &BytePath| open::beneath(&self.dir, name.as_bytes(), flags).ok();
        let Some((live, copy)) = tree(&self.name).zip(tree(&self.temporary)) else { return Ok(Vec::new()) };
        let has = |dir: &OwnedFd, path: &BytePath| {
            open::beneath(dir, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW).is_ok()
        };
        let kept: Vec<BytePath> =
            paths.into_iter().filter(|path| has(&live, path) || has(&copy, path)).collect();
        for path in &kept {
            carry(&live, &copy, path).map_err(|error| {
                failed(&self.parent.join(self.name.as_bytes()).join(path.as_bytes()), error)
            })?;
        }
        if !kept.is_empty() {
            let failed = |error: Errno| AgentError::io(format!("`{}`", self.parent), &error.into());
            syncfs(&self.dir).map_err(failed)?;
        }
        Ok(kept)
    }

    /// Puts the copy in the place of what is there, which is removed if `safety` holds it exactly as it was, and otherwise
    /// kept under a name of its own; returns the path, and where that is. `copied` says of what `safety` was made, if it is no
    /// snapshot.
    ///
    /// # Errors
    /// If the directory does not take it; all is as it was then.
    pub(crate) fn in_place(
        mut self,
        safety: &Source<'_>,
        copied: Option<&Copied>,
        stamp: UtcStamp,
    ) -> Result<(BytePath, Option<BytePath>), AgentError> {
        let path = self.parent.join(self.name.as_bytes());
        let is_untouched = same::is_untouched(safety, copied, &self.dir, &self.name).unwrap_or(false);
        match self.rename(self.temporary.as_bytes(), self.name.as_bytes(), RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::NOENT) => return self.under_its_name().map(|path| (path, None)),
            Err(error) => return Err(self.refused(&error)),
        }
        // From here on the temporary name is that of what was displaced.
        self.is_placed = true;
        self.durable()?;
        let displaced = same::Displaced { dir: &self.dir, name: &self.temporary };
        let held = if is_untouched { same::is_held(safety, copied, &displaced) } else { Ok(false) };
        let gone = held.and_then(|held| match held {
            true => same::remove_held(safety, copied, &displaced),
            false => Err(Errno::BUSY),
        });
        let kept = match gone {
            Ok(()) => None,
            Err(_) => Some(self.parent.join(&self.rename_free(&self.temporary, "displaced", stamp)?)),
        };
        self.durable()?;
        Ok((path, kept))
    }

    fn rename(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Result<(), Errno> {
        match renameat_with(&self.dir, from, &self.dir, to, flags) {
            // File systems of networks and programs know no flags: whether the name is free is looked at then.
            Err(Errno::INVAL | Errno::NOSYS) if flags == RenameFlags::NOREPLACE => {
                match Seen::at(&self.dir, to) {
                    Ok(_) => Err(Errno::EXIST),
                    Err(Errno::NOENT) => renameat(&self.dir, from, &self.dir, to),
                    Err(error) => Err(error),
                }
            }
            done => done,
        }
    }

    fn refused(&self, error: &Errno) -> AgentError {
        if *error == Errno::INVAL {
            return AgentError::failed(format!(
                "cannot put `{}` into `{}`: the file system there cannot let two names change places; restore it beside, \
                 without `--in-place`",
                self.name, self.parent
            ));
        }
        AgentError::io(format!("cannot put `{}` into `{}`", self.name, self.parent), &(*error).into())
    }

    fn durable(&self) -> Result<(), AgentError> {
        fsync(&self.dir).map_err(|error| AgentError::io(format!("`{}`", self.parent), &error.into()))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = clear(&self.dir, &self.temporary);
        }
    }
}

/// Removes a tree that nobody uses any more.
fn clear(dir: &OwnedFd, name: &BytePath) -> Result<(), Errno> {
    match open::beneath(dir, name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
        Ok(tree) => {
            // A directory of ours may be read-only already.
            let _ = fchmod(&tree, Mode::RWXU);
            for (name, _) in remove::list(&tree)? {
                remove::tree_of(&tree, &name)?;
            }
            unlinkat(dir, name.as_bytes(), AtFlags::REMOVEDIR)
        }
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => unlinkat(dir, name.as_bytes(), AtFlags::empty()),
        Err(error) => Err(error),
    }
}
