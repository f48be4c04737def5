//! The stage: copies of what waits for the next backup, each under its checksum.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::catalogue::FileFacts;
use crate::engine::{Observer, Sparse, Stoppable, kind_of, open, same_file, xattrs};
use crate::error::{Result, at};
use crate::format::{Id, NodeKind, Xattr};

/// What the names of copies begin with that are not complete.
const UNFINISHED: &str = ".new-";

/// The directory of the stage.
pub struct Stage {
    directory: PathBuf,
}

/// Why a file was not staged.
#[derive(Debug)]
pub enum NotStaged {
    /// The file's fault: the next one may be staged.
    File(String),
    /// The stage's fault.
    Stage(io::Error),
}

impl Stage {
    /// Opens the stage and makes it if need be.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(directory: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| at("make the directory", directory, &error))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Returns where a content lies.
    pub fn path(&self, content: Id) -> PathBuf {
        self.directory.join(content.hex())
    }

    /// Copies a file and proves that it did not change meanwhile.
    ///
    /// # Errors
    /// If it did, or cannot be read, or the copy not be written.
    pub fn add(
        &self,
        path: &Path,
        listed: &Metadata,
        observer: &dyn Observer,
    ) -> std::result::Result<(Id, FileFacts), NotStaged> {
        let unreadable = |error: io::Error| NotStaged::File(error.to_string());
        let source = open(path, listed).map_err(unreadable)?;
        let facts = facts_of(path, listed).map_err(unreadable)?;
        let mut copy = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.directory)
            .map_err(NotStaged::Stage)?;
        // A clone shares its blocks with the file and is of one instant.
        let cloned = rustix::fs::ioctl_ficlone(copy.as_file(), &source).is_ok();
        let id = if cloned {
            hash(
                Stoppable { reader: File::open(copy.path()).map_err(NotStaged::Stage)?, observer },
                &mut io::sink(),
            )?
        } else {
            hash(Stoppable { reader: &source, observer }, copy.as_file_mut())?
        };
        let after = source.metadata().map_err(unreadable)?;
        if !same_file(listed, &after) {
            return Err(NotStaged::File("changed during staging".into()));
        }
        // One that is there may be torn by a power cut; one that is whole may be settled already, which the copy is not.
        if !self.is_whole(id, observer) {
            copy.persist(self.path(id)).map_err(|error| NotStaged::Stage(error.error))?;
        }
        Ok((id, facts))
    }

    fn is_whole(&self, id: Id, observer: &dyn Observer) -> bool {
        let there = File::open(self.path(id));
        there.is_ok_and(|file| {
            hash(Stoppable { reader: file, observer }, &mut io::sink()).is_ok_and(|found| found == id)
        })
    }

    /// Makes what was staged survive a power cut.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn settle(&self) -> Result<()> {
        let settled = File::open(&self.directory).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        settled.map_err(|error| at("write", &self.directory, &error))
    }

    /// Removes what nobody waits for.
    ///
    /// # Errors
    /// If the stage cannot be read or written.
    pub fn keep_only(&self, wanted: &HashSet<Id>) -> Result<()> {
        let failed = |error: io::Error| at("tidy up", &self.directory, &error);
        for entry in self.directory.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.parse::<Id>().ok());
            // What is called otherwise is somebody's who keeps it in a directory that settings name.
            let is_unfinished = name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
            if is_unfinished || id.is_some_and(|id| !wanted.contains(&id)) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn hash(mut from: impl Read, to: &mut impl Write) -> std::result::Result<Id, NotStaged> {
    let (mut whole, mut buffer) = (Sha256::new(), vec![0; 128 << 10]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Id(whole.finalize().into())),
            Ok(read) => {
                whole.update(&buffer[..read]);
                to.write_all(&buffer[..read]).map_err(NotStaged::Stage)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(NotStaged::File(error.to_string())),
        }
    }
}

/// Returns the checksum of a file; `None` if it changed while it was read.
///
/// # Errors
/// If it cannot be read.
pub(super) fn checksum(path: &Path, listed: &Metadata, observer: &dyn Observer) -> io::Result<Option<Id>> {
    let file = open(path, listed)?;
    let sum =
        hash(Stoppable { reader: Sparse::new(&file), observer }, &mut io::sink()).map_err(
            |error| match error {
                NotStaged::File(why) => io::Error::other(why),
                NotStaged::Stage(error) => error,
            },
        )?;
    Ok(same_file(listed, &file.metadata()?).then_some(sum))
}

/// Returns what the catalogue keeps of a file.
///
/// # Errors
/// If its attributes cannot be read.
pub fn facts_of(path: &Path, facts: &Metadata) -> io::Result<FileFacts> {
    let seen = facts_seen(facts);
    let target = match seen.kind {
        NodeKind::Symlink => fs::read_link(path)?.into_os_string().into_encoded_bytes(),
        _ => Vec::new(),
    };
    Ok(FileFacts { xattrs: encode_xattrs(&xattrs(path)?), target, ..seen })
}

/// Returns what of it `stat` says: all but attributes and where a link points.
pub(super) fn facts_seen(facts: &Metadata) -> FileFacts {
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    let kind = kind_of(facts);
    let is_file = kind == NodeKind::File;
    let born = facts.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    FileFacts {
        kind,
        size: if is_file { facts.size() } else { 0 },
        permissions: facts.mode() & 0o7777,
        uid: facts.uid(),
        gid: facts.gid(),
        inode: facts.ino(),
        accessed_at: nanoseconds(facts.atime(), facts.atime_nsec()),
        modified_at: nanoseconds(facts.mtime(), facts.mtime_nsec()),
        changed_at: nanoseconds(facts.ctime(), facts.ctime_nsec()),
        born_at: born.and_then(|born| i64::try_from(born.as_nanos()).ok()),
        xattrs: Vec::new(),
        target: Vec::new(),
        device: if matches!(kind, NodeKind::Dev | NodeKind::CharDev) { facts.rdev() } else { 0 },
        links: if is_file { facts.nlink() } else { 1 },
    }
}

/// Writes attributes as the catalogue keeps them.
pub(super) fn encode_xattrs(all: &[Xattr]) -> Vec<u8> {
    if all.is_empty() { Vec::new() } else { serde_json::to_vec(all).unwrap_or_default() }
}

/// Reads attributes as the catalogue keeps them.
pub(super) fn decode_xattrs(bytes: &[u8]) -> Vec<Xattr> {
    serde_json::from_slice(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Quiet;

    #[test]
    fn what_changed_while_it_was_staged_is_not_staged_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (file, stage) = (dir.path().join("f"), Stage::open(&dir.path().join("stage")).unwrap());
        fs::write(&file, "before").unwrap();
        let listed = fs::symlink_metadata(&file).unwrap();
        fs::write(&file, "after it was listed").unwrap();
        match stage.add(&file, &listed, &Quiet::default()) {
            Err(NotStaged::File(why)) => assert_eq!(why, "changed during staging"),
            other => panic!("{other:?}"),
        }
        assert_eq!(dir.path().join("stage").read_dir().unwrap().count(), 0);
    }

    #[test]
    fn whatever_but_the_time_of_reading_changes_while_a_file_is_staged_its_copy_does_not_count() {
        use std::os::unix::fs::{PermissionsExt, chown};
        type Change = fn(&Path) -> io::Result<()>;
        let changes: [(&str, Change); 5] = [
            ("size", |path| fs::write(path, "longer than before")),
            ("mode", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600))),
            ("owner", |path| chown(path, Some(1234), None)),
            ("group", |path| chown(path, None, Some(1234))),
            ("time", |path| File::open(path)?.set_modified(std::time::UNIX_EPOCH)),
        ];
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(&dir.path().join("stage")).unwrap();
        for (what, change) in changes {
            if matches!(what, "owner" | "group") && !rustix::process::geteuid().is_root() {
                continue;
            }
            let file = dir.path().join(what);
            fs::write(&file, "the same").unwrap();
            let listed = fs::symlink_metadata(&file).unwrap();
            change(&file).unwrap();
            match stage.add(&file, &listed, &Quiet::default()) {
                Err(NotStaged::File(why)) => assert_eq!(why, "changed during staging", "{what}"),
                other => panic!("{what}: {other:?}"),
            }
            assert_eq!(dir.path().join("stage").read_dir().unwrap().count(), 0, "{what}");
        }
        let file = dir.path().join("read");
        fs::write(&file, "the same").unwrap();
        let listed = fs::symlink_metadata(&file).unwrap();
        let long_ago = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
        let before = listed.modified().unwrap();
        File::open(&file).unwrap().set_times(long_ago.set_modified(before)).unwrap();
        // Its inode changed by that as well: only a reader changes the time of reading alone.
        assert!(stage.add(&file, &listed, &Quiet::default()).is_err());
        stage.add(&file, &fs::symlink_metadata(&file).unwrap(), &Quiet::default()).unwrap();
    }

    #[test]
    fn a_file_that_fails_takes_nothing_from_one_of_the_same_content_that_waits() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(&dir.path().join("stage")).unwrap();
        let put = |name: &str| {
            let file = dir.path().join(name);
            fs::write(&file, "the same").unwrap();
            (fs::symlink_metadata(&file).unwrap(), file)
        };
        let (listed, first) = put("first");
        let (id, _) = stage.add(&first, &listed, &Quiet::default()).unwrap();
        let (listed, second) = put("second");
        File::open(&second).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(matches!(stage.add(&second, &listed, &Quiet::default()), Err(NotStaged::File(_))));
        assert_eq!(fs::read(stage.path(id)).unwrap(), b"the same");
        assert_eq!(dir.path().join("stage").read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_copy_that_a_power_cut_tore_is_replaced_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, stage) = (dir.path().join("f"), Stage::open(&dir.path().join("stage")).unwrap());
        fs::write(&file, "whole").unwrap();
        fs::write(stage.path(Id::of(b"whole")), "").unwrap();
        let listed = fs::symlink_metadata(&file).unwrap();
        let (id, _) = stage.add(&file, &listed, &Quiet::default()).unwrap();
        assert_eq!(fs::read(stage.path(id)).unwrap(), b"whole");
        assert_eq!(dir.path().join("stage").read_dir().unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn one_content_is_staged_once_and_goes_when_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(&dir.path().join("stage")).unwrap();
        let mut ids = HashSet::new();
        for name in ["a", "b"] {
            let file = dir.path().join(name);
            fs::write(&file, "the same").unwrap();
            ids.insert(stage.add(&file, &fs::symlink_metadata(&file).unwrap(), &Quiet::default()).unwrap().0);
        }
        assert_eq!(ids, HashSet::from([Id::of(b"the same")]));
        stage.keep_only(&ids).unwrap();
        assert_eq!(fs::read(stage.path(Id::of(b"the same"))).unwrap(), b"the same");
        for name in ["somebody's", ".new-abc"] {
            fs::write(dir.path().join("stage").join(name), "").unwrap();
        }
        stage.keep_only(&HashSet::new()).unwrap();
        assert!(!stage.path(Id::of(b"the same")).exists());
        let left: Vec<_> = dir.path().join("stage").read_dir().unwrap().collect();
        assert_eq!(left.len(), 1, "what is not of the stage stays: {left:?}");
    }
}
