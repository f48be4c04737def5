//! Moves live versions aside and judges them there; what is not the planned version goes back at once.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use super::commit::{Committer, Refusal, changed};
use super::planner::single;
use super::touched::is_same_version;
use crate::data::seen::Seen;
use crate::proto::Identity;

impl Committer<'_> {
    /// Swaps the staged version in and the live one out.
    pub(super) fn exchange(
        &mut self,
        part: usize,
        number: u64,
        dir: &OwnedFd,
        name: &[u8],
        expected: &Identity,
    ) -> Result<(), Refusal> {
        let stage = &self.parts[part].stage;
        let staged = single(number);
        let staged = staged.as_bytes();
        let mine = Seen::at(stage, staged)?;
        let before = Seen::at(dir, name)?;
        renameat_with(stage, staged, dir, name, RenameFlags::EXCHANGE)
            .map_err(|error| self.explain(dir, name, error))?;
        self.watch.after("exchange")?;
        self.note_moved(part, &mine, dir, name);
        let stage = &self.parts[part].stage;
        let out = Seen::at(stage, staged)?;
        if out.is_dir() {
            return match unlinkat(stage, staged, AtFlags::REMOVEDIR) {
                Ok(()) => Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    self.put_back(part, number, dir, name, &mine)?;
                    Err(Refusal::Conflict("the directory to be replaced holds something".into()))
                }
                Err(error) => {
                    self.put_back(part, number, dir, name, &mine)?;
                    Err(error.into())
                }
            };
        }
        if !self.is_version(part, &out, expected) {
            self.put_back(part, number, dir, name, &mine)?;
            return Err(changed());
        }
        // Into undo under the same number. Should that fail the step is not done, and is looked at once more.
        let undo = &self.parts[part].undo;
        renameat_with(stage, staged, undo, staged, RenameFlags::NOREPLACE)?;
        self.note_moved(part, &before, undo, staged);
        Ok(())
    }

    /// Moves a live version out and leaves nothing in its place.
    pub(super) fn take_away(
        &mut self,
        part: usize,
        number: u64,
        dir: &OwnedFd,
        name: &[u8],
        expected: &Identity,
    ) -> Result<(), Refusal> {
        let undo = &self.parts[part].undo;
        let number_name = single(number);
        let number_name = number_name.as_bytes();
        let before = Seen::at(dir, name)?;
        renameat_with(dir, name, undo, number_name, RenameFlags::NOREPLACE)
            .map_err(|error| self.explain(dir, name, error))?;
        self.watch.after("take away")?;
        let out = Seen::at(undo, number_name)?;
        if !out.is_dir() && self.is_version(part, &out, expected) {
            self.note_moved(part, &before, undo, number_name);
            return Ok(());
        }
        if renameat_with(undo, number_name, dir, name, RenameFlags::NOREPLACE).is_err() {
            return Err(self.kept_aside(part));
        }
        Err(changed())
    }

    /// Exchanges once more. What comes back must be our own version; otherwise somebody has already put a newer one there,
    /// which then stays, and the one that we hold is kept aside.
    fn put_back(
        &mut self,
        part: usize,
        number: u64,
        dir: &OwnedFd,
        name: &[u8],
        mine: &Seen,
    ) -> Result<(), Refusal> {
        let stage = &self.parts[part].stage;
        let staged = single(number);
        let staged = staged.as_bytes();
        let back = match renameat_with(stage, staged, dir, name, RenameFlags::EXCHANGE) {
            Ok(()) => match Seen::at(stage, staged) {
                Ok(seen) if seen.ino() == mine.ino() => {
                    self.note_moved(part, mine, stage, staged);
                    return Ok(());
                }
                _ => renameat_with(stage, staged, dir, name, RenameFlags::EXCHANGE),
            },
            Err(Errno::NOENT) => match renameat_with(stage, staged, dir, name, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        // Either way the version in staging is somebody's own: out of staging, which is removed.
        let _ = back;
        Ok(renameat_with(stage, staged, &self.parts[part].undo, staged, RenameFlags::NOREPLACE)?)
    }

    /// The refusal for a version that could not go back to its name.
    pub(super) fn kept_aside(&self, part: usize) -> Refusal {
        let place = self.parts[part].kept_path();
        Refusal::Conflict(format!("it was changed while it was replaced; the other version is in `{place}`"))
    }

    /// Remembers what moving did to an inode that has other names: it stands at `name` now. What somebody else has changed
    /// meanwhile is not noted, so that it is not taken for ours.
    pub(super) fn note_moved(&mut self, part: usize, before: &Seen, dir: &OwnedFd, name: &[u8]) {
        if before.nlink() > 1
            && !before.is_dir()
            && let Ok(after) = Seen::at(dir, name)
            && is_same_version(&after.identity(), &before.identity())
        {
            self.touched.note(part, before.identity(), after.identity());
        }
    }
}
