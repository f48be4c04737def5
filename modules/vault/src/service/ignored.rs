//! What is not backed up: the user's patterns, `.btignore` files, restored copies, our own state and the vaults.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::View;
use crate::engine::is_unfinished;
use crate::error::{Result, usage};

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

    /// Whether a path is left out by its own name; what is inside an ignored directory is not asked about.
    pub fn ignores(&self, path: &Path, is_dir: bool) -> bool {
        let name = path.file_name().unwrap_or_default();
        if name == FILE
            || is_restored_copy(name)
            || is_unfinished(name)
            || self.never.iter().any(|never| path == never)
        {
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

/// Whether a name is one that `restore` gives: `NAME.` and a checksum, or `NAME.` twelve digits and `.btrestored`.
pub fn is_restored_copy(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let (stem, digits) = match bytes.strip_suffix(b".btrestored") {
        Some(stem) => (stem, 12),
        None => (bytes, 64),
    };
    let Some(at) = stem.len().checked_sub(digits + 1).filter(|at| *at > 0) else { return false };
    let (dot, hex) = stem[at..].split_at(1);
    dot == b"." && hex.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_copies_are_known_by_their_names() {
        let sum = "0123456789abcdef".repeat(4);
        assert!(is_restored_copy(OsStr::new(&format!("a.txt.{sum}"))));
        assert!(is_restored_copy(OsStr::new("a.txt.0123456789ab.btrestored")));
        for other in [&sum, "a.txt", "a.btrestored", &format!("a.{}", &sum[1..])] {
            assert!(!is_restored_copy(OsStr::new(other)), "{other}");
        }
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
