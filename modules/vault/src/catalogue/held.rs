//! The files of the catalogues that are open in this process.
//!
//! SQLite locks its file by `fcntl`, and such locks are of a process: closing *any* descriptor of that file gives up all of them. Then
//! another process takes itself for the last one, and takes the log away under our hands. So whoever reads the file beside SQLite
//! gets its descriptor here, and that is closed when nobody in this process has the catalogue open any more.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Device and inode.
type Inode = (u64, u64);

/// How often a file is held, and all its descriptors.
type Open = HashMap<Inode, (usize, Vec<Arc<File>>)>;

static OPEN: Mutex<Option<Open>> = Mutex::new(None);

fn open() -> MutexGuard<'static, Option<Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file of a catalogue, to be read at will.
pub(super) struct Held {
    file: Arc<File>,
    inode: Inode,
}

impl Held {
    /// Opens a file, which must be there unless it is to be made; only its owner may read it then.
    pub(super) fn open(path: &Path, make: bool) -> io::Result<Self> {
        let mut open = open();
        let file = Arc::new(OpenOptions::new().read(true).append(make).create(make).mode(0o600).open(path)?);
        // If this fails the descriptor stays open: nobody knows whose locks its end would give up.
        let facts = file.metadata().inspect_err(|_| std::mem::forget(file.clone()))?;
        let inode = (facts.dev(), facts.ino());
        let (count, files) = open.get_or_insert_default().entry(inode).or_default();
        *count += 1;
        files.push(file.clone());
        Ok(Self { file, inode })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = open();
        let Some(all) = open.as_mut() else { return };
        let Some((count, _)) = all.get_mut(&self.inode) else { return };
        *count -= 1;
        if *count == 0 {
            all.remove(&self.inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Catalogue, with};
    use super::*;

    /// Who is asked of another process: opens the catalogue, reads and ends.
    const ASKED: &str = "PC_SWITCHER_TEST_CATALOGUE";

    #[test]
    fn another_process_that_reads_takes_no_log_away_after_a_copy() {
        if let Some(path) = std::env::var_os(ASKED) {
            Catalogue::open(Path::new(&path)).unwrap().count_versions().unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue.db");
        let mut catalogue = Catalogue::open(&path).unwrap();
        catalogue.while_still(|file, _| Ok(file.metadata().unwrap())).unwrap();
        // Others in this process come and go, too.
        drop(Catalogue::open(&path).unwrap());
        drop(Catalogue::open_copy(&path, tempfile::tempdir().unwrap().path()).unwrap());
        catalogue.need_snapshot("local").unwrap();
        catalogue.begin_operation("test", "", jiff::Timestamp::UNIX_EPOCH).unwrap();
        let log =
            |path: &Path| std::fs::metadata(with(path, "-wal")).ok().map(|facts| (facts.ino(), facts.len()));
        let before = log(&path).unwrap();
        assert!(before.1 > 0, "something waits in the log");
        let name = "catalogue::held::tests::another_process_that_reads_takes_no_log_away_after_a_copy";
        let ask = || {
            let mut other = std::process::Command::new(std::env::current_exe().unwrap());
            let other = other.args([name, "--exact"]).env(ASKED, &path).output().unwrap();
            assert!(other.status.success(), "{other:?}");
        };
        ask();
        assert_eq!(log(&path).unwrap(), before, "the log is ours still");
        // What all this is for: a descriptor that is not kept.
        drop(File::open(&path).unwrap());
        ask();
        assert!(log(&path).is_none_or(|after| after.0 != before.0), "the other one took itself for the last");
    }
}
