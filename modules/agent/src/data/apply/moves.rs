//! What stands on the target already is moved to its new place, a directory with all below it.
//!
//! **What is live never lies in staging.** A session that is given up loses its staging; so what must be out of the way for a
//! moment waits in undo, under the number of its step, and whatever is found there in the end and was not to be displaced is
//! kept (see [`super::retire`]).

use std::os::fd::OwnedFd;

use rustix::fs::{RenameFlags, renameat_with};

use pc_switcher_contract::BytePath;

use super::commit::{Committer, Refusal, changed};
use super::part::Part;
use super::plan::Step;
use super::planner::single;
use super::resume::look;
use super::touched::is_same_version;
use crate::data::seen::Seen;
use crate::proto::{Conflict, Identity};

/// A move within one part.
pub(super) struct Move<'a> {
    pub(super) part: usize,
    pub(super) number: u64,
    pub(super) from: &'a BytePath,
    pub(super) path: &'a BytePath,
    pub(super) expect: &'a Identity,
}

impl Committer<'_> {
    /// Moves what stands at one path to another one.
    pub(super) fn move_live(&mut self, it: &Move<'_>, replaces: Option<Identity>) -> Result<(), Refusal> {
        let &Move { part, from, path, expect, .. } = it;
        let (out, into) = (self.dir_of(part, from)?, self.dir_of(part, path)?);
        self.check(part, &out, from.name(), expect)?;
        if let Some(old) = replaces {
            self.check(part, &into, path.name(), &old)?;
            self.lift(it)?;
            return self.place_over(it, &old);
        }
        let before = Seen::at(&out, from.name())?;
        renameat_with(&out, from.name(), &into, path.name(), RenameFlags::NOREPLACE)
            .map_err(|error| self.explain(&out, from.name(), error))?;
        self.forget(part, [from, path]);
        self.watch.after("move")?;
        if Seen::at(&into, path.name())?.ino() != expect.ino {
            // Somebody put another one there in between. If its name was taken meanwhile, it stays where it is now.
            let _ = renameat_with(&into, path.name(), &out, from.name(), RenameFlags::NOREPLACE);
            return Err(changed());
        }
        self.note_own(part, &before, &into, path.name());
        Ok(())
    }

    /// Exchanges what stands at two paths.
    pub(super) fn swap_live(
        &mut self,
        part: usize,
        [path, with]: [&BytePath; 2],
        [expect, other]: [&Identity; 2],
    ) -> Result<(), Refusal> {
        let (one, two) = (self.dir_of(part, path)?, self.dir_of(part, with)?);
        self.check(part, &one, path.name(), expect)?;
        self.check(part, &two, with.name(), other)?;
        let before = [Seen::at(&one, path.name())?, Seen::at(&two, with.name())?];
        let exchange = || renameat_with(&one, path.name(), &two, with.name(), RenameFlags::EXCHANGE);
        exchange().map_err(|error| self.explain(&one, path.name(), error))?;
        self.forget(part, [path, with]);
        self.watch.after("swap")?;
        let now = [Seen::at(&one, path.name())?.ino(), Seen::at(&two, with.name())?.ino()];
        if now != [other.ino, expect.ino] {
            exchange()?;
            return Err(changed());
        }
        self.note_own(part, &before[0], &two, with.name());
        self.note_own(part, &before[1], &one, path.name());
        Ok(())
    }

    /// Takes something away for a moment.
    pub(super) fn aside(
        &mut self,
        part: usize,
        number: u64,
        path: &BytePath,
        expect: &Identity,
    ) -> Result<(), Refusal> {
        let dir = self.dir_of(part, path)?;
        self.check(part, &dir, path.name(), expect)?;
        self.lift(&Move { part, number, from: path, path, expect })
    }

    /// Brings what was taken away to its place.
    pub(super) fn bring_back(&mut self, it: &Move<'_>, aside: u64) -> Result<(), Refusal> {
        let &Move { part, path, expect, .. } = it;
        let waits = single(aside);
        let into = self.dir_of(part, path)?;
        let undo = &self.parts[part].undo;
        let before = match look(undo, waits.as_bytes())? {
            Some(seen) if seen.ino() == expect.ino => seen,
            _ => return Err(Refusal::Conflict("what should be moved here is gone".into())),
        };
        renameat_with(undo, waits.as_bytes(), &into, path.name(), RenameFlags::NOREPLACE)?;
        self.forget(part, [path, path]);
        self.watch.after("bring back")?;
        self.note_own(part, &before, &into, path.name());
        Ok(())
    }

    /// Does a move that may have been done before, in whole or in part.
    pub(super) fn resume_move(&mut self, it: &Move<'_>, replaces: Option<Identity>) -> Result<(), Refusal> {
        let waits = look(&self.parts[it.part].undo, single(it.number).as_bytes())?;
        match (waits, replaces) {
            (Some(seen), Some(old)) if seen.ino() == it.expect.ino => {
                // Its place is not checked by ctime: a file of one name was not touched by us.
                let into = self.dir_of(it.part, it.path)?;
                match self.check(it.part, &into, it.path.name(), &old) {
                    Ok(()) => self.place_over(it, &old),
                    Err(refusal) => {
                        self.give_up_lifted(it)?;
                        Err(refusal)
                    }
                }
            }
            (Some(out), Some(old)) if self.is_version(it.part, &out, &old) => Ok(()),
            (Some(_), _) => Err(self.kept_aside(it.part)),
            (None, _) if self.has_come(it.part, it.path, it.expect.ino)? => Ok(()),
            (None, _) => self.move_live(it, replaces),
        }
    }

    /// Whether an inode was brought to a path, where it still is unless a later step has displaced it from there.
    pub(super) fn has_come(&self, part: usize, path: &BytePath, ino: u64) -> Result<bool, Refusal> {
        if self.live(part, path)? == Some(ino) {
            return Ok(true);
        }
        let Part { stage, undo, .. } = &self.parts[part];
        let holds = |seen: Option<Seen>| seen.is_some_and(|seen| seen.ino() == ino);
        // A file of several names is displaced from each of them.
        for number in self.displacing.get(&(part, ino)).into_iter().flatten() {
            let later = single(*number);
            if holds(look(stage, later.as_bytes())?) || holds(look(undo, later.as_bytes())?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a step lies at or below a place that a move was to bring something to and did not.
    pub(super) fn is_unplaced(&self, step: &Step) -> bool {
        self.unplaced.iter().any(|(part, path)| *part == step.part && step.path.is_within(path))
    }

    /// Notes that a move was refused: both places stay as they are, and so does what was planned below the new one.
    pub(super) fn unplace(&mut self, part: usize, path: &BytePath, other: &BytePath) {
        self.unplaced.push((part, path.clone()));
        let [other, path] = [other, path].map(|path| self.parts[part].absolute(path));
        let why = format!("it is `{path}` on the other machine and could not be moved there");
        self.report.conflicts.push(Conflict { path: other, why });
    }

    fn lift(&mut self, it: &Move<'_>) -> Result<(), Refusal> {
        let &Move { part, number, from, expect, .. } = it;
        let dir = self.dir_of(part, from)?;
        let waits = single(number);
        let before = Seen::at(&dir, from.name())?;
        let undo = &self.parts[part].undo;
        renameat_with(&dir, from.name(), undo, waits.as_bytes(), RenameFlags::NOREPLACE)
            .map_err(|error| self.explain(&dir, from.name(), error))?;
        self.forget(part, [from, from]);
        self.watch.after("lift")?;
        let undo = &self.parts[part].undo;
        if Seen::at(undo, waits.as_bytes())?.ino() != expect.ino {
            self.give_up_lifted(it)?;
            return Err(changed());
        }
        let undo = rustix::io::dup(undo)?;
        self.note_own(part, &before, &undo, waits.as_bytes());
        Ok(())
    }

    /// Exchanges what waits in undo for the version that it replaces, and judges that.
    fn place_over(&mut self, it: &Move<'_>, old: &Identity) -> Result<(), Refusal> {
        let &Move { part, number, path, .. } = it;
        let into = self.dir_of(part, path)?;
        let waits = single(number);
        let undo = rustix::io::dup(&self.parts[part].undo)?;
        let mine = Seen::at(&undo, waits.as_bytes())?;
        let there = Seen::at(&into, path.name())?;
        let exchange = || renameat_with(&undo, waits.as_bytes(), &into, path.name(), RenameFlags::EXCHANGE);
        if let Err(error) = exchange() {
            self.give_up_lifted(it)?;
            return Err(self.explain(&into, path.name(), error));
        }
        self.forget(part, [path, path]);
        self.watch.after("exchange")?;
        let out = Seen::at(&undo, waits.as_bytes())?;
        if out.is_dir() || !self.is_version(part, &out, old) {
            exchange()?;
            self.give_up_lifted(it)?;
            return Err(changed());
        }
        self.note_own(part, &mine, &into, path.name());
        self.note_moved(part, &there, &undo, waits.as_bytes());
        Ok(())
    }

    /// Gives what was lifted its old name back; if that is taken it is kept aside.
    fn give_up_lifted(&mut self, it: &Move<'_>) -> Result<(), Refusal> {
        let dir = self.dir_of(it.part, it.from)?;
        let undo = &self.parts[it.part].undo;
        let back =
            renameat_with(undo, single(it.number).as_bytes(), &dir, it.from.name(), RenameFlags::NOREPLACE);
        back.map_err(|_| self.kept_aside(it.part))
    }

    /// Remembers what our move did to an inode, unless somebody else has changed it meanwhile.
    fn note_own(&mut self, part: usize, before: &Seen, dir: &OwnedFd, name: &[u8]) {
        if !before.is_dir()
            && let Ok(after) = Seen::at(dir, name)
            && is_same_version(&after.identity(), &before.identity())
        {
            self.touched.note(part, before.identity(), after.identity());
        }
    }

    /// Forgets which directories are open at or below paths: other ones are reached by them from now on.
    fn forget(&mut self, part: usize, paths: [&BytePath; 2]) {
        self.open.retain(|(at, open, _)| *at != part || !paths.iter().any(|path| open.is_within(path)));
    }
}
