//! Phase 2: brings staged versions in, step by step. See the page of [`super`] for what holds throughout.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, OFlags, RenameFlags, linkat, renameat_with, unlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::part::Part;
use super::plan::{Action, Step};
use super::stage::single;
use super::touched::Touched;
use crate::data::seen::Seen;
use crate::data::{meta, open};
use crate::proto::{AgentError, ApplyNews, ApplyReport, Conflict, Identity, Meta};
use crate::server::Call;

/// Steps between two pieces of news.
const NEWS: u64 = 1024;

/// Live directories that are kept open.
const OPEN_DIRS: usize = 16;

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
    call: &'a Call,
    pub(super) touched: Touched,
    pub(super) report: ApplyReport,
    failed: Option<AgentError>,
    open: Vec<(usize, BytePath, Arc<OwnedFd>)>,
    roots: Vec<(usize, Meta)>,
    /// Parts whose displaced versions must stay, since one could not be put back.
    pub(super) keep_undo: Vec<bool>,
}

impl<'a> Committer<'a> {
    pub(super) fn new(parts: &'a [Part], call: &'a Call) -> Self {
        Self {
            parts,
            call,
            touched: Touched::default(),
            report: ApplyReport::default(),
            failed: None,
            open: Vec::new(),
            roots: Vec::new(),
            keep_undo: vec![false; parts.len()],
        }
    }

    /// Does all steps, removes staging, sets the roots' metadata.
    pub(super) fn run(mut self, steps: Vec<Step>) -> Result<ApplyReport, AgentError> {
        let mut seen = 0;
        for step in steps {
            let (part, path) = (step.part, step.path.clone());
            match self.step(step) {
                Ok(()) => self.report.done += 1,
                Err(refusal) => self.refuse(part, &path, refusal),
            }
            seen += 1;
            if seen % NEWS == 0 {
                // Who does not listen any more misses the news only.
                let _ = self.call.item(&ApplyNews::Committed(seen));
            }
        }
        self.open.clear();
        self.sync();
        for (at, part) in self.parts.iter().enumerate() {
            part.end_journal();
            match part.clean_up(self.keep_undo[at]) {
                Ok(false) => {}
                Ok(true) => {
                    let place = part.undo_path();
                    self.report.warnings.push(format!("displaced versions are kept in `{place}`"));
                }
                Err(error) => {
                    let why = std::io::Error::from(error);
                    let warning = format!("staging below `{}` could not be removed: {why}", part.path);
                    self.report.warnings.push(warning);
                }
            }
            part.restore_mtime();
        }
        for (part, meta) in std::mem::take(&mut self.roots) {
            match meta::change(&self.parts[part].root, &meta) {
                Ok(refused) => self.warn(part, &BytePath::default(), refused),
                Err(error) => self.refuse(part, &BytePath::default(), error.into()),
            }
        }
        self.sync();
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.report),
        }
    }

    fn sync(&mut self) {
        for part in self.parts {
            if let Err(error) = part.sync() {
                self.failed.get_or_insert(error);
            }
        }
    }

    fn refuse(&mut self, part: usize, path: &BytePath, refusal: Refusal) {
        let path = self.parts[part].absolute(path);
        match refusal {
            Refusal::Conflict(why) => self.report.conflicts.push(Conflict { path, why }),
            Refusal::Kept => self.report.kept.push(path),
            Refusal::System(error) => {
                let error = AgentError::io(format!("commit of `{path}`"), &error.into());
                self.failed.get_or_insert(error);
            }
        }
    }

    fn warn(&mut self, part: usize, path: &BytePath, refused: Vec<meta::Refused>) {
        let path = self.parts[part].absolute(path);
        self.report.warnings.extend(refused.into_iter().map(|(name, error)| {
            let name = BytePath::new(name);
            format!("`{path}`: attribute `{name}`: {}", std::io::Error::from(error))
        }));
    }

    fn step(&mut self, step: Step) -> Result<(), Refusal> {
        let Step { number, part, path, action } = step;
        match action {
            Action::Put { replaces, links } => {
                self.late_links(part, links);
                self.put(part, number, &path, replaces)
            }
            Action::Link { to, replaces } => {
                self.link_live(part, &to, &single(number))?;
                self.put(part, number, &path, replaces)
            }
            Action::Remove { expect } => self.remove(part, number, &path, &expect),
            Action::RemoveDir => self.remove_dir(part, &path),
            Action::SetMeta { meta, .. } if path.is_empty() => {
                self.roots.push((part, meta));
                Ok(())
            }
            Action::SetMeta { meta, expect } => self.set_meta(part, &path, &meta, expect),
        }
    }

    fn put(
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
                let stage = &self.parts[part].stage;
                renameat_with(stage, single(number).as_bytes(), &dir, path.name(), RenameFlags::NOREPLACE)?;
                Ok(())
            }
            Some(expected) => {
                self.check(part, &dir, path.name(), &expected)?;
                self.exchange(part, number, &dir, path.name(), &expected)
            }
        }
    }

    fn remove(
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
        if expect.is_some_and(|expected| !self.touched.is_expected(part, &before, &expected)) {
            return Err(changed());
        }
        match meta::change(&fd, meta) {
            Ok(refused) => self.warn(part, path, refused),
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
        linkat(&from, to.name(), &into, staged.name(), AtFlags::empty())?;
        let after = Seen::at(&into, staged.name())?;
        self.touched.note(part, before.identity(), after.identity());
        Ok(())
    }

    /// Compares what stands at a name with the plan.
    fn check(&self, part: usize, dir: &OwnedFd, name: &[u8], expected: &Identity) -> Result<(), Refusal> {
        let now = Seen::at(dir, name)?;
        if now.is_frozen() {
            return Err(frozen());
        }
        if self.touched.is_expected(part, &now, expected) { Ok(()) } else { Err(changed()) }
    }

    /// Gives the reason for a refusal of the system, which for `chattr` says little by itself.
    pub(super) fn explain(&self, dir: &OwnedFd, name: &[u8], error: Errno) -> Refusal {
        let is_frozen = |seen: Result<Seen, Errno>| seen.is_ok_and(|seen| seen.is_frozen());
        match error {
            Errno::PERM if is_frozen(Seen::at(dir, name)) => frozen(),
            Errno::PERM if is_frozen(Seen::of(dir)) => {
                Refusal::Conflict("its directory must not be changed (`chattr`)".into())
            }
            error => error.into(),
        }
    }

    /// Whether there is nothing at a path because a directory above it is gone.
    fn is_gone(&self, part: usize, path: &BytePath) -> bool {
        let parent = path.parent().unwrap_or_default();
        matches!(open::beneath(&self.parts[part].root, parent.as_bytes(), OFlags::PATH), Err(Errno::NOENT))
    }

    /// Opens the live directory that holds `path`.
    fn dir_of(&mut self, part: usize, path: &BytePath) -> Result<Arc<OwnedFd>, Refusal> {
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

/// The refusal for what somebody changed.
pub(super) fn changed() -> Refusal {
    Refusal::Conflict("it was changed after the plan was made".into())
}

fn frozen() -> Refusal {
    Refusal::Conflict("it must not be changed (`chattr`)".into())
}
