//! Steps that may have been done before, in whole or in part: each finds out by inodes how far it came, and goes on.
//!
//! A staged name that holds its own inode was not brought in; one that holds another inode was exchanged and not judged; one
//! that is gone was brought in. What was taken away stands in undo under the number of its step. Nothing is put back over a
//! name that somebody may have used since: what does not match stays in undo, and is kept when that is removed.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::commit::{Committer, Refusal, changed};
use super::moves::Move;
use super::plan::{Action, Step};
use super::planner::single;
use crate::data::open;
use crate::data::seen::Seen;
use crate::proto::Identity;

/// What stands at a name, `None` if nothing does.
pub(super) fn look(dir: &OwnedFd, name: &[u8]) -> Result<Option<Seen>, Errno> {
    match Seen::at(dir, name) {
        Ok(seen) => Ok(Some(seen)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Committer<'_> {
    /// Does a step, or what is left of it.
    pub(super) fn resume(&mut self, step: &Step) -> Result<(), Refusal> {
        let Step { number, part, path, action } = step;
        let (number, part) = (*number, *part);
        match action {
            Action::Put { replaces, .. } => match look(&self.parts[part].stage, single(number).as_bytes())? {
                None => Ok(()),
                Some(seen) if self.staged.get(&number) == Some(&seen.ino()) => {
                    if !seen.is_dir() && self.live(part, path)? == Some(seen.ino()) {
                        return self.unstage(part, number);
                    }
                    self.step(step)
                }
                Some(out) => self.judge(part, number, &out, *replaces),
            },
            Action::Link { to, replaces } => self.resume_link(step, part, to, *replaces),
            Action::Remove { expect } => match look(&self.parts[part].undo, single(number).as_bytes())? {
                Some(out) if self.is_version(part, &out, expect) => Ok(()),
                Some(_) => self.give_back(part, number, path),
                None => self.step(step),
            },
            Action::RemoveDir | Action::SetMeta { .. } | Action::SetDir { .. } => self.step(step),
            Action::Move { from, aside: None, expect, replaces } => {
                self.resume_move(&Move { part, number, from, path, expect }, *replaces)
            }
            // Whatever a swap brings to its path stays there; what it takes from there may have gone on since.
            Action::Move { expect: brought, .. } | Action::Swap { other: brought, .. }
                if self.has_come(part, path, brought.ino)? =>
            {
                Ok(())
            }
            Action::Aside { expect } if self.live(part, path)? != Some(expect.ino) => Ok(()),
            Action::Move { .. } | Action::Swap { .. } | Action::Aside { .. } => self.step(step),
        }
    }

    fn resume_link(
        &mut self,
        step: &Step,
        part: usize,
        to: &BytePath,
        replaces: Option<Identity>,
    ) -> Result<(), Refusal> {
        let number = step.number;
        let here = self.live(part, &step.path)?;
        let staged = look(&self.parts[part].stage, single(number).as_bytes())?;
        let wanted = match self.live(part, to)? {
            Some(ino) => Some(ino),
            // A later step may have removed that name already.
            None => self.removed.get(&(part, to.clone())).copied(),
        };
        let is_done = here.is_some() && here == wanted;
        match staged {
            None if is_done => Ok(()),
            None => self.step(step),
            Some(seen) if Some(seen.ino()) == wanted && is_done => self.unstage(part, number),
            Some(seen) if Some(seen.ino()) == wanted => self.put(part, number, &step.path, replaces),
            Some(out) => {
                self.judge(part, number, &out, replaces)?;
                if is_done { Ok(()) } else { Err(changed()) }
            }
        }
    }

    /// Judges what an exchange brought out before a crash.
    fn judge(
        &mut self,
        part: usize,
        number: u64,
        out: &Seen,
        expected: Option<Identity>,
    ) -> Result<(), Refusal> {
        let name = single(number);
        let (stage, undo) = (&self.parts[part].stage, &self.parts[part].undo);
        if out.is_dir() {
            match unlinkat(stage, name.as_bytes(), AtFlags::REMOVEDIR) {
                Ok(()) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        renameat_with(stage, name.as_bytes(), undo, name.as_bytes(), RenameFlags::NOREPLACE)?;
        let is_planned = expected.is_some_and(|expected| self.is_version(part, out, &expected));
        if is_planned && !out.is_dir() { Ok(()) } else { Err(self.kept_aside(part)) }
    }

    /// Gives a version that is not the planned one its name back, if that is free.
    fn give_back(&mut self, part: usize, number: u64, path: &BytePath) -> Result<(), Refusal> {
        let Ok(dir) = self.dir_of(part, path) else { return Err(self.kept_aside(part)) };
        let name = single(number);
        let undo = &self.parts[part].undo;
        match renameat_with(undo, name.as_bytes(), &dir, path.name(), RenameFlags::NOREPLACE) {
            Ok(()) => Err(changed()),
            Err(_) => Err(self.kept_aside(part)),
        }
    }

    /// Removes a staged name whose inode stands in its place.
    fn unstage(&self, part: usize, number: u64) -> Result<(), Refusal> {
        Ok(unlinkat(&self.parts[part].stage, single(number).as_bytes(), AtFlags::empty())?)
    }

    /// Returns the inode that stands at a live path.
    pub(super) fn live(&self, part: usize, path: &BytePath) -> Result<Option<u64>, Refusal> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match open::beneath(&self.parts[part].root, path.as_bytes(), flags) {
            Ok(fd) => Ok(Some(Seen::of(&fd)?.ino())),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
