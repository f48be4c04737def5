//! Nested subvolumes of a target: made empty before a sync fills them, removed when it has emptied them.
//!
//! Each is one step of the file system: a crash leaves it there or not, and what is removed was empty.

use std::fs::{self, DirBuilder, File, FileTimes};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use pc_switcher_contract::BytePath;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, openat2};

use super::btrfs::Btrfs;
use super::mounts::is_plain;
use crate::proto::{AgentError, NestedOrder};

/// Does what is asked; `false` if something stands where one was to be made, or stands in one that was to be removed.
///
/// # Errors
/// If there is no directory for it, it is another subvolume than was meant, or the disk does not let us.
pub fn run(btrfs: &dyn Btrfs, order: &NestedOrder) -> Result<bool, AgentError> {
    let (NestedOrder::Make(root) | NestedOrder::Remove { root, .. }) = order;
    let path = root.as_path();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(AgentError::protocol(format!("`{root}` cannot be a nested subvolume")));
    };
    let is_real = fs::canonicalize(parent).is_ok_and(|real| real == parent);
    if !is_plain(path) || !is_real {
        return Err(AgentError::failed(format!("`{root}` has no directory to stand in")));
    }
    let done = match order {
        NestedOrder::Make(_) => keeping_time(parent, || {
            match btrfs.make(parent, name) {
                Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                    DirBuilder::new().mode(0o700).create(path)?;
                }
                made => made?,
            }
            // Whoever owns the directory may have put a link there by now: nothing is followed.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let made = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
            Ok(fchmod(&made, Mode::from_raw_mode(0o700))?)
        }),
        NestedOrder::Remove { uuid, .. } => {
            let found = btrfs.subvolume(path).map_err(|error| failed("look at", root, &error))?;
            if found.uuid.hex() != *uuid {
                return Err(AgentError::failed(format!("`{root}` is another subvolume than was planned")));
            }
            keeping_time(parent, || btrfs.remove_empty(path))
        }
    };
    let verb = if matches!(order, NestedOrder::Make(_)) { "make" } else { "remove" };
    match done {
        Ok(()) => settle(btrfs, parent).map(|()| true).map_err(|error| failed(verb, root, &error)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => Ok(false),
        Err(error) => Err(failed(verb, root, &error)),
    }
}

/// Does something in a directory and gives it its time again: what it holds was synced with its time.
fn keeping_time(dir: &Path, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let file = File::open(dir)?;
    let before = file.metadata()?;
    act()?;
    file.set_times(FileTimes::new().set_modified(before.modified()?))
}

/// Brings a name to the disk (facts/btrfs.md B1).
fn settle(btrfs: &dyn Btrfs, dir: &Path) -> io::Result<()> {
    match btrfs.sync(dir) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => File::open(dir)?.sync_all(),
        synced => synced,
    }
}

fn failed(verb: &str, root: &BytePath, error: &io::Error) -> AgentError {
    AgentError::io(format!("cannot {verb} the nested subvolume `{root}`"), error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::linux::btrfs::KernelBtrfs;
    use crate::linux::btrfs::image::Image;

    fn make(path: &Path) -> Result<bool, AgentError> {
        run(&KernelBtrfs, &NestedOrder::Make(path.into()))
    }

    #[test]
    fn one_is_made_empty_and_roots_alone_and_its_directory_keeps_its_time() {
        let Some(image) = Image::make(256) else { return };
        image.create("@home");
        let home = image.top().join("@home");
        let time = fs::metadata(&home).unwrap().modified().unwrap();
        assert!(make(&home.join("vm")).unwrap());
        let meta = fs::metadata(home.join("vm")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(&home).unwrap().modified().unwrap(), time);
        let uuid = KernelBtrfs.subvolume(&home.join("vm")).unwrap().uuid;
        assert_ne!(uuid, KernelBtrfs.subvolume(&home).unwrap().uuid);
        assert!(!make(&home.join("vm")).unwrap(), "what stands there stays");
        assert!(make(&home.join("none/vm")).is_err());
    }

    #[test]
    fn only_an_empty_one_that_was_meant_is_removed() {
        let Some(image) = Image::make(256) else { return };
        image.create("@home");
        image.create("@home/vm");
        let root = image.top().join("@home/vm");
        fs::write(root.join("file"), "x").unwrap();
        let uuid = KernelBtrfs.subvolume(&root).unwrap().uuid.hex();
        let remove = |uuid: &str| {
            run(&KernelBtrfs, &NestedOrder::Remove { root: root.as_path().into(), uuid: uuid.into() })
        };
        assert!(remove("0").unwrap_err().message.contains("another subvolume"));
        assert!(!remove(&uuid).unwrap());
        fs::remove_file(root.join("file")).unwrap();
        assert!(remove(&uuid).unwrap());
        assert!(!root.exists());
    }

    #[test]
    fn without_btrfs_it_is_a_directory() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = fs::canonicalize(dir.path()).unwrap().join("vm");
        assert!(make(&path).unwrap() && path.is_dir());
    }
}
