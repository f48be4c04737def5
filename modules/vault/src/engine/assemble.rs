//! Puts trees together from a stream of entries: what is below a directory comes between its `Enter` and its `Leave`.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use pc_switcher_contract::ModuleError;

use crate::error::Result;
use crate::format::{Id, Node, NodeKind, Tree};
use crate::repo::Packer;

/// One step of the stream.
#[derive(Debug)]
pub enum Step {
    /// A directory begins.
    Enter(Node),
    /// An entry that is complete.
    Leaf(Node),
    /// The directory ends.
    Leave,
}

/// Stores each tree as soon as it is complete; holds the open ones alone.
pub struct Assembler<'p, 'w, 'r> {
    packer: &'p mut Packer<'w, 'r>,
    open: Vec<(Node, Tree)>,
    root: Tree,
    /// Every directory with its tree.
    stored: Vec<(PathBuf, Id)>,
}

impl<'p, 'w, 'r> Assembler<'p, 'w, 'r> {
    /// Begins with an empty root.
    pub fn new(packer: &'p mut Packer<'w, 'r>) -> Self {
        Self { packer, open: Vec::new(), root: Tree::default(), stored: Vec::new() }
    }

    /// Takes one step.
    ///
    /// # Errors
    /// If a tree cannot be stored.
    pub fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Enter(node) => self.open.push((node, Tree::default())),
            Step::Leaf(node) => self.push(node),
            Step::Leave => {
                if let Some((mut node, tree)) = self.open.pop() {
                    let tree = self.store(tree)?;
                    let names = self.open.iter().map(|(node, _)| &node.name).chain([&node.name]);
                    let path =
                        std::iter::once(OsStr::new("/")).chain(names.map(OsString::as_os_str)).collect();
                    self.stored.push((path, tree));
                    node.subtree = Some(tree);
                    self.push(node);
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, node: Node) {
        let tree = self.open.last_mut().map_or(&mut self.root, |(_, tree)| tree);
        tree.nodes.push(node);
    }

    fn store(&mut self, mut tree: Tree) -> Result<Id> {
        tree.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let blob = tree.to_blob().map_err(ModuleError::failed)?;
        self.packer.add(&blob)
    }

    /// Closes what is open and stores the root; returns it, and all directories that were put together with their trees.
    ///
    /// # Errors
    /// If a tree cannot be stored.
    pub fn finish(mut self) -> Result<(Id, Vec<(PathBuf, Id)>)> {
        while !self.open.is_empty() {
            self.take(Step::Leave)?;
        }
        let root = std::mem::take(&mut self.root);
        Ok((self.store(root)?, self.stored))
    }
}

/// Turns absolute paths, ordered by their components, into steps: enters and leaves what lies on the way.
pub struct Trail<F> {
    at: Vec<OsString>,
    directory: F,
}

impl<F: FnMut(&Path) -> Node> Trail<F> {
    /// Begins at the root; `directory` says what is known of a directory on the way.
    pub fn new(directory: F) -> Self {
        Self { at: Vec::new(), directory }
    }

    /// Goes to a directory.
    ///
    /// # Errors
    /// What `feed` returns.
    pub fn go(&mut self, to: &Path, feed: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
        let parts: Vec<&OsStr> = normal(to).collect();
        let common = self.at.iter().zip(&parts).take_while(|(a, b)| a.as_os_str() == **b).count();
        for _ in common..self.at.len() {
            feed(Step::Leave)?;
        }
        self.at.truncate(common);
        for part in &parts[common..] {
            self.at.push((*part).to_owned());
            let path: PathBuf =
                std::iter::once(OsStr::new("/")).chain(self.at.iter().map(OsString::as_os_str)).collect();
            let mut node = (self.directory)(&path);
            node.name = (*part).to_owned();
            node.kind = NodeKind::Dir;
            feed(Step::Enter(node))?;
        }
        Ok(())
    }

    /// Goes to a directory of which everything is known.
    ///
    /// # Errors
    /// What `feed` returns.
    fn enter(&mut self, path: &Path, node: Node, feed: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
        self.go(path.parent().unwrap_or(Path::new("/")), feed)?;
        self.at.push(node.name.clone());
        feed(Step::Enter(node))
    }
}

/// Feeds entries with absolute paths, ordered by their components, and all directories on their way; a directory among them comes
/// before what is in it, unless it comes with its tree.
///
/// # Errors
/// If a tree cannot be stored, or an entry not be had.
pub fn feed(
    assembler: &mut Assembler<'_, '_, '_>,
    entries: impl Iterator<Item = Result<(PathBuf, Node)>>,
    directory: impl FnMut(&Path) -> Node,
) -> Result<()> {
    let mut trail = Trail::new(directory);
    for entry in entries {
        let (path, node) = entry?;
        if node.kind == NodeKind::Dir && node.subtree.is_none() {
            trail.enter(&path, node, &mut |step| assembler.take(step))?;
            continue;
        }
        trail.go(path.parent().unwrap_or(Path::new("/")), &mut |step| assembler.take(step))?;
        assembler.take(Step::Leaf(node))?;
    }
    Ok(())
}

fn normal(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}
