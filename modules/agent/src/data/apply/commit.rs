//! Phase 2: brings staged versions in, step by step. See the page of [`super`] for what holds throughout.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, OFlags, RenameFlags, linkat, renameat_with, unlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;
use serde::{Deserialize, Serialize};

use super::moves::Move;
use super::part::Part;
use super::plan::{Action, Step};
use super::planner::single;
use super::touched::{Touched, is_half_set, is_same_version};
use super::watch::Watch;
use crate::data::seen::Seen;
use crate::data::{meta, open};
use crate::proto::{AgentError, ApplyReport, Conflict, FileTime, Identity, Meta, Rights};

/// Steps between two pieces of news.
const NEWS: u64 = 1024;

/// Live directories that are kept open.
const OPEN_DIRS: usize = 16;

/// What a root is to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootMeta {
    /// Which part's.
    pub(super) part: usize,
    /// Its metadata.
    pub(super) meta: Meta,
    /// What becomes of owner, mode and attributes; `None` if they are set whatever they are.
    pub(super) rights: Option<Rights>,
}

impl RootMeta {
    /// Sets it. Some of it may have been set before a crash.
    pub(super) fn set(&self, root: &OwnedFd) -> Result<meta::Settled, Errno> {
        match &self.rights {
            None => meta::change(root, &self.meta).map(meta::Settled::Done),
            Some(rights) => meta::settle(root, &self.meta, rights, true),
        }
    }
}

/// Why a step was not done.
pub(super) enum Refusal {
    /// Somebody changed the path, or forbade to change it: the path is left alone.
    Conflict(String),
    /// The system failed.
    System(Errno),
    /// The directory holds something.
    Kept,
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS | Errno::NOMEM | Errno::MFILE => {
                Refusal::System(error)
            }
            Errno::EXIST => Refusal::Conflict("something stands there now".into()),
            Errno::NOENT => Refusal::Conflict("it is gone".into()),
            error => Refusal::Conflict(std::io::Error::from(error).to_string()),
        }
    }
}

/// Carries out the steps of a commit.
pub(super) struct Committer<'a> {
    pub(super) parts: &'a [Part],
    pub(super) watch: &'a dyn Watch,
    pub(super) touched: Touched,
    pub(super) report: ApplyReport,
    /// The inodes that were staged, by step.
    pub(super) staged: &'a HashMap<u64, u64>,
    /// Whether steps may have been done before, in whole or in part.
    pub(super) again: bool,
    /// The inodes of names that steps remove; known only when steps are done again.
    pub(super) removed: HashMap<(usize, BytePath), u64>,
    /// Inodes that steps move, by part; known only when steps are done again.
    pub(super) moved: HashSet<(usize, u64)>,
    /// The steps that displace inodes, by part; known likewise.
    pub(super) displacing: HashMap<(usize, u64), Vec<u64>>,
    /// Times of the last change that steps give to inodes, by subvolume; known likewise.
    pub(super) dressed: HashMap<(usize, u64), Vec<FileTime>>,
    /// Places to which nothing came though a step was to move something there.
    pub(super) unplaced: Vec<(usize, BytePath)>,
    pub(super) open: Vec<(usize, BytePath, Arc<OwnedFd>)>,
    roots: Vec<RootMeta>,
}

/// What a commit did, all of it on the disk.
pub(super) struct Committed {
    /// For people. If it says that something failed, the session is not at its end.
    pub(super) report: ApplyReport,
    /// Metadata of roots, to be set when all of ours is gone from there.
    pub(super) roots: Vec<RootMeta>,
}

impl<'a> Committer<'a> {
    /// Takes the inodes that were staged; `again` if steps may have been done before.
    pub(super) fn new(
        parts: &'a [Part],
        staged: &'a HashMap<u64, u64>,
        again: bool,
        watch: &'a dyn Watch,
    ) -> Self {
        // A root that cannot be looked at is met by the first step there.
        let roots: Vec<Seen> = parts.iter().map_while(|part| Seen::of(&part.root).ok()).collect();
        Self {
            parts,
            watch,
            touched: Touched::none(&roots),
            report: ApplyReport::default(),
            staged,
            again,
            removed: HashMap::new(),
            moved: HashSet::new(),
            displacing: HashMap::new(),
            dressed: HashMap::new(),
            unplaced: Vec::new(),
            open: Vec::new(),
            roots: Vec::new(),
        }
    }

    /// Does all steps and waits until they are on the disk. What fails is tried once more at the end: on a disk that was
    /// full, a sync may have given space back.
    pub(super) fn run(mut self, steps: &[Step], news: &dyn Fn(u64)) -> Committed {
        let mut failed = Vec::new();
        // What comes after a move counts on it.
        let moves = steps.iter().rposition(Step::is_move).map_or(0, |last| last + 1);
        let mut waits = false;
        if self.again {
            self.learn(steps);
        }
        for (seen, step) in (1..).zip(steps) {
            if waits {
                failed.push(step);
                continue;
            }
            match self.settle(step) {
                Ok(()) => {}
                Err(Refusal::System(_)) => {
                    // It may be half done, and what it touched is not noted.
                    self.learn(steps);
                    self.again = true;
                    waits = seen <= moves as u64;
                    failed.push(step);
                }
                Err(refusal) => self.refuse(step, refusal),
            }
            if seen % NEWS == 0 {
                news(seen);
            }
        }
        if !failed.is_empty() {
            self.open.clear();
            self.sync();
            for step in failed {
                if let Err(refusal) = self.settle(step) {
                    let stops = waits && matches!(refusal, Refusal::System(_));
                    self.refuse(step, refusal);
                    if stops {
                        break;
                    }
                }
            }
        }
        self.open.clear();
        self.sync();
        Committed { report: self.report, roots: self.roots }
    }

    fn learn(&mut self, steps: &[Step]) {
        let was_learned = !(self.removed.is_empty() && self.moved.is_empty() && self.displacing.is_empty());
        if was_learned || !self.dressed.is_empty() {
            return;
        }
        for Step { number, part, action, .. } in steps {
            match action {
                Action::Put { replaces: Some(old), .. }
                | Action::Link { replaces: Some(old), .. }
                | Action::Remove { expect: old } => {
                    self.displacing.entry((*part, old.ino)).or_default().push(*number);
                }
                Action::Move { expect, .. } => drop(self.moved.insert((*part, expect.ino))),
                Action::Swap { expect, other, .. } => {
                    self.moved.extend([(*part, expect.ino), (*part, other.ino)]);
                }
                Action::SetMeta { meta, expect: Some(expect) } => {
                    let key = (self.touched.tree(*part), expect.ino);
                    self.dressed.entry(key).or_default().push(meta.mtime);
                }
                _ => {}
            }
        }
        let removed = steps.iter().filter_map(|step| match &step.action {
            Action::Remove { expect } => Some(((step.part, step.path.clone()), expect.ino)),
            _ => None,
        });
        self.removed = removed.collect();
    }

    fn settle(&mut self, step: &Step) -> Result<(), Refusal> {
        if self.is_unplaced(step) {
            return Err(Refusal::Conflict("what should have been moved there was not".into()));
        }
        if self.again { self.resume(step) } else { self.step(step) }?;
        self.watch.after("step")?;
        self.report.done += 1;
        Ok(())
    }

    fn sync(&mut self) {
        for part in self.parts {
            if let Err(error) = part.sync() {
                self.report.failed.get_or_insert(error);
            }
        }
    }

    fn refuse(&mut self, step: &Step, refusal: Refusal) {
        let path = self.parts[step.part].absolute(&step.path);
        match (&refusal, &step.action) {
            // Neither of them is where later steps count on it.
            (Refusal::Conflict(_), Action::Swap { with, .. }) => {
                self.unplace(step.part, &step.path, with);
                self.unplaced.push((step.part, with.clone()));
            }
            (Refusal::Conflict(_), _) if self.is_unplaced(step) => {}
            (Refusal::Conflict(_), Action::Move { from, .. }) => self.unplace(step.part, &step.path, from),
            // What should make room stands there still.
            (Refusal::Conflict(_), Action::Aside { .. }) => {
                self.unplaced.push((step.part, step.path.clone()));
            }
            _ => {}
        }
        match refusal {
            Refusal::Conflict(why) => self.report.conflicts.push(Conflict { path, why }),
            Refusal::Kept => self.report.kept.push(path),
            Refusal::System(error) => {
                let error = AgentError::io(format!("commit of `{path}`"), &error.into());
                self.report.failed.get_or_insert(error);
            }
        }
    }

    fn note_refused(&mut self, part: usize, path: &BytePath, refused: Vec<meta::Refused>) {
        let path = self.parts[part].absolute(path);
        refused.into_iter().for_each(|refused| self.report.refused.add(meta::told(&path, refused)));
    }

    /// Does a step that was never tried.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), Refusal> {
        let Step { number, part, path, action } = step;
        let (number, part) = (*number, *part);
        match action {
            Action::Put { replaces, links } => {
                self.late_links(part, links)?;
                self.put(part, number, path, *replaces)
            }
            Action::Link { to, replaces } => {
                self.link_live(part, to, &single(number))?;
                self.put(part, number, path, *replaces)
            }
            Action::Remove { expect } => self.remove(part, number, path, expect),
            Action::RemoveDir => self.remove_dir(part, path),
            Action::SetMeta { meta, .. } if path.is_empty() => self.set_root(part, meta, None),
            Action::SetDir { meta, rights } if path.is_empty() => self.set_root(part, meta, Some(rights)),
            Action::SetMeta { meta, expect } => self.set_meta(part, path, meta, *expect),
            Action::SetDir { meta, rights } => self.set_dir(part, path, meta, rights),
            Action::Move { from, aside, expect, replaces } => {
                let it = Move { part, number, from, path, expect };
                match aside {
                    Some(aside) => self.bring_back(&it, *aside),
                    None => self.move_live(&it, *replaces),
                }
            }
            Action::Swap { with, expect, other } => self.swap_live(part, [path, with], [expect, other]),
            Action::Aside { expect } => self.aside(part, number, path, expect),
        }
    }

    pub(super) fn put(
        &mut self,
        part: usize,
        number: u64,
        path: &BytePath,
        replaces: Option<Identity>,
    ) -> Result<(), Refusal> {
        let dir = self.dir_of(part, path)?;
        // What was below this path is reached by another inode from now on.
        self.open.retain(|(at, open, _)| *at != part || !open.is_within(path));
        match replaces {
            None => {
                let (stage, staged) = (&self.parts[part].stage, single(number));
                let before = Seen::at(stage, staged.as_bytes())?;
                renameat_with(stage, staged.as_bytes(), &dir, path.name(), RenameFlags::NOREPLACE)?;
                self.note_moved(part, &before, &dir, path.name());
                Ok(())
            }
            Some(expected) => {
                self.check(part, &dir, path.name(), &expected)?;
                self.exchange(part, number, &dir, path.name(), &expected)
            }
        }
    }

    pub(super) fn remove(
        &mut self,
        part: usize,
        number: u64,
        path: &BytePath,
        expected: &Identity,
    ) -> Result<(), Refusal> {
        let dir = match self.dir_of(part, path) {
            Err(Refusal::Conflict(_)) if self.is_gone(part, path) => return Ok(()),
            dir => dir?,
        };
        match Seen::at(&dir, path.name()) {
            Err(Errno::NOENT) => return Ok(()),
            Ok(seen) if seen.is_dir() => return Err(Refusal::Conflict("it is a directory now".into())),
            _ => {}
        }
        self.check(part, &dir, path.name(), expected)?;
        self.take_away(part, number, &dir, path.name(), expected)
    }

    fn remove_dir(&mut self, part: usize, path: &BytePath) -> Result<(), Refusal> {
        let dir = match self.dir_of(part, path) {
            Err(Refusal::Conflict(_)) if self.is_gone(part, path) => return Ok(()),
            dir => dir?,
        };
        self.open.retain(|(at, open, _)| *at != part || !open.is_within(path));
        match unlinkat(&dir, path.name(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Err(Refusal::Kept),
            Err(error) => Err(self.explain(&dir, path.name(), error)),
        }
    }

    /// Notes what a root is to become when all of ours is gone from it.
    fn set_root(&mut self, part: usize, meta: &Meta, rights: Option<&Rights>) -> Result<(), Refusal> {
        self.roots.retain(|root| root.part != part);
        self.roots.push(RootMeta { part, meta: meta.clone(), rights: rights.cloned() });
        Ok(())
    }

    fn set_dir(&mut self, part: usize, path: &BytePath, meta: &Meta, rights: &Rights) -> Result<(), Refusal> {
        let dir = self.dir_of(part, path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
        let fd = open::beneath(&dir, path.name(), flags)?;
        match meta::settle(&fd, meta, rights, self.again) {
            Ok(meta::Settled::Done(refused)) => self.note_refused(part, path, refused),
            Ok(meta::Settled::Touched) => return Err(Refusal::Conflict(rights_changed())),
            Err(error) => return Err(self.explain(&dir, path.name(), error)),
        }
        Ok(())
    }

    fn set_meta(
        &mut self,
        part: usize,
        path: &BytePath,
        meta: &Meta,
        expect: Option<Identity>,
    ) -> Result<(), Refusal> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let dir = self.dir_of(part, path)?;
        let fd = open::beneath(&dir, path.name(), flags)?;
        let before = Seen::of(&fd)?;
        if let Some(expected) = expect
            && !self.touched.is_expected(part, &before, &expected)
            && !(self.again && is_half_set(&before, &expected, meta))
        {
            return Err(changed());
        }
        match meta::change(&fd, meta) {
            Ok(refused) => self.note_refused(part, path, refused),
            Err(error) => return Err(self.explain(&dir, path.name(), error)),
        }
        if before.nlink() > 1 && !before.is_dir() {
            self.touched.note(part, before.identity(), Seen::of(&fd)?.identity());
        }
        Ok(())
    }

    /// Makes `staged` another name of what stands at `to`.
    pub(super) fn link_live(&mut self, part: usize, to: &BytePath, staged: &BytePath) -> Result<(), Refusal> {
        let partner = |_| Refusal::Conflict(format!("`{to}`, which it should be a link to, is gone"));
        let from = self.dir_of(part, to).map_err(|_| partner(Errno::NOENT))?;
        let before = Seen::at(&from, to.name()).map_err(partner)?;
        if before.is_dir() {
            return Err(Refusal::Conflict(format!("`{to}`, which it should be a link to, is a directory")));
        }
        let parent = staged.parent().unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let into = open::beneath(&self.parts[part].stage, parent.as_bytes(), flags)?;
        match linkat(&from, to.name(), &into, staged.name(), AtFlags::empty()) {
            // Made before a crash.
            Err(Errno::EXIST) if self.again && Seen::at(&into, staged.name())?.ino() == before.ino() => {}
            Err(Errno::PERM) if let Some(flag) = before.frozen_by() => {
                let what = format!("`{to}`, which it should be another name of,");
                return Err(Refusal::Conflict(explain_frozen(&what, flag)));
            }
            made => made?,
        }
        self.watch.after("link")?;
        let (before, after) = (before.identity(), Seen::at(&into, staged.name())?.identity());
        if is_same_version(&after, &before) {
            self.touched.note(part, before, after);
        }
        Ok(())
    }

    /// Compares what stands at a name with the plan.
    pub(super) fn check(
        &self,
        part: usize,
        dir: &OwnedFd,
        name: &[u8],
        expected: &Identity,
    ) -> Result<(), Refusal> {
        let now = Seen::at(dir, name)?;
        if let Some(flag) = now.frozen_by() {
            return Err(Refusal::Conflict(explain_frozen("it", flag)));
        }
        // Steps before a crash gave an inode of several names, or one that they moved, another ctime, and nobody remembers
        // which.
        let is_known = || now.nlink() > 1 || self.moved.contains(&(part, now.ino()));
        let ours = || self.again && is_known() && self.is_version(part, &now, expected);
        if self.touched.is_expected(part, &now, expected) || ours() { Ok(()) } else { Err(changed()) }
    }

    /// Whether what was moved aside is the expected version, or was until a step gave one of its other names the planned times: that
    /// step comes later, and may have been done before all the same.
    pub(super) fn is_version(&self, part: usize, moved: &Seen, expected: &Identity) -> bool {
        let now = moved.identity();
        let times = || self.dressed.get(&(self.touched.tree(part), now.ino));
        let is_dressed = || times().is_some_and(|times| times.contains(&now.mtime));
        is_same_version(&now, expected)
            || self.again
                && !moved.is_dir()
                && moved.nlink() > 1
                && (now.ino, now.size) == (expected.ino, expected.size)
                && is_dressed()
    }

    /// Gives the reason for a refusal of the system, which for `chattr` says little by itself.
    pub(super) fn explain(&self, dir: &OwnedFd, name: &[u8], error: Errno) -> Refusal {
        let frozen = |seen: Result<Seen, Errno>| seen.ok()?.frozen_by();
        match error {
            Errno::PERM => match (frozen(Seen::at(dir, name)), frozen(Seen::of(dir))) {
                (Some(flag), _) => Refusal::Conflict(explain_frozen("it", flag)),
                (None, Some(flag)) => Refusal::Conflict(explain_frozen("its directory", flag)),
                (None, None) => error.into(),
            },
            error => error.into(),
        }
    }

    /// Whether there is nothing at a path because a directory above it is gone.
    fn is_gone(&self, part: usize, path: &BytePath) -> bool {
        let parent = path.parent().unwrap_or_default();
        let opened =
            open::beneath(&self.parts[part].root, parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY);
        matches!(opened, Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
    }

    /// Opens the live directory that holds `path`.
    pub(super) fn dir_of(&mut self, part: usize, path: &BytePath) -> Result<Arc<OwnedFd>, Refusal> {
        let parent = path.parent().unwrap_or_default();
        if let Some(at) = self.open.iter().rposition(|(p, open, _)| *p == part && *open == parent) {
            let found = self.open.remove(at);
            let fd = Arc::clone(&found.2);
            self.open.push(found);
            return Ok(fd);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = match open::beneath(&self.parts[part].root, parent.as_bytes(), flags) {
            Ok(fd) => Arc::new(fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                return Err(Refusal::Conflict("its directory is gone or something else".into()));
            }
            Err(error) => return Err(error.into()),
        };
        if self.open.len() >= OPEN_DIRS {
            self.open.remove(0);
        }
        self.open.push((part, parent, Arc::clone(&fd)));
        Ok(fd)
    }
}

/// The refusal of a directory of which somebody changed owner, mode or attributes.
pub(super) fn rights_changed() -> String {
    "its owner, mode or attributes were changed after the plan was made".into()
}

/// The refusal for what somebody changed.
pub(super) fn changed() -> Refusal {
    Refusal::Conflict("it was changed after the plan was made".into())
}

/// Says of something that `chattr` protects it, and what takes that away.
pub(super) fn explain_frozen(what: &str, flag: char) -> String {
    let how = if flag == 'a' { "only be added to" } else { "not be changed" };
    format!("{what} may {how} (`chattr +{flag}`): `sudo chattr -{flag}` takes that off, then try again")
}
