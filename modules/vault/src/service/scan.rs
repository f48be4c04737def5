//! Lists what is in a tracked directory, without what is ignored; links are not followed, and sockets are named apart.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::ModuleError;

use super::View;
use super::ignored::Rules;
use super::source::Looks;
use crate::engine::Trouble;
use crate::error::Result;

/// What a scan could not hand on.
#[derive(Debug, Default)]
pub struct Unlisted {
    /// What could not be looked at.
    pub troubles: Vec<Trouble>,
    /// Sockets: appointments of two processes, not content.
    pub sockets: Vec<PathBuf>,
}

/// Calls `found` for each entry at or below `path`, in the order of trees: a directory before what is in it, but not `root`, which
/// is the tracked one. Not `deep`, directories inside of it are left out.
///
/// # Errors
/// What `found` returns, or if a `.btignore` is wrong.
pub fn entries(
    root: &Path,
    path: &Path,
    deep: bool,
    view: &View,
    rules: &mut Rules,
    found: &mut dyn FnMut(&Path, &Metadata) -> Result<()>,
) -> Result<Unlisted> {
    let mut scan = Scan { deep, view, rules, found, unlisted: Unlisted::default() };
    match fs::symlink_metadata(view.real(path)) {
        Ok(facts) if facts.is_dir() => {
            if path != root {
                (scan.found)(path, &facts)?;
            }
            scan.directory(path)?;
        }
        Ok(facts) => scan.leaf(path, &facts)?,
        Err(error) => scan.trouble(path, error),
    }
    Ok(scan.unlisted)
}

/// Calls `found` for each of these paths, and for what is below those of which all is looked at, as [`entries`] would.
///
/// # Errors
/// As [`entries`].
pub fn looks(
    root: &Path,
    looks: &Looks,
    view: &View,
    rules: &mut Rules,
    found: &mut dyn FnMut(&Path, &Metadata) -> Result<()>,
) -> Result<Unlisted> {
    let mut scan = Scan { deep: true, view, rules, found, unlisted: Unlisted::default() };
    for (path, deep) in looks.iter().filter(|(path, _)| path.starts_with(root)) {
        if scan.rules.begin_at(path, view)? {
            continue;
        }
        match fs::symlink_metadata(view.real(path)) {
            Ok(facts) if path != root && scan.rules.ignores(path, facts.is_dir()) => {}
            Ok(facts) if facts.is_dir() => {
                if path != root {
                    (scan.found)(path, &facts)?;
                }
                if deep {
                    scan.directory(path)?;
                }
            }
            Ok(facts) => scan.leaf(path, &facts)?,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => scan.trouble(path, error),
        }
    }
    Ok(scan.unlisted)
}

/// Entries that are handed on together, and so many of these before whoever looks waits for whoever takes them.
const TOGETHER: usize = 256;
const AHEAD: usize = 8;

/// Has `scan` look on a thread of its own, while `found` takes what it found, in the same order.
///
/// # Errors
/// What `found` returns, or `scan`.
pub fn beside(
    found: &mut dyn FnMut(&Path, &Metadata) -> Result<()>,
    scan: impl FnOnce(&mut dyn FnMut(&Path, &Metadata) -> Result<()>) -> Result<Unlisted> + Send,
) -> Result<Unlisted> {
    let (send, receive) = crossbeam_channel::bounded::<Vec<(PathBuf, Metadata)>>(AHEAD);
    std::thread::scope(|scope| {
        let scanning = scope.spawn(move || {
            let mut some = Vec::with_capacity(TOGETHER);
            let unlisted = scan(&mut |path, facts| {
                some.push((path.to_owned(), facts.clone()));
                if some.len() < TOGETHER {
                    return Ok(());
                }
                // Whoever takes them says why it does so no more.
                send.send(std::mem::take(&mut some)).map_err(|_| ModuleError::cancelled())
            })?;
            send.send(some).ok();
            Ok(unlisted)
        });
        let taken = receive.into_iter().flatten().try_for_each(|(path, facts)| found(&path, &facts));
        let unlisted = scanning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.and(unlisted)
    })
}

struct Scan<'s> {
    deep: bool,
    view: &'s View,
    rules: &'s mut Rules,
    found: &'s mut dyn FnMut(&Path, &Metadata) -> Result<()>,
    unlisted: Unlisted,
}

impl Scan<'_> {
    fn directory(&mut self, path: &Path) -> Result<()> {
        self.rules.enter(path, self.view)?;
        let names = self.view.real(path).read_dir();
        let names =
            names.and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>());
        let mut names: Vec<OsString> = names.unwrap_or_else(|error| {
            self.trouble(path, error);
            Vec::new()
        });
        names.sort();
        for name in names {
            let entry = path.join(name);
            match fs::symlink_metadata(self.view.real(&entry)) {
                Ok(facts) if self.rules.ignores(&entry, facts.is_dir()) => {}
                Ok(facts) if facts.is_dir() && self.deep => {
                    (self.found)(&entry, &facts)?;
                    self.directory(&entry)?;
                }
                Ok(facts) if facts.is_dir() => {}
                Ok(facts) => self.leaf(&entry, &facts)?,
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.trouble(&entry, error),
            }
        }
        self.rules.leave(path);
        Ok(())
    }

    fn leaf(&mut self, path: &Path, facts: &Metadata) -> Result<()> {
        if facts.file_type().is_socket() {
            self.unlisted.sockets.push(path.to_owned());
            return Ok(());
        }
        (self.found)(path, facts)
    }

    fn trouble(&mut self, path: &Path, why: impl ToString) {
        self.unlisted.troubles.push(Trouble { path: path.to_owned(), why: why.to_string() });
    }
}
