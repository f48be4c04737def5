//! Writing a file of the machine: it is there as a whole or not at all.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fsync, openat, openat2,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::mounts::is_plain;
use crate::proto::{AgentError, PutFile};
use crate::server::Call;

/// Makes the names of unfinished files differ.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// How many names are tried for an unfinished file before giving up.
const TRIES: u32 = 64;

/// Writes the uploads of a call to a file, in place of what was there.
///
/// # Errors
/// If the path is not plain and absolute, leads through a symbolic link or to a directory, if writing fails or the
/// caller gives up; then the old file, if any, is untouched.
pub fn run(request: &PutFile, call: &Call) -> Result<(), AgentError> {
    let path = &request.path;
    let (Some(parent), true) = (path.parent(), is_plain(path.as_path()) && path.as_bytes() != b"/") else {
        return Err(AgentError::protocol(format!("`{path}` is not a plain absolute path of a file")));
    };
    let (uid, gid) = request.owner.unwrap_or((0, 0));
    // All ones mean "leave as it is" to the kernel.
    if uid == u32::MAX || gid == u32::MAX || request.mode > 0o7777 {
        return Err(AgentError::protocol(format!("`{path}` cannot have that owner or mode")));
    }
    let failed = |error: io::Error| AgentError::io(format!("cannot write `{path}`"), &error);
    let kernel = |error: Errno| failed(error.into());

    let parent = if parent.is_empty() { "/".into() } else { parent };
    let dir = openat2(
        CWD,
        parent.as_path(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|error| match error {
        Errno::LOOP => {
            AgentError::failed(format!("cannot write `{path}`: `{parent}` leads through a symbolic link"))
        }
        error => kernel(error),
    })?;
    let refuse_directory = || match statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
            Err(AgentError::failed(format!("cannot write `{path}`: it is a directory")))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(kernel(error)),
    };
    refuse_directory()?;

    let (mut unfinished, file) = Unfinished::make(&dir).map_err(kernel)?;
    let mut file = std::fs::File::from(file);
    while let Some(bytes) = call.next_upload()? {
        file.write_all(&bytes).map_err(failed)?;
    }
    // The owner first: changing it takes set-user-id bits away.
    fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(kernel)?;
    fchmod(&file, Mode::from_raw_mode(request.mode)).map_err(kernel)?;
    file.sync_all().map_err(failed)?;
    refuse_directory()?;
    if call.is_cancelled() {
        return Err(AgentError::cancelled());
    }
    renameat(&dir, unfinished.name.as_str(), &dir, path.name()).map_err(kernel)?;
    unfinished.done = true;
    fsync(&dir).map_err(kernel)
}

/// A file that is removed again unless it is done.
struct Unfinished<'a> {
    dir: &'a OwnedFd,
    name: String,
    done: bool,
}

impl<'a> Unfinished<'a> {
    fn make(dir: &'a OwnedFd) -> Result<(Self, OwnedFd), Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut tries = 0;
        loop {
            let name =
                format!(".pc-switcher-{}-{}.new", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            match openat(dir, name.as_str(), flags, Mode::from_raw_mode(0o600)) {
                // Left by an agent that died with the same process id.
                Err(Errno::EXIST) if tries < TRIES => tries += 1,
                opened => return opened.map(|file| (Self { dir, name, done: false }, file)),
            }
        }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = unlinkat(self.dir, self.name.as_str(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use pc_switcher_contract::BytePath;

    use super::*;

    fn put(path: &Path, mode: u32, parts: &[&[u8]]) -> Result<(), AgentError> {
        let owner = Some((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
        let (call, _seen) = Call::for_test(parts.iter().map(|part| part.to_vec()).collect());
        run(&PutFile { path: BytePath::from(path), mode, owner }, &call)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A folder whose path holds no symbolic link.
    fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    #[test]
    fn content_and_mode_are_as_asked_and_nothing_else_is_left() {
        let (_keep, dir) = folder();
        let path = dir.join("f");
        put(&path, 0o640, &[b"one ", b"two"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        put(&path, 0o4755, &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o4755);
        assert_eq!(names(&dir), ["f"]);
    }

    #[test]
    fn a_symbolic_link_is_replaced_not_followed_and_none_is_passed() {
        let (_keep, dir) = folder();
        fs::create_dir(dir.join("real")).unwrap();
        fs::write(dir.join("victim"), "old").unwrap();
        symlink("victim", dir.join("link")).unwrap();
        symlink("real", dir.join("way")).unwrap();
        put(&dir.join("link"), 0o600, &[b"new"]).unwrap();
        assert!(fs::symlink_metadata(dir.join("link")).unwrap().is_file());
        assert_eq!(fs::read(dir.join("victim")).unwrap(), b"old");
        let error = put(&dir.join("way/f"), 0o600, &[b"x"]).unwrap_err();
        assert!(error.message.ends_with("leads through a symbolic link"), "{error}");
        assert!(names(&dir.join("real")).is_empty());
    }

    #[test]
    fn directories_and_odd_paths_are_refused() {
        let (_keep, dir) = folder();
        fs::create_dir(dir.join("d")).unwrap();
        let error = put(&dir.join("d"), 0o600, &[b"x"]).unwrap_err();
        assert!(error.message.ends_with("it is a directory"), "{error}");
        for path in ["f", "", "/", "/tmp/../f", "/tmp/f/"] {
            assert!(put(Path::new(path), 0o600, &[]).is_err(), "{path}");
        }
        assert!(put(&dir.join("f"), 0o100_600, &[]).is_err());
        assert!(put(&dir.join("missing/f"), 0o600, &[]).is_err());
        assert_eq!(names(&dir), ["d"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_no_other() {
        let (_keep, dir) = folder();
        let path = dir.join("f");
        fs::write(&path, "old").unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        let fd = OwnedFd::from(fs::File::open(&dir).unwrap());
        let (unfinished, _file) = Unfinished::make(&fd).unwrap();
        assert_eq!(names(&dir).len(), 2);
        drop(unfinished);
        assert_eq!((names(&dir), fs::metadata(&path).unwrap().ino()), (vec!["f".to_owned()], before));
    }
}
