//! Phase 1: builds everything new beside the live tree, as [`Planner`] says.
//!
//! Nothing live is changed here, not even a link count: links to live inodes are made by the commit.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, renameat, symlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::clone;
use super::origins::Origins;
use super::part::Part;
use super::plan::{Action, Step};
use super::planner::{New, Planner, Staged, single};
use super::valid;
use super::writer::{self, Job, Over, Start, Tally, What, unknown};
use crate::data::seen::Seen;
use crate::data::{delta, meta, open, walk};
use crate::proto::{AgentError, Body, CloneFrom, CloneRange, Identity, Meta, Op, Piece};

/// Staged directories that are kept open.
const OPEN_DIRS: usize = 32;

/// Smaller versions are rather copied than cloned from where somebody may write to them.
const LARGE: u64 = 64 << 10;

/// A file that waits for its content.
struct Waiting {
    part: usize,
    at: Staged,
    path: BytePath,
    meta: Meta,
    size: u64,
    made_of: MadeOf,
}

/// What a file that waits is made of, besides its pieces.
enum MadeOf {
    Nothing,
    /// The version that it replaces.
    Old(Identity),
    /// The version that it replaces, which is proven.
    Proven(Identity),
    /// Ranges of other files.
    Ranges,
}

/// Builds staging from steps and pieces.
pub(super) struct Stager<'a> {
    parts: &'a [Part],
    tally: &'a Tally,
    planner: Planner,
    /// Files seen.
    pub(super) contents: u64,
    waiting: HashMap<u32, Waiting>,
    known: HashSet<u32>,
    /// The part that content comes for whose steps come later.
    ahead: Option<usize>,
    /// Such content, with its part.
    early: HashMap<u32, usize>,
    /// What such content goes over.
    over: HashMap<u32, (BytePath, Identity)>,
    origins: Origins,
    /// Directories, with where they come to stand.
    dirs: Vec<(usize, Staged, BytePath, Meta)>,
    /// Content that is written without copy-on-write.
    in_place: HashSet<u32>,
    /// The live directory that was asked last whether its new files are, by part.
    asked: Option<(usize, BytePath, bool)>,
    /// Where the versions of each part stand in a snapshot.
    sealed: Vec<Option<OwnedFd>>,
    /// Whether the kernel clones out of there.
    crosses_mounts: bool,
    /// Staged directories that are open, by part, the last used at the end.
    open: Vec<Vec<(Staged, Arc<OwnedFd>)>>,
}

impl<'a> Stager<'a> {
    pub(super) fn new(parts: &'a [Part], tally: &'a Tally) -> Self {
        Self {
            parts,
            tally,
            planner: Planner::new(parts.len()),
            contents: 0,
            waiting: HashMap::new(),
            known: HashSet::new(),
            ahead: None,
            early: HashMap::new(),
            over: HashMap::new(),
            origins: Origins::default(),
            dirs: Vec::new(),
            in_place: HashSet::new(),
            asked: None,
            sealed: parts.iter().map(|_| None).collect(),
            crosses_mounts: clone::crosses_mounts(),
            open: parts.iter().map(|_| Vec::new()).collect(),
        }
    }

    /// Steps seen.
    pub(super) fn ops(&self) -> u64 {
        self.planner.ops
    }

    /// Takes the next step.
    pub(super) fn step(&mut self, part: usize, op: Op) -> Result<(), AgentError> {
        let Some(new) = self.planner.step(part, op)? else { return Ok(()) };
        let whole = self.parts[part].absolute(&new.path);
        self.build(part, new).map_err(|error| match error {
            Trouble::Agent(error) => error,
            Trouble::System(error) => AgentError::io(format!("staging of `{whole}`"), &error.into()),
        })
    }

    fn build(&mut self, part: usize, new: New) -> Result<(), Trouble> {
        let New { at, path, body, meta, replaces } = new;
        if let Body::File { content, size }
        | Body::Patched { content, size }
        | Body::Built { content, size }
        | Body::Proven { content, size } = body
        {
            let made_of = match (&body, replaces) {
                (Body::Patched { .. }, Some(old)) => MadeOf::Old(old),
                (Body::Built { .. }, _) => MadeOf::Ranges,
                (Body::Proven { .. }, Some(old)) if self.sealed[part].is_some() => MadeOf::Proven(old),
                (Body::Proven { .. }, _) => {
                    let text = format!("`{path}` is made of a proven version, and none is named");
                    return Err(AgentError::protocol(text).into());
                }
                _ => MadeOf::Nothing,
            };
            if !self.known.insert(content) {
                return Err(AgentError::protocol(format!("content {content} is used twice")).into());
            }
            self.contents += 1;
            if let Some(from) = self.early.remove(&content) {
                let is_announced = match made_of {
                    MadeOf::Nothing => !self.over.contains_key(&content),
                    MadeOf::Old(old) => self.over.remove(&content) == Some((path.clone(), old)),
                    MadeOf::Ranges | MadeOf::Proven(_) => false,
                };
                if from != part || !is_announced || self.tally.take_ahead(content) != Some(size) {
                    return Err(
                        AgentError::protocol(format!("content {content} is not that of its step")).into()
                    );
                }
                return Ok(self.claim(part, content, &at, &path, &meta)?);
            }
            self.waiting.insert(content, Waiting { part, at, path, meta, size, made_of });
            return Ok(());
        }
        let dir = self.dir_of(part, &at)?;
        let name = at.name();
        match body {
            Body::Dir | Body::Bare => {
                mkdirat(&dir, name, Mode::from_raw_mode(0o700))?;
                if self.is_in_place(part, &at, &path) {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    clone::write_in_place(openat(&dir, name, flags, Mode::empty())?)?;
                }
                self.dirs.push((part, at, path, meta));
                return Ok(());
            }
            Body::Symlink(target) => symlinkat(target.as_bytes(), &dir, name)?,
            Body::Fifo
            | Body::File { .. }
            | Body::Patched { .. }
            | Body::Built { .. }
            | Body::Proven { .. } => {
                mknodat(&dir, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            }
        }
        let made = openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let refused = meta::change(&made, &meta)?;
        self.tally.refused(&self.parts[part].absolute(&path), refused);
        Ok(())
    }

    /// Takes the file that came before its step to the place where it is built.
    fn claim(
        &mut self,
        part: usize,
        content: u32,
        at: &Staged,
        path: &BytePath,
        meta: &Meta,
    ) -> Result<(), Errno> {
        let dir = self.dir_of(part, at)?;
        renameat(&self.parts[part].stage, early_name(content), &dir, at.name())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let refused = meta::fresh(openat(&dir, at.name(), flags, Mode::empty())?, meta)?;
        self.tally.refused(&self.parts[part].absolute(path), refused);
        self.tally.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Says for which part the content comes whose steps come later.
    pub(super) fn set_ahead(&mut self, part: usize) -> Result<(), AgentError> {
        if part >= self.parts.len() || self.ops() > 0 {
            return Err(AgentError::protocol(format!("content of part {part} cannot come ahead")));
        }
        self.ahead = Some(part);
        Ok(())
    }

    /// Says that steps come from here on; returns whether content came before them.
    pub(super) fn end_ahead(&mut self) -> bool {
        self.ahead.take().is_some()
    }

    /// Finds out where a piece belongs.
    pub(super) fn job(&mut self, piece: Piece) -> Result<Job, AgentError> {
        if let Some(part) = self.ahead {
            return self.early_job(part, piece.content, What::Piece(piece));
        }
        Ok(Job { content: piece.content, start: self.start(piece.content)?, what: What::Piece(piece) })
    }

    /// Makes the file of a content as a clone of one that is open on this machine.
    pub(super) fn clone_of(&mut self, content: u32, from: &OwnedFd) -> Result<(), AgentError> {
        let start = self.start(content)?.ok_or_else(|| unknown(content))?;
        writer::clone_whole(&start, from, self.tally)
    }

    /// Finds out where a hole belongs.
    pub(super) fn hole(&mut self, content: u32, at: u64, end: u64) -> Result<Job, AgentError> {
        if let Some(part) = self.ahead {
            return self.early_job(part, content, What::Hole(at, end));
        }
        Ok(Job { content, start: self.start(content)?, what: What::Hole(at, end) })
    }

    /// Finds out where ranges of another file belong.
    pub(super) fn clones(
        &mut self,
        content: u32,
        from: CloneFrom,
        ranges: Vec<CloneRange>,
    ) -> Result<Job, AgentError> {
        let Some(part) = self.waiting.get(&content).map(|file| file.part).or(self.origins.part_of(content))
        else {
            return Err(unknown(content));
        };
        let start = self.start(content)?;
        let from = self.origins.open(&self.planner, self.parts, (content, part), from)?;
        Ok(Job { content, start, what: What::Clones(from, ranges) })
    }

    /// Returns whether all content that has begun is whole.
    pub(super) fn is_settled(&self) -> bool {
        let begun = self.contents - self.waiting.len() as u64;
        self.tally.files.load(Ordering::Relaxed) == begun
    }

    /// Says that a file is written without copy-on-write, before the first piece of it.
    pub(super) fn set_in_place(&mut self, content: u32) -> Result<(), AgentError> {
        let is_awaited = match self.ahead {
            Some(_) => !self.early.contains_key(&content),
            None => self.waiting.contains_key(&content),
        };
        if is_awaited && self.in_place.insert(content) { Ok(()) } else { Err(unknown(content)) }
    }

    /// Whether what is new at a path has no copy-on-write because the live directory is one whose new files have none. What is built
    /// inside of a staged directory takes after that one.
    fn is_in_place(&mut self, part: usize, at: &Staged, path: &BytePath) -> bool {
        if at.parent().is_some_and(|parent| !parent.is_empty()) {
            return false;
        }
        let dir = path.parent().unwrap_or_default();
        if let Some((of, known, is)) = &self.asked
            && (*of, known) == (part, &dir)
        {
            return *is;
        }
        let opened = match dir.is_empty() {
            true => open::beneath(&self.parts[part].root, b".", OFlags::RDONLY | OFlags::DIRECTORY),
            false => {
                open::beneath(&self.parts[part].root, dir.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)
            }
        };
        let is = opened.is_ok_and(clone::is_written_in_place);
        self.asked = Some((part, dir, is));
        is
    }

    /// Returns what is to be made before anything of this content is written, if that is the first of it.
    fn start(&mut self, content: u32) -> Result<Option<Box<Start>>, AgentError> {
        let Some(file) = self.waiting.remove(&content) else {
            return if self.known.contains(&content) { Ok(None) } else { Err(unknown(content)) };
        };
        let path = self.parts[file.part].absolute(&file.path);
        let dir = self
            .dir_of(file.part, &file.at)
            .map_err(|error| AgentError::io(format!("staging of `{path}`"), &error.into()))?;
        let is_proven = matches!(file.made_of, MadeOf::Proven(_));
        let over = match file.made_of {
            MadeOf::Nothing => Over::Nothing,
            MadeOf::Old(expected) | MadeOf::Proven(expected) => {
                self.version(file.part, &file.path, expected)?
            }
            MadeOf::Ranges => Over::Ranges,
        };
        let name = file.at.name().to_vec();
        let is_in_place = matches!(over, Over::Nothing)
            && (self.in_place.remove(&content) || self.is_in_place(file.part, &file.at, &file.path));
        let planned = Some((file.size, file.meta));
        Ok(Some(Box::new(Start { dir, name, planned, path, over, is_proven, is_in_place })))
    }

    /// Opens the version that a file is made of, in the part's snapshot if one is named.
    fn version(&self, part: usize, path: &BytePath, expected: Identity) -> Result<Over, AgentError> {
        // Staging lies on a mount of its own: where that hinders clones, large ones are made of what stands there live.
        let may_be = |_: &&OwnedFd| self.crosses_mounts || expected.size < LARGE;
        let root = self.sealed[part].as_ref().filter(may_be).unwrap_or(&self.parts[part].root);
        match delta::open_file(root, path) {
            Ok(fd) => Ok(Over::Version(fd, expected)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::INVAL) => Ok(Over::Gone),
            Err(error) => {
                let whole = self.parts[part].absolute(path);
                Err(AgentError::io(format!("the old version of `{whole}`"), &error.into()))
            }
        }
    }

    /// Says in which snapshot the versions of a part stand that others are made of. What is none is not used: then these are made
    /// of what stands there live.
    pub(super) fn set_sealed(&mut self, part: usize, root: &BytePath) -> Result<(), AgentError> {
        let Some(sealed) = self.sealed.get_mut(part).filter(|sealed| sealed.is_none()) else {
            return Err(AgentError::protocol(format!("no snapshot of part {part} is wanted")));
        };
        *sealed = open::root(root).ok().filter(|dir| walk::is_sealed(dir));
        Ok(())
    }

    /// Says what content that comes ahead of its step goes over.
    pub(super) fn set_over(
        &mut self,
        content: u32,
        path: BytePath,
        expected: Identity,
    ) -> Result<(), AgentError> {
        valid::check_path(&path)?;
        let is_new = !self.early.contains_key(&content);
        if self.ahead.is_none() || !is_new || self.over.insert(content, (path, expected)).is_some() {
            return Err(unknown(content));
        }
        Ok(())
    }

    fn early_job(&mut self, part: usize, content: u32, what: What) -> Result<Job, AgentError> {
        match self.early.insert(content, part) {
            None => {}
            Some(before) if before == part => return Ok(Job { content, start: None, what }),
            Some(_) => return Err(unknown(content)),
        }
        let Part { path, stage, .. } = &self.parts[part];
        let (dir, name) = (Arc::clone(stage), early_name(content).into_bytes());
        let (path, over) = match self.over.get(&content) {
            None => (path.clone(), Over::Nothing),
            Some((live, expected)) => (path.join(live.as_bytes()), self.version(part, live, *expected)?),
        };
        let is_in_place = self.in_place.remove(&content);
        let start = Start { dir, name, planned: None, path, over, is_proven: false, is_in_place };
        Ok(Job { content, start: Some(Box::new(start)), what })
    }

    /// Opens the staged directory that holds `at`.
    fn dir_of(&mut self, part: usize, at: &Staged) -> Result<Arc<OwnedFd>, Errno> {
        let stage = &self.parts[part].stage;
        let Some(parent) = at.parent().filter(|parent| !parent.is_empty()) else {
            return Ok(Arc::clone(stage));
        };
        let open = &mut self.open[part];
        if let Some(found) = open.iter().rposition(|(path, _)| *path == parent) {
            let dir = open.remove(found);
            let fd = Arc::clone(&dir.1);
            open.push(dir);
            return Ok(fd);
        }
        let fd = Arc::new(open::beneath(stage, parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)?);
        if open.len() >= OPEN_DIRS {
            open.remove(0);
        }
        open.push((parent, Arc::clone(&fd)));
        Ok(fd)
    }

    /// Completes staging once all content is written: links, then the metadata of directories, deepest first. Returns the
    /// steps of the commit.
    pub(super) fn finish(mut self) -> Result<Vec<Step>, AgentError> {
        if let Some(file) = self.waiting.values().next() {
            return Err(AgentError::protocol(format!("the content of `{}` never came", file.path)));
        }
        for (part, leader, staged) in std::mem::take(&mut self.planner.links) {
            let failed = |error: Errno| AgentError::io(format!("staged link `{staged}`"), &error.into());
            let from = self.dir_of(part, &leader).map_err(failed)?;
            let into = self.dir_of(part, &staged).map_err(failed)?;
            linkat(from, leader.name(), into, staged.name(), AtFlags::empty()).map_err(failed)?;
        }
        for (part, staged, path, meta) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let refused = open::beneath(&self.parts[part].stage, staged.as_bytes(), flags)
                .and_then(|dir| meta::fresh(&dir, &meta))
                .map_err(|error| AgentError::io(format!("staged directory `{staged}`"), &error.into()))?;
            self.tally.refused(&self.parts[part].absolute(&path), refused);
        }
        Ok(self.planner.into_steps())
    }

    /// Returns the inodes that stand staged for `steps`, by number.
    pub(super) fn inodes(parts: &[Part], steps: &[Step]) -> Result<Vec<(u64, u64)>, AgentError> {
        let puts = steps.iter().filter(|step| matches!(step.action, Action::Put { .. }));
        puts.map(|step| {
            let seen = Seen::at(&parts[step.part].stage, single(step.number).as_bytes())
                .map_err(|error| AgentError::io(format!("staged `{}`", step.path), &error.into()))?;
            Ok((step.number, seen.ino()))
        })
        .collect()
    }
}

/// The staged name of content that came before its step: no number of a step, and no name of ours.
fn early_name(content: u32) -> String {
    format!("early-{content}")
}

/// What stops a step from being staged.
enum Trouble {
    System(Errno),
    Agent(AgentError),
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Trouble::System(error)
    }
}

impl From<AgentError> for Trouble {
    fn from(error: AgentError) -> Self {
        Trouble::Agent(error)
    }
}
