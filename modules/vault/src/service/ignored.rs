//! What is not backed up: the user's patterns, `.btignore` files, restored copies, our own state and the vaults.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::{Service, View};
use crate::catalogue::{Directory, Version};
use crate::engine::is_unfinished;
use crate::error::{Result, usage};
use crate::format::{Id, NodeKind};

/// The file with patterns for what is beside and below it.
pub const FILE: &str = ".btignore";

/// The rules of one tracked directory; grows and shrinks with the walk.
pub struct Rules {
    root: PathBuf,
    never: Vec<PathBuf>,
    general: Gitignore,
    below: Vec<(PathBuf, Gitignore)>,
}

impl Rules {
    /// Prepares the rules of a tracked directory; `never` are absolute paths that no rule brings back.
    ///
    /// # Errors
    /// If a pattern is wrong.
    pub fn new(root: &Path, patterns: &[String], never: Vec<PathBuf>) -> Result<Self> {
        let mut builder = GitignoreBuilder::new(root);
        for pattern in patterns {
            let added = builder.add_line(None, pattern);
            added.map_err(|error| {
                usage(format!("`{pattern}` in `ignore` of [vault] is not right: {error}"))
            })?;
        }
        let general =
            builder.build().map_err(|error| usage(format!("`ignore` of [vault] is not right: {error}")))?;
        Ok(Self { root: root.to_owned(), never, general, below: Vec::new() })
    }

    /// Reads what a directory says of itself, on the way down.
    ///
    /// # Errors
    /// If a pattern is wrong, with its line.
    pub fn enter(&mut self, directory: &Path, view: &View) -> Result<()> {
        let file = directory.join(FILE);
        let real = view.real(&file);
        if real.is_file() {
            let wrong = |error: ignore::Error| usage(format!("`{}`: {error}", file.display()));
            let mut builder = GitignoreBuilder::new(directory);
            if let Some(error) = builder.add(&real) {
                return Err(wrong(error));
            }
            let rules = builder.build().map_err(wrong)?;
            self.below.push((directory.to_owned(), rules));
        }
        Ok(())
    }

    /// Forgets what a directory said, on the way up.
    pub fn leave(&mut self, directory: &Path) {
        if self.below.last().is_some_and(|(of, _)| of == directory) {
            self.below.pop();
        }
    }

    /// Reads what the directories from the root down to the one of `path` say.
    ///
    /// # Errors
    /// As [`Rules::enter`].
    pub fn enter_down_to(&mut self, path: &Path, view: &View) -> Result<()> {
        let mut directories: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        directories.retain(|directory| directory.starts_with(&self.root));
        directories.iter().rev().try_for_each(|directory| self.enter(directory, view))
    }

    /// As [`Rules::enter_down_to`], after whatever was entered before; returns whether one of these directories is left out.
    ///
    /// # Errors
    /// As [`Rules::enter`].
    pub fn begin_at(&mut self, path: &Path, view: &View) -> Result<bool> {
        self.below.clear();
        let mut directories: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        directories.retain(|directory| directory.starts_with(&self.root));
        for directory in directories.iter().rev() {
            if *directory != self.root && self.ignores(directory, true) {
                return Ok(true);
            }
            self.enter(directory, view)?;
        }
        Ok(false)
    }

    /// Whether a path is left out by its own name; what is inside an ignored directory is not asked about.
    pub fn ignores(&self, path: &Path, is_dir: bool) -> bool {
        let name = path.file_name().unwrap_or_default();
        if name == FILE || is_unfinished(name) || self.never.iter().any(|never| path == never) {
            return true;
        }
        let nearest = self.below.iter().rev().map(|(_, rules)| rules).chain([&self.general]);
        for rules in nearest {
            match rules.matched(path, is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

/// Returns what a name says that `restore` gives, `NAME.` and a checksum, or `NAME.` twelve digits and `.btrestored`: the name of the
/// original and the digits. Only the catalogue knows whether there is such a version.
pub fn copy_of(name: &OsStr) -> Option<(&OsStr, &str)> {
    let bytes = name.as_bytes();
    let (stem, digits) = match bytes.strip_suffix(b".btrestored") {
        Some(stem) => (stem, 12),
        None => (bytes, 64),
    };
    let at = stem.len().checked_sub(digits + 1).filter(|at| *at > 0)?;
    let (stem, sum) = (&stem[..at], stem[at..].strip_prefix(b".")?);
    let is_hex = sum.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let sum = std::str::from_utf8(sum).ok().filter(|_| is_hex)?;
    Some((OsStr::from_bytes(stem), sum))
}

impl Service {
    /// Whether something is a copy that `restore` made beside its original: that has a version of this checksum.
    pub(super) fn is_restored_copy(&self, directory: &Directory, name: &Path) -> Result<bool> {
        let Some((stem, digits)) = name.file_name().and_then(copy_of) else { return Ok(false) };
        let original = self.catalogue.find_file_by_path(directory, &name.with_file_name(stem))?;
        let Some(original) = original else { return Ok(false) };
        let versions = self.catalogue.find_file_snapshots_for_file(&original)?;
        Ok(versions.iter().any(|version| copy_digits(version).starts_with(digits)))
    }
}

/// Returns the checksum in the name of a copy: a link, which has no content, is told apart by where it points.
pub(super) fn copy_digits(version: &Version) -> String {
    match version.facts.kind {
        NodeKind::Symlink => Id::of(&version.facts.target).hex(),
        _ => version.content_id.hex(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, back_up, stage};
    use super::*;
    use crate::engine::Quiet;

    #[test]
    fn names_of_restored_copies_say_of_what() {
        let sum = "0123456789abcdef".repeat(4);
        let copy =
            |name: &str| copy_of(OsStr::new(name)).map(|(stem, sum)| (stem.to_owned(), sum.to_owned()));
        assert_eq!(copy(&format!("a.txt.{sum}")), Some(("a.txt".into(), sum.clone())));
        assert_eq!(copy("a.0123456789ab.btrestored"), Some(("a".into(), "0123456789ab".into())));
        for other in [&sum, "a.txt", "a.btrestored", &format!("a.{}", &sum[1..]), &format!(".{sum}")] {
            assert_eq!(copy(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_only_called_like_a_copy_is_backed_up_and_a_copy_is_not() {
        let mut world = World::new();
        let docs = world.home.path().join("docs");
        let sum = |text: &str| Id::of(text.as_bytes()).hex();
        let (copy, short) = (format!("a.{}", sum("one")), format!("a.{}.btrestored", &sum("one")[..12]));
        let others = [format!("a.{}", sum("two")), format!("b.{}", sum("one"))];
        std::fs::write(docs.join("a"), "one").unwrap();
        world.now(|service| stage(service).and_then(|()| back_up(service)));
        for name in [&copy, &short, &others[0], &others[1]] {
            std::fs::write(docs.join(name), "x").unwrap();
        }
        world.hour += 1;
        world.now(|service| {
            let status = service.status(&docs, true, false)?.0;
            let listed: Vec<&str> = status.iter().map(|one| one.path.as_str()).collect();
            let mut expected = vec!["a", &others[0], &others[1]];
            expected.sort_unstable();
            assert_eq!(listed, expected);
            assert!(service.add(&docs.join(&copy), true, &Quiet::default()).is_err());
            assert_eq!(service.add(&docs, true, &Quiet::default())?.staged, 2);
            Ok(())
        });
    }

    #[test]
    fn a_directory_overrules_what_is_said_above_it_but_not_what_is_never_backed_up() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir(root.join("sub")).unwrap();
        std::fs::write(root.join(".btignore"), "*.log\n").unwrap();
        std::fs::write(root.join("sub/.btignore"), "!keep.log\n").unwrap();
        let never = vec![root.join("sub/state")];
        let mut rules = Rules::new(root, &["*.tmp".into(), "!state".into()], never).unwrap();
        rules.enter_down_to(&root.join("sub/x"), &View::default()).unwrap();
        let ignored = |name: &str| rules.ignores(&root.join(name), false);
        assert!(ignored("sub/a.log") && ignored("a.tmp") && ignored("sub/state") && ignored(".btignore"));
        assert!(!ignored("sub/keep.log") && !ignored("a.txt"));
        assert!(Rules::new(root, &["[z-a]".into()], Vec::new()).is_err());
    }
}
