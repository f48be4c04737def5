//! Where the inodes of a tree stand, to tell what was moved in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pc_switcher_agent::proto::Moved;

/// Directories and files of one name.
pub struct Places(BTreeMap<u64, Place>);

#[derive(PartialEq)]
struct Place {
    path: PathBuf,
    parent: u64,
    is_dir: bool,
    /// A number may be given to another inode.
    made: Option<SystemTime>,
}

impl Places {
    pub fn of(root: &Path) -> Places {
        let mut places = Places(BTreeMap::new());
        places.add(root, root);
        places
    }

    fn add(&mut self, root: &Path, dir: &Path) {
        let parent = fs::symlink_metadata(dir).unwrap().ino();
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let is_dir = meta.is_dir();
            if is_dir || meta.nlink() == 1 {
                let inside = path.strip_prefix(root).unwrap().to_owned();
                let made = meta.created().ok();
                self.0.insert(meta.ino(), Place { path: inside, parent, is_dir, made });
            }
            if is_dir {
                self.add(root, &path);
            }
        }
    }

    /// Returns what stands under another name or in another directory than before.
    pub fn moved_since(&self, before: &Places) -> Vec<Moved> {
        let both = self.0.iter().filter_map(|(ino, now)| Some((before.0.get(ino)?, now)));
        let same = both.filter(|(was, now)| (was.is_dir, was.made) == (now.is_dir, now.made));
        let other = |(was, now): &(&Place, &Place)| {
            (was.parent, was.path.file_name()) != (now.parent, now.path.file_name())
        };
        let moved = same.filter(other).map(|(was, now)| Moved {
            from: was.path.as_path().into(),
            to: now.path.as_path().into(),
            is_dir: now.is_dir,
        });
        moved.collect()
    }
}
