//! Phase 1: builds everything new beside the live tree.
//!
//! A new directory is built as a whole, with all that is put or linked below it, under its final names: one rename brings
//! it in. Whatever else is put stands in staging under the number of its step. Nothing live is changed here, not even a link
//! count: links to live inodes are made by the commit.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::part::Part;
use super::plan::{Action, LateLink, Step};
use super::valid;
use super::writer::{Job, Start, Tally, unknown};
use crate::data::seen::Seen;
use crate::data::{meta, open};
use crate::proto::{AgentError, Body, Meta, Op, Piece};

/// Staged directories that are kept open.
const OPEN_DIRS: usize = 32;

/// A place in staging, relative to a part's staging directory.
type Staged = BytePath;

/// A file that waits for its content.
struct Waiting {
    part: usize,
    at: Staged,
    path: BytePath,
    meta: Meta,
    size: u64,
}

/// Builds staging from steps and pieces.
pub(super) struct Stager<'a> {
    parts: &'a [Part],
    tally: &'a Tally,
    /// Steps seen.
    pub(super) ops: u64,
    /// Files seen.
    pub(super) contents: u64,
    steps: Vec<Step>,
    waiting: HashMap<u32, Waiting>,
    known: HashSet<u32>,
    views: Vec<View>,
    dirs: Vec<(usize, Staged, Meta)>,
    links: Vec<(usize, Staged, Staged)>,
}

/// What staging holds of one part.
#[derive(Default)]
struct View {
    /// New directories by their path, with the number of their step.
    trees: HashMap<BytePath, u64>,
    /// Everything else that is put, likewise.
    singles: HashMap<BytePath, u64>,
    /// Names that the commit links, and the live name they are linked to.
    aliases: HashMap<BytePath, BytePath>,
    /// Where in the list of steps a tree's step stands.
    tree_steps: HashMap<u64, usize>,
    /// Staged directories that are open, the last used at the end.
    open: Vec<(Staged, Arc<OwnedFd>)>,
}

impl View {
    /// Where in staging `path` is or would be built, if it lies below a new directory.
    fn below_tree(&self, path: &BytePath) -> Option<(u64, Staged)> {
        let bytes = path.as_bytes();
        if self.trees.is_empty() {
            return None;
        }
        let slashes = (0..bytes.len()).rev().filter(|at| bytes[*at] == b'/');
        slashes.map(|at| (at, BytePath::new(&bytes[..at]))).find_map(|(at, above)| {
            let number = *self.trees.get(&above)?;
            Some((number, single(number).join(&bytes[at + 1..])))
        })
    }

    /// Where in staging `path` stands, if it is new.
    fn find(&self, path: &BytePath) -> Option<Staged> {
        let own = self.singles.get(path).or_else(|| self.trees.get(path));
        own.map(|number| single(*number)).or_else(|| self.below_tree(path).map(|(_, staged)| staged))
    }
}

/// The staged name of a step.
pub(super) fn single(number: u64) -> Staged {
    number.to_string().as_str().into()
}

impl<'a> Stager<'a> {
    pub(super) fn new(parts: &'a [Part], tally: &'a Tally) -> Self {
        Self {
            parts,
            tally,
            ops: 0,
            contents: 0,
            steps: Vec::new(),
            waiting: HashMap::new(),
            known: HashSet::new(),
            views: parts.iter().map(|_| View::default()).collect(),
            dirs: Vec::new(),
            links: Vec::new(),
        }
    }

    /// Takes the next step.
    pub(super) fn step(&mut self, part: usize, op: Op) -> Result<(), AgentError> {
        valid::check(&op)?;
        let number = self.ops;
        self.ops += 1;
        let (path, action) = match op {
            Op::Put { path, body, meta, replaces } => {
                let is_dir = body == Body::Dir;
                let (staged, is_single) = self.place(part, number, &path, is_dir)?;
                if !is_single && replaces.is_some() {
                    return Err(AgentError::protocol(format!(
                        "`{path}` replaces something in a new directory"
                    )));
                }
                let whole = self.parts[part].absolute(&path);
                self.build(part, staged, body, meta, &path).map_err(|error| match error {
                    Trouble::Agent(error) => error,
                    Trouble::System(error) => AgentError::io(format!("staging of `{whole}`"), &error.into()),
                })?;
                if !is_single {
                    return Ok(());
                }
                (path, Action::Put { replaces, links: Vec::new() })
            }
            Op::Link { path, to, replaces } => match self.link(part, number, &path, to)? {
                Some(to) => (path, Action::Link { to, replaces }),
                None if self.views[part].below_tree(&path).is_some() => return Ok(()),
                None => (path, Action::Put { replaces, links: Vec::new() }),
            },
            Op::Remove { path, expect } => (path, Action::Remove { expect }),
            Op::RemoveDir { path } => (path, Action::RemoveDir),
            Op::SetMeta { path, meta, expect } => (path, Action::SetMeta { meta, expect }),
        };
        if self.views[part].trees.get(&path) == Some(&number) {
            self.views[part].tree_steps.insert(number, self.steps.len());
        }
        self.steps.push(Step { number, part, path, action });
        Ok(())
    }

    /// Finds the place of a new path and claims it; true if it stands by itself.
    fn place(
        &mut self,
        part: usize,
        number: u64,
        path: &BytePath,
        is_dir: bool,
    ) -> Result<(Staged, bool), AgentError> {
        let view = &mut self.views[part];
        if view.singles.contains_key(path) || view.trees.contains_key(path) {
            return Err(AgentError::protocol(format!("`{path}` is put twice")));
        }
        if let Some((_, staged)) = view.below_tree(path) {
            return Ok((staged, false));
        }
        let claimed = if is_dir { &mut view.trees } else { &mut view.singles };
        claimed.insert(path.clone(), number);
        Ok((single(number), true))
    }

    fn build(
        &mut self,
        part: usize,
        at: Staged,
        body: Body,
        meta: Meta,
        path: &BytePath,
    ) -> Result<(), Trouble> {
        if let Body::File { content, size } = body {
            if !self.known.insert(content) {
                return Err(AgentError::protocol(format!("content {content} is used twice")).into());
            }
            self.contents += 1;
            self.waiting.insert(content, Waiting { part, at, path: path.clone(), meta, size });
            return Ok(());
        }
        let dir = self.dir_of(part, &at)?;
        let name = at.name();
        match body {
            Body::Dir => {
                mkdirat(&dir, name, Mode::from_raw_mode(0o700))?;
                self.dirs.push((part, at, meta));
                return Ok(());
            }
            Body::Symlink(target) => symlinkat(target.as_bytes(), &dir, name)?,
            Body::Fifo | Body::File { .. } => {
                mknodat(&dir, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            }
        }
        let made = openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let refused = meta::change(&made, &meta)?;
        self.tally.refused(&self.parts[part].absolute(path), refused);
        Ok(())
    }

    /// Notes a link. Returns the live name it must be linked to by a step of its own, if there is one.
    fn link(
        &mut self,
        part: usize,
        number: u64,
        path: &BytePath,
        to: BytePath,
    ) -> Result<Option<BytePath>, AgentError> {
        let to = self.views[part].aliases.get(&to).cloned().unwrap_or(to);
        let below = self.views[part].below_tree(path);
        match self.views[part].find(&to) {
            Some(leader) => {
                let (staged, _) = self.place(part, number, path, false)?;
                self.links.push((part, leader, staged));
                Ok(None)
            }
            None => {
                let view = &mut self.views[part];
                view.aliases.insert(path.clone(), to.clone());
                let Some((tree, staged)) = below else { return Ok(Some(to)) };
                let step = view.tree_steps.get(&tree).and_then(|at| self.steps.get_mut(*at));
                if let Some(Step { action: Action::Put { links, .. }, .. }) = step {
                    links.push(LateLink { path: path.clone(), to, staged });
                }
                Ok(None)
            }
        }
    }

    /// Finds out where a piece belongs.
    pub(super) fn job(&mut self, piece: Piece) -> Result<Job, AgentError> {
        let Some(file) = self.waiting.remove(&piece.content) else {
            return if self.known.contains(&piece.content) {
                Ok(Job { piece, start: None })
            } else {
                Err(unknown(piece.content))
            };
        };
        let path = self.parts[file.part].absolute(&file.path);
        let dir = self
            .dir_of(file.part, &file.at)
            .map_err(|error| AgentError::io(format!("staging of `{path}`"), &error.into()))?;
        let start = Start { dir, name: file.at.name().to_vec(), meta: file.meta, size: file.size, path };
        Ok(Job { piece, start: Some(Box::new(start)) })
    }

    /// Opens the staged directory that holds `at`.
    fn dir_of(&mut self, part: usize, at: &Staged) -> Result<Arc<OwnedFd>, Errno> {
        let stage = &self.parts[part].stage;
        let Some(parent) = at.parent().filter(|parent| !parent.is_empty()) else {
            return Ok(Arc::clone(stage));
        };
        let open = &mut self.views[part].open;
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
        for (part, leader, staged) in std::mem::take(&mut self.links) {
            let failed = |error: Errno| AgentError::io(format!("staged link `{staged}`"), &error.into());
            let from = self.dir_of(part, &leader).map_err(failed)?;
            let into = self.dir_of(part, &staged).map_err(failed)?;
            linkat(from, leader.name(), into, staged.name(), AtFlags::empty()).map_err(failed)?;
        }
        for (part, staged, meta) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let refused = open::beneath(&self.parts[part].stage, staged.as_bytes(), flags)
                .and_then(|dir| meta::fresh(&dir, &meta))
                .map_err(|error| AgentError::io(format!("staged directory `{staged}`"), &error.into()))?;
            self.tally.refused(&staged, refused);
        }
        Ok(self.steps)
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
