//! Puts a file where something is already: loses no save that falls in between, and follows no link.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::ModuleError;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::NamedTempFile;

use super::same_file;
use crate::error::{Result, at};

/// Gives a complete file the name of another one, which goes; durably. `shown` is that name for people.
///
/// # Errors
/// If that is not as it was seen any more: then it stays.
pub(crate) fn exchange(file: NamedTempFile, path: &Path, shown: &Path, seen: &Metadata) -> Result<()> {
    file.as_file().sync_all().map_err(|error| at("write", shown, &error))?;
    let now = fs::symlink_metadata(path).map_err(|error| at("read", shown, &error))?;
    if !same_file(seen, &now) {
        return Err(changed(shown));
    }
    swap(file, path, shown, seen)
}

/// Exchanges two files, and exchanges them back if another one came out than was seen.
fn swap(file: NamedTempFile, path: &Path, shown: &Path, seen: &Metadata) -> Result<()> {
    let exchange = || {
        renameat_with(CWD, file.path(), CWD, path, RenameFlags::EXCHANGE)
            .map_err(|error| at("replace", shown, &error.into()))
    };
    let came_out = || fs::symlink_metadata(file.path());
    let failed = |error: io::Error| at("replace", shown, &error);
    let own = came_out().map_err(failed)?.ino();
    exchange().map_err(|error| error.hint("without --in-place it is restored beside"))?;
    if came_out().is_ok_and(|out| same_version(seen, &out)) {
        let directory = path.parent().unwrap_or(Path::new("/"));
        return File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed);
    }
    let back = exchange();
    if back.is_ok() && came_out().is_ok_and(|out| out.ino() == own) {
        return Err(changed(shown));
    }
    // Somebody saved once more: the newest stays under its name, and what we hold is somebody's, too.
    if back.is_ok() {
        exchange().ok();
    }
    Err(kept_aside(file, shown))
}

/// Whether nothing was written; a rename itself sets the time of the last change.
fn same_version(seen: &Metadata, out: &Metadata) -> bool {
    let of = |facts: &Metadata| {
        let written = (facts.mtime(), facts.mtime_nsec(), facts.size());
        (facts.dev(), facts.ino(), written, facts.mode(), facts.uid(), facts.gid())
    };
    of(seen) == of(out)
}

fn changed(path: &Path) -> ModuleError {
    ModuleError::failed(format!("`{}` was changed while it was to be replaced; it stays", path.display()))
        .hint("restore it again")
}

fn kept_aside(file: NamedTempFile, shown: &Path) -> ModuleError {
    let place: PathBuf = shown.with_file_name(file.path().file_name().unwrap_or_default());
    let kept = file.keep().map(drop).map_err(|error| error.error.to_string());
    let shown = shown.display();
    match kept {
        Ok(()) => ModuleError::failed(format!(
            "`{shown}` was changed twice while it was to be replaced; the other version is `{}`",
            place.display()
        )),
        Err(why) => ModuleError::failed(format!("`{shown}` was changed twice while it was replaced: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn restored(directory: &Path) -> NamedTempFile {
        let mut file = NamedTempFile::new_in(directory).unwrap();
        file.write_all(b"restored").unwrap();
        file
    }

    #[test]
    fn what_was_seen_is_replaced_and_nothing_is_left_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old").unwrap();
        let seen = fs::symlink_metadata(&path).unwrap();
        exchange(restored(dir.path()), &path, &path, &seen).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"restored");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_save_that_comes_before_the_exchange_or_within_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for replace in [exchange, swap] {
            fs::write(&path, "old").unwrap();
            let seen = fs::symlink_metadata(&path).unwrap();
            fs::write(dir.path().join("saved"), "a save").unwrap();
            fs::rename(dir.path().join("saved"), &path).unwrap();
            let error = replace(restored(dir.path()), &path, &path, &seen).unwrap_err();
            assert!(error.to_string().contains("was changed while"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"a save");
            assert_eq!(dir.path().read_dir().unwrap().count(), 1);
        }
    }
}
