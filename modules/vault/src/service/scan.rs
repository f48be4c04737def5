//! Lists the regular files of a tracked directory, without what is ignored; links are not followed.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

use super::View;
use super::ignored::Rules;
use crate::engine::Trouble;
use crate::error::Result;

/// Calls `found` for each regular file at or below `path`, in the order of trees; returns what could not be listed.
///
/// # Errors
/// What `found` returns, or if a `.btignore` is wrong.
pub fn files(
    path: &Path,
    deep: bool,
    view: &View,
    rules: &mut Rules,
    found: &mut dyn FnMut(&Path, &Metadata) -> Result<()>,
) -> Result<Vec<Trouble>> {
    let mut scan = Scan { deep, view, rules, found, troubles: Vec::new() };
    match fs::symlink_metadata(view.real(path)) {
        Ok(facts) if facts.is_dir() => scan.directory(path)?,
        Ok(facts) if facts.is_file() => (scan.found)(path, &facts)?,
        Ok(_) => scan.trouble(path, "is no regular file"),
        Err(error) => scan.trouble(path, error),
    }
    Ok(scan.troubles)
}

struct Scan<'s> {
    deep: bool,
    view: &'s View,
    rules: &'s mut Rules,
    found: &'s mut dyn FnMut(&Path, &Metadata) -> Result<()>,
    troubles: Vec<Trouble>,
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
                Ok(facts) if facts.is_dir() && self.deep => self.directory(&entry)?,
                Ok(facts) if facts.is_file() => (self.found)(&entry, &facts)?,
                Ok(_) => {}
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.trouble(&entry, error),
            }
        }
        self.rules.leave(path);
        Ok(())
    }

    fn trouble(&mut self, path: &Path, why: impl ToString) {
        self.troubles.push(Trouble { path: path.to_owned(), why: why.to_string() });
    }
}
