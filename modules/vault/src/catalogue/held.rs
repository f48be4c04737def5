//! The files of the catalogues that are open in this process.
//!
//! SQLite locks its file by `fcntl`, and such locks are of a process: closing *any* descriptor of that file gives up all of them. Then
//! another process may take itself for the last one, and take the log away under our hands (older versions of SQLite do). So whoever reads the file beside SQLite
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
    // Goes before the entry, which has it as well.
    file: Arc<File>,
    entry: Entry,
}

/// That somebody holds a file: the last of them closes it while nobody else can open it.
struct Entry(Inode);

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
        Ok(Self { file, entry: Entry(inode) })
    }

    /// Whether it is still the file of this path: another catalogue may have taken its place.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|facts| (facts.dev(), facts.ino()) == self.entry.0)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = open();
        let Some(all) = open.as_mut() else { return };
        let Some((count, _)) = all.get_mut(&self.0) else { return };
        *count -= 1;
        if *count == 0 {
            all.remove(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Catalogue;
    use super::*;

    /// Counts the locks on a file that processes have.
    fn locks(path: &Path) -> usize {
        let facts = std::fs::metadata(path).unwrap();
        let (dev, inode) = (facts.dev(), facts.ino());
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        let all = std::fs::read_to_string("/proc/locks").unwrap();
        let count = |file: &str| all.lines().filter(|line| line.contains(file)).count();
        // Other tests lock files of the same number on other file systems; on btrfs the device is called otherwise here.
        let is_btrfs = rustix::fs::statfs(path).unwrap().f_type == 0x9123_683e;
        if is_btrfs {
            count(&format!(":{inode} "))
        } else {
            count(&format!(" {major:02x}:{minor:02x}:{inode} "))
        }
    }

    #[test]
    fn a_file_of_which_the_place_was_taken_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let [path, other] = ["catalogue.db", "other.db"].map(|name| dir.path().join(name));
        let held = Held::open(&path, true).unwrap();
        assert!(held.is_at(&path));
        std::fs::write(&other, "").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(!held.is_at(&path));
    }

    #[test]
    fn whoever_reads_the_file_beside_sqlite_costs_it_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue.db");
        let mut catalogue = Catalogue::open(&path).unwrap();
        catalogue.begin_operation("test", "", jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(locks(&path), 1);
        catalogue.while_still(|file, _| Ok(file.metadata().unwrap())).unwrap();
        // Others in this process come and go, too.
        drop(Catalogue::open(&path).unwrap());
        drop(Catalogue::open_copy(&path, tempfile::tempdir().unwrap().path()).unwrap());
        assert_eq!(locks(&path), 1);
        drop(catalogue);
        assert_eq!(locks(&path), 0);
        // What all this is for.
        let catalogue = Catalogue::open(&path).unwrap();
        catalogue.count_versions().unwrap();
        assert_eq!(locks(&path), 1);
        drop(File::open(&path).unwrap());
        assert_eq!(locks(&path), 0);
    }
}
