//! Lists the regular files of a tracked directory, without what is ignored; links are not followed.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

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
    rules: &mut Rules,
    found: &mut dyn FnMut(&Path, &Metadata) -> Result<()>,
) -> Result<Vec<Trouble>> {
    let mut troubles = Vec::new();
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => directory(path, deep, rules, found, &mut troubles)?,
        Ok(facts) if facts.is_file() => found(path, &facts)?,
        Ok(_) => troubles.push(trouble(path, "is no regular file")),
        Err(error) => troubles.push(trouble(path, &error.to_string())),
    }
    Ok(troubles)
}

fn directory(
    path: &Path,
    deep: bool,
    rules: &mut Rules,
    found: &mut dyn FnMut(&Path, &Metadata) -> Result<()>,
    troubles: &mut Vec<Trouble>,
) -> Result<()> {
    rules.enter(path)?;
    let listed = path
        .read_dir()
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>());
    let mut entries = listed.unwrap_or_else(|error| {
        troubles.push(trouble(path, &error.to_string()));
        Vec::new()
    });
    entries.sort();
    for entry in entries {
        match fs::symlink_metadata(&entry) {
            Ok(facts) if rules.ignores(&entry, facts.is_dir()) => {}
            Ok(facts) if facts.is_dir() && deep => directory(&entry, deep, rules, found, troubles)?,
            Ok(facts) if facts.is_file() => found(&entry, &facts)?,
            Ok(_) => {}
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => troubles.push(trouble(&entry, &error.to_string())),
        }
    }
    rules.leave(path);
    Ok(())
}

fn trouble(path: &Path, why: &str) -> Trouble {
    Trouble { path: path.to_owned(), why: why.to_owned() }
}
