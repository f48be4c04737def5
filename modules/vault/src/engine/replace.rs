//! Puts a file where something is already: loses no save that falls in between, and follows no link.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::ModuleError;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempPath;

use super::same_file;
use super::unfinished::Unfinished;
use super::way::Way;
use crate::error::{Result, at};

/// Gives a complete file the name of another one, which goes; durably. `shown` is that name for people.
///
/// # Errors
/// If that is not as it was seen any more: then it stays.
pub(crate) fn exchange(
    file: Unfinished,
    (holder, name): (&Way, &OsStr),
    shown: &Path,
    seen: &Metadata,
) -> Result<()> {
    let path = holder.inside(name);
    let (file, aside) = file.aside(holder).map_err(|error| cannot(shown, &error))?;
    // Not before it has a name: what has none is not worth to be kept to a file system.
    file.sync_all().map_err(|error| at("write", shown, &error))?;
    let now = fs::symlink_metadata(&path).map_err(|error| at("read", shown, &error))?;
    if !same_file(seen, &now) {
        return Err(changed(shown));
    }
    swap((&file, aside), &path, shown, seen)
}

/// Exchanges two files, and exchanges them back if another one came out than was seen.
fn swap((file, aside): (&File, TempPath), path: &Path, shown: &Path, seen: &Metadata) -> Result<()> {
    let exchange = || {
        renameat_with(CWD, &*aside, CWD, path, RenameFlags::EXCHANGE)
            .map_err(|error| cannot(shown, &error.into()))
    };
    let came_out = || fs::symlink_metadata(&aside);
    let failed = |error: io::Error| at("replace", shown, &error);
    let own = file.metadata().map_err(failed)?.ino();
    exchange()?;
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
    Err(kept_aside(aside, shown))
}

fn cannot(shown: &Path, error: &io::Error) -> ModuleError {
    at("replace", shown, error).hint("without --in-place it is restored beside")
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

fn kept_aside(aside: TempPath, shown: &Path) -> ModuleError {
    let place: PathBuf = shown.with_file_name(aside.file_name().unwrap_or_default());
    let kept = aside.keep().map(drop).map_err(|error| error.error.to_string());
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

    use super::super::unfinished::{Swept, named_alone};
    use super::*;

    fn restored(directory: &Way) -> Unfinished {
        let file = Unfinished::begin(directory, 0o600, &Swept::default()).unwrap();
        file.as_file().write_all(b"restored").unwrap();
        file
    }

    fn names(directory: &Path) -> usize {
        directory.read_dir().unwrap().count()
    }

    #[test]
    fn what_was_seen_is_replaced_and_nothing_is_left_beside() {
        for has_name in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (holder, path) = (Way::to(dir.path()).unwrap(), dir.path().join("f"));
            if has_name {
                named_alone(&holder);
            }
            fs::write(&path, "old").unwrap();
            let seen = fs::symlink_metadata(&path).unwrap();
            let file = restored(&holder);
            assert_eq!(names(dir.path()), 1 + usize::from(has_name));
            exchange(file, (&holder, OsStr::new("f")), &path, &seen).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"restored");
            assert_eq!(names(dir.path()), 1);
        }
    }

    #[test]
    fn a_save_that_comes_before_the_exchange_or_within_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (holder, path) = (Way::to(dir.path()).unwrap(), dir.path().join("f"));
        let within = |file: Unfinished, (holder, _): (&Way, &OsStr), shown: &Path, seen: &Metadata| {
            let (file, aside) = file.aside(holder).unwrap();
            swap((&file, aside), shown, shown, seen)
        };
        for is_within in [false, true] {
            fs::write(&path, "old").unwrap();
            let seen = fs::symlink_metadata(&path).unwrap();
            fs::write(dir.path().join("saved"), "a save").unwrap();
            fs::rename(dir.path().join("saved"), &path).unwrap();
            let (file, to) = (restored(&holder), (&holder, OsStr::new("f")));
            let replaced =
                if is_within { within(file, to, &path, &seen) } else { exchange(file, to, &path, &seen) };
            let error = replaced.unwrap_err();
            assert!(error.to_string().contains("was changed while"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"a save");
            assert_eq!(names(dir.path()), 1);
        }
    }
}
