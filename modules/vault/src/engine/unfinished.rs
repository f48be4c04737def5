//! Files that a restore is writing.
//!
//! On most file systems (btrfs, ext4, XFS, tmpfs) they have no name before they are complete, so whatever ends a restore, a power cut
//! too, nothing of them is left. Others (FAT, NFS, most of FUSE) know no files without a name. There the name says what they are, and
//! whoever writes one holds a lock on it, which goes with the process. So the next restore that writes into the directory tells what is
//! left from what is being written, and removes it. A lock says nothing of processes that see another mount of the same place: the
//! name tells the mount, and what comes from another one stays, unless the file system lies on a disk of this machine alone.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, fstatfs, linkat, openat,
    renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use tempfile::TempPath;

use super::way::{Way, by_descriptor};
use crate::format::Id;

/// With this begins the name of what is unfinished; no backup takes it.
const PREFIX: &str = ".pc-switcher-restore-";
/// With this begins the name of a file while it changes places with another one, which then has it: it may be anybody's, so backups
/// take it and nobody removes it.
const ASIDE: &str = ".pc-switcher-replaced-";
/// Digits that tell a mount.
const MOUNT: usize = 16;
/// Random letters of a name.
const RANDOM: usize = 8;
/// FAT, exFAT, NTFS and overlays lie on disks of one machine, which knows all locks there. (`linux/magic.h`)
const OF_ONE_MACHINE: [u64; 4] = [0x4d44, 0x2011_bab0, 0x7366_746e, 0x794c_7630];

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct Unfinished {
    /// Locked if it has a name.
    file: File,
    name: Option<TempPath>,
}

impl Unfinished {
    /// Begins an empty one in a directory, of which what restores left there that died is removed if it may be there.
    ///
    /// # Errors
    /// If none can be made.
    pub(crate) fn begin(directory: &Way, rights: u32, swept: &Swept) -> io::Result<Self> {
        let rights = Mode::from_raw_mode(rights);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if !is_named_alone(directory)
            && let Ok(file) = openat(directory, c".", flags, rights)
        {
            return Ok(Self { file: file.into(), name: None });
        }
        swept.sweep(directory);
        match named(directory, rights, mount_of(directory).as_deref()) {
            Err(error) if error.kind() == ErrorKind::Unsupported => named(directory, rights, None),
            named => named,
        }
    }

    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// If something has that name, or it cannot be given; the file goes then.
    pub(crate) fn name(self, holder: &Way, name: &OsStr) -> io::Result<()> {
        match self.name {
            Some(unfinished) => {
                unfinished.persist_noclobber(holder.inside(name)).map_err(|error| error.error)
            }
            None => Ok(linkat(CWD, by_descriptor(&self.file), holder, name, AtFlags::SYMLINK_FOLLOW)?),
        }
    }

    /// Gives it a name under which it may change places with another file.
    ///
    /// # Errors
    /// If there is no such name; the file goes then.
    pub(crate) fn aside(self, holder: &Way) -> io::Result<(File, TempPath)> {
        let Self { file, name } = self;
        let give = |to: &Path| -> io::Result<()> {
            match &name {
                Some(from) => renameat_with(CWD, &**from, CWD, to, RenameFlags::NOREPLACE)?,
                None => linkat(CWD, by_descriptor(&file), CWD, to, AtFlags::SYMLINK_FOLLOW)?,
            }
            Ok(())
        };
        let made = tempfile::Builder::new().prefix(ASIDE).rand_bytes(RANDOM).make_in(holder.real(), give)?;
        if let Some(mut given) = name {
            given.disable_cleanup(true);
        }
        Ok((file, made.into_temp_path()))
    }
}

/// Makes a file whose name tells the mount, if it can be locked there.
fn named(directory: &Way, rights: Mode, mount: Option<&str>) -> io::Result<Unfinished> {
    let prefix = mount.map_or_else(|| PREFIX.to_owned(), |mount| format!("{PREFIX}{mount}-"));
    let make = |path: &Path| -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(openat(CWD, path, flags, rights)?);
        if mount.is_none() {
            return Ok(file);
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(path, &file) => Ok(file),
            // Who removes what is left came between: that name is gone.
            Ok(()) | Err(Errno::WOULDBLOCK) => Err(ErrorKind::AlreadyExists.into()),
            Err(_) => {
                fs::remove_file(path)?;
                Err(ErrorKind::Unsupported.into())
            }
        }
    };
    let made = tempfile::Builder::new().prefix(&prefix).rand_bytes(RANDOM).make_in(directory.real(), make)?;
    let (file, name) = made.into_parts();
    Ok(Unfinished { file, name: Some(name) })
}

fn is_at(path: &Path, file: &File) -> bool {
    let of = |facts: fs::Metadata| (facts.dev(), facts.ino());
    let is_open = |facts| file.metadata().is_ok_and(|open| of(open) == of(facts));
    fs::symlink_metadata(path).is_ok_and(is_open)
}

/// Tells the mount that a directory is seen through from all others of all machines.
fn mount_of(directory: &impl AsFd) -> Option<String> {
    let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let device = fstat(directory).ok()?.st_dev;
    let mut digits = Id::of(format!("{} {device}", start.trim()).as_bytes()).hex();
    digits.truncate(MOUNT);
    Some(digits)
}

/// Returns the mount that the name of an unfinished file tells.
fn told_by(name: &OsStr) -> Option<&str> {
    let (mount, random) = std::str::from_utf8(name.as_bytes()).ok()?.strip_prefix(PREFIX)?.split_once('-')?;
    let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_such = mount.len() == MOUNT
        && mount.bytes().all(is_hex)
        && random.len() == RANDOM
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_such.then_some(mount)
}

/// Whether a name is that of a file that a restore left unfinished.
pub(crate) fn is_unfinished(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

/// Directories in which nothing is left of restores that died.
#[derive(Debug, Clone, Default)]
pub struct Swept(Arc<Mutex<HashSet<(u64, u64)>>>);

impl Swept {
    /// Removes what is left in a directory, once. What cannot be looked at stays: nothing is wrong with a restore beside it.
    fn sweep(&self, directory: &Way) {
        let Ok(facts) = fstat(directory) else { return };
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((facts.st_dev, facts.st_ino)) {
            return;
        }
        let is_of_one_machine =
            fstatfs(directory).is_ok_and(|facts| OF_ONE_MACHINE.contains(&(facts.f_type as u64)));
        let (mount, Ok(entries)) = (mount_of(directory), fs::read_dir(directory.real())) else { return };
        for name in entries.flatten().map(|entry| entry.file_name()) {
            if told_by(&name).is_some_and(|told| is_of_one_machine || Some(told) == mount.as_deref()) {
                // Somebody else was faster, or may not.
                remove_if_dead(directory, &name).ok();
            }
        }
    }
}

/// Removes a file that nobody is writing, and nothing else.
fn remove_if_dead(directory: &Way, name: &OsStr) -> io::Result<()> {
    let looked_at = fs::symlink_metadata(directory.inside(name))?;
    let is_ours = geteuid().is_root() || looked_at.uid() == geteuid().as_raw();
    if !looked_at.is_file() || !is_ours {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    if file.metadata()?.is_file() && is_at(&directory.inside(name), &file) {
        unlinkat(directory, name, AtFlags::empty())?;
    }
    Ok(())
}

#[cfg(not(test))]
fn is_named_alone(_: &Way) -> bool {
    false
}

#[cfg(test)]
use tests::is_named_alone;
#[cfg(test)]
pub(crate) use tests::named_alone;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use rustix::fs::{StatxFlags, statx};

    use super::*;

    /// Directories that tests take for such of a file system that knows no files without a name.
    static NAMED_ALONE: Mutex<Vec<Identity>> = Mutex::new(Vec::new());

    /// The number of one that is gone another one gets: the time when they were made tells them apart.
    type Identity = (u64, u64, i64, u32);

    fn identity(directory: &Way) -> Identity {
        let facts = fstat(directory).unwrap();
        let born = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).unwrap().stx_btime;
        (facts.st_dev, facts.st_ino, born.tv_sec, born.tv_nsec)
    }

    pub(crate) fn named_alone(directory: &Way) {
        NAMED_ALONE.lock().unwrap().push(identity(directory));
    }

    pub(super) fn is_named_alone(directory: &Way) -> bool {
        NAMED_ALONE.lock().unwrap().contains(&identity(directory))
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = directory.read_dir().unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn begin(directory: &Way) -> Unfinished {
        Unfinished::begin(directory, 0o600, &Swept::default()).unwrap()
    }

    #[test]
    fn what_has_no_name_gets_one_that_nothing_has() {
        for has_name in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let way = Way::to(dir.path()).unwrap();
            if has_name {
                named_alone(&way);
            }
            let (first, second, third) = (begin(&way), begin(&way), begin(&way));
            first.as_file().write_all(b"first").unwrap();
            assert_eq!(names(dir.path()).len(), if has_name { 3 } else { 0 });
            first.name(&way, OsStr::new("f")).unwrap();
            assert_eq!(second.name(&way, OsStr::new("f")).unwrap_err().kind(), ErrorKind::AlreadyExists);
            let (_, aside) = third.aside(&way).unwrap();
            assert_eq!(names(dir.path()).len(), 2);
            drop(aside);
            assert_eq!(names(dir.path()), ["f"]);
            assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"first");
        }
    }

    /// A process of its own that has begun a file, and waits.
    const WRITER: &str = "PC_SWITCHER_TEST_WRITES_BELOW";

    #[test]
    fn a_writer_that_waits() {
        let Some(directory) = std::env::var_os(WRITER) else { return };
        let way = Way::to(Path::new(&directory)).unwrap();
        named_alone(&way);
        let file = begin(&way);
        file.as_file().write_all(b"half of it").unwrap();
        println!("\nbegun");
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let way = Way::to(dir.path()).unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine::unfinished::tests::a_writer_that_waits", "--nocapture"])
            .env(WRITER, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(writer.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap() == "begun"));
        let written = names(dir.path());
        assert_eq!(written.len(), 1);
        Swept::default().sweep(&way);
        assert_eq!(names(dir.path()), written, "somebody writes it");
        writer.kill().unwrap();
        writer.wait().unwrap();
        let swept = Swept::default();
        swept.sweep(&way);
        assert!(names(dir.path()).is_empty());
        fs::write(dir.path().join(&written[0]), "").unwrap();
        swept.sweep(&way);
        assert_eq!(names(dir.path()), written, "nobody looks twice");
    }

    #[test]
    fn nothing_is_removed_that_is_no_file_of_a_restore_through_this_mount() {
        let dir = tempfile::tempdir().unwrap();
        let way = Way::to(dir.path()).unwrap();
        let mount = mount_of(&way).unwrap();
        let put = |name: &str| fs::write(dir.path().join(name), "x").unwrap();
        let ours = format!("{PREFIX}{mount}-dead0000");
        let stays = [
            format!("{PREFIX}Ab3dEf"),
            format!("{PREFIX}{}-dead0000", "0".repeat(MOUNT)),
            format!("{PREFIX}{mount}-dead000"),
            format!("{PREFIX}{mount}-dead0000.txt"),
            format!("{PREFIX}{mount}-dead_000"),
            format!("{ASIDE}{mount}-dead0000"),
            format!("x{ours}"),
        ];
        for name in stays.iter().chain([&ours]) {
            put(name);
        }
        put("linked to");
        let (link, pipe) = (format!("{PREFIX}{mount}-link0000"), format!("{PREFIX}{mount}-pipe0000"));
        symlink("linked to", dir.path().join(&link)).unwrap();
        rustix::fs::mkfifoat(&way, pipe.as_str(), Mode::RWXU).unwrap();
        let inside = format!("{PREFIX}{mount}-inside00");
        fs::create_dir(dir.path().join(&inside)).unwrap();
        put(&format!("{inside}/{ours}"));
        let mut expected = Vec::from_iter(stays);
        expected.extend([link, pipe, inside.clone(), "linked to".into()]);
        expected.sort_unstable();
        Swept::default().sweep(&way);
        assert_eq!(names(dir.path()), expected);
        assert_eq!(names(&dir.path().join(inside)), [ours]);
    }

    #[test]
    fn a_file_is_written_while_others_sweep() {
        let dir = tempfile::tempdir().unwrap();
        let way = Way::to(dir.path()).unwrap();
        named_alone(&way);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sweeper = scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    Swept::default().sweep(&way);
                }
            });
            for number in 0..500 {
                let file = Unfinished::begin(&way, 0o600, &Swept::default()).unwrap();
                file.as_file().write_all(b"x").unwrap();
                let name = number.to_string();
                file.name(&way, name.as_ref()).unwrap();
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            sweeper.join().unwrap();
        });
        assert_eq!(names(dir.path()).len(), 500);
    }
}
