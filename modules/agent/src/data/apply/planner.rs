//! What the steps of a session mean: which of them build something in staging and where, and which are left for the commit.
//!
//! Nothing is touched here: staging builds what this returns, and a redo learns the same steps from the journal alone.
//!
//! A new directory is built as a whole, with all that is put or linked below it, under its final names: one rename brings
//! it in. Whatever else is put stands in staging under the number of its step.

use std::collections::HashMap;

use pc_switcher_contract::BytePath;

use super::plan::{Action, LateLink, Step};
use super::valid;
use crate::proto::{AgentError, Body, FileTime, Identity, Meta, Op};

/// A place in staging, relative to a part's staging directory.
pub(super) type Staged = BytePath;

/// Something that must be built in staging.
pub(super) struct New {
    /// Where in staging.
    pub(super) at: Staged,
    /// Where it will be, relative to the part.
    pub(super) path: BytePath,
    /// What.
    pub(super) body: Body,
    /// With which metadata.
    pub(super) meta: Meta,
    /// What stands there.
    pub(super) replaces: Option<Identity>,
}

/// Follows the steps of a session.
pub(super) struct Planner {
    /// Steps seen.
    pub(super) ops: u64,
    /// Links within staging: part, the name that leads, the other one.
    pub(super) links: Vec<(usize, Staged, Staged)>,
    steps: Vec<Step>,
    views: Vec<View>,
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
    /// The times of staged directories.
    times: HashMap<Staged, FileTime>,
    /// The steps that took inodes away.
    asides: HashMap<u64, u64>,
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

impl Planner {
    /// Begins with nothing staged.
    pub(super) fn new(parts: usize) -> Self {
        Self {
            ops: 0,
            links: Vec::new(),
            steps: Vec::new(),
            views: (0..parts).map(|_| View::default()).collect(),
        }
    }

    /// Takes the next step; returns what must be built for it.
    pub(super) fn step(&mut self, part: usize, op: Op) -> Result<Option<New>, AgentError> {
        valid::check(&op)?;
        if part >= self.views.len() {
            return Err(AgentError::protocol(format!("part {part} was not announced")));
        }
        let number = self.ops;
        self.ops += 1;
        let mut new = None;
        let (path, action) = match op {
            Op::Put { path, body, meta, replaces } => {
                let is_dir = body == Body::Dir;
                let (at, is_single) = self.place(part, number, &path, is_dir)?;
                if !is_single && replaces.is_some() {
                    return Err(AgentError::protocol(format!(
                        "`{path}` replaces something in a new directory"
                    )));
                }
                if is_dir {
                    self.views[part].times.insert(at.clone(), meta.mtime);
                }
                new = Some(New { at, path: path.clone(), body, meta, replaces });
                if !is_single {
                    return Ok(new);
                }
                (path, Action::Put { replaces, links: Vec::new() })
            }
            Op::Link { path, to, replaces } => match self.link(part, number, &path, to)? {
                Some(to) => (path, Action::Link { to, replaces }),
                None if self.views[part].below_tree(&path).is_some() => return Ok(None),
                None => (path, Action::Put { replaces, links: Vec::new() }),
            },
            Op::Remove { path, expect } => (path, Action::Remove { expect }),
            Op::RemoveDir { path } => (path, Action::RemoveDir),
            Op::SetMeta { path, meta, expect } => (path, Action::SetMeta { meta, expect }),
            Op::SetDir { path, meta, rights } => (path, Action::SetDir { meta, rights }),
            Op::Move { path, from, expect, replaces } => {
                let aside = self.views[part].asides.remove(&expect.ino);
                if aside.is_some() && replaces.is_some() {
                    return Err(AgentError::protocol(format!("`{path}` replaces what is not taken away")));
                }
                (path, Action::Move { from, aside, expect, replaces })
            }
            Op::Swap { path, with, expect, other } => (path, Action::Swap { with, expect, other }),
            Op::Aside { path, expect } => {
                self.views[part].asides.insert(expect.ino, number);
                (path, Action::Aside { expect })
            }
        };
        if self.views[part].trees.get(&path) == Some(&number) {
            self.views[part].tree_steps.insert(number, self.steps.len());
        }
        self.steps.push(Step { number, part, path, action });
        Ok(new)
    }

    /// Returns where in staging a new path stands.
    pub(super) fn find(&self, part: usize, path: &BytePath) -> Option<Staged> {
        self.views.get(part)?.find(path)
    }

    /// Returns the steps of the commit.
    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
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
                    let mtime = staged.parent().and_then(|dir| view.times.get(&dir).copied());
                    links.push(LateLink { path: path.clone(), to, staged, mtime });
                }
                Ok(None)
            }
        }
    }
}
