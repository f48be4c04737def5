//! Where something is restored to.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::RestoreOrder;
use crate::catalogue::{CurrentFile, Directory};
use crate::engine::{Given, Swept, Way};
use crate::error::{Result, at, usage};
use crate::format::Node;
use crate::service::ignored::copy_digits;

/// Where something is restored to: below one directory, which is opened once and left through no link.
pub(in crate::service) struct Target<'o> {
    pub(in crate::service) directory: &'o Directory,
    pub(super) order: &'o RestoreOrder,
    root: Option<Arc<Way>>,
    /// The directory in which one was opened last: most are opened beside it.
    around: Option<(PathBuf, Way)>,
    /// Directories that are dressed when all is there.
    pub(super) made: Vec<(PathBuf, Node)>,
    pub(super) swept: Swept,
}

impl<'o> Target<'o> {
    pub(super) fn new(directory: &'o Directory, order: &'o RestoreOrder) -> Self {
        Self { directory, order, root: None, around: None, made: Vec::new(), swept: Swept::default() }
    }

    /// Opens the directory below which all of it lies.
    pub(super) fn root(&mut self) -> Result<Arc<Way>> {
        if let Some(root) = &self.root {
            return Ok(root.clone());
        }
        let path = root_of(self.directory, self.order);
        // A tracked directory had no links on its way when it was tracked. What somebody puts there later is no way for root.
        let is_typed = path != self.directory.path;
        let root = Arc::new(match is_typed || !rustix::process::geteuid().is_root() {
            true => Way::to(path),
            false => Way::without_links(path),
        }?);
        self.root = Some(root.clone());
        Ok(root)
    }

    /// Opens a directory, which is made if it is missing.
    pub(super) fn directory(&mut self, path: &Path) -> Result<Way> {
        let below = self.below(path)?;
        let Some(Component::Normal(name)) = below.components().next_back() else {
            return self.root()?.down_to(below);
        };
        let above = below.parent().unwrap_or(Path::new(""));
        let around = match self.around.take() {
            Some((path, way)) if path == above => way,
            _ => self.root()?.down_to(above)?,
        };
        let (_, way) = self.around.insert((above.to_owned(), around));
        way.down_to(Path::new(name))
    }

    /// Returns a path as it is called from the root on.
    pub(super) fn below<'p>(&self, path: &'p Path) -> Result<&'p Path> {
        let below = path.strip_prefix(root_of(self.directory, self.order));
        below.map_err(|_| usage(format!("`{}` is not where it should be", path.display())))
    }

    /// Opens the directory that holds something, which is made if it is missing; returns that one's name with it.
    pub(super) fn holder<'p>(&mut self, path: &'p Path) -> Result<(Way, &'p OsStr)> {
        let directory = self.directory(path.parent().unwrap_or(Path::new("/")))?;
        Ok((directory, path.file_name().unwrap_or_default()))
    }

    /// Gives a file that was restored already another one of its names.
    pub(super) fn link(&mut self, first: &Path, place: PathBuf) -> Result<(PathBuf, Given)> {
        let ((from, name), (to, other)) = (self.holder(first)?, self.holder(&place)?);
        let linked = fs::hard_link(from.inside(name), to.inside(other));
        linked.map_err(|error| at("make", &place, &error))?;
        Ok((place, Given { was_there: false, lacking: Vec::new() }))
    }
}

/// Returns the directory below which nothing is written through a link.
pub(super) fn root_of<'o>(directory: &'o Directory, order: &'o RestoreOrder) -> &'o Path {
    order.to.as_deref().filter(|_| !order.in_place).unwrap_or(&directory.path)
}

/// Returns where a file is restored to.
pub(super) fn place_of(directory: &Directory, file: &CurrentFile, order: &RestoreOrder) -> PathBuf {
    let original = directory.path.join(&file.name);
    if order.in_place {
        return original;
    }
    if let Some(to) = &order.to {
        // A single file lands right below; a directory keeps what is below it.
        let below = original.strip_prefix(&order.path).unwrap_or(&file.name);
        return match below.as_os_str().is_empty() {
            true => to.join(original.file_name().unwrap_or_default()),
            false => to.join(below),
        };
    }
    let sum = copy_digits(&file.version);
    let mut name = OsString::from(original.file_name().unwrap_or_default());
    name.push(".");
    name.push(if order.short_name { format!("{}.btrestored", &sum[..12]) } else { sum });
    original.with_file_name(name)
}
