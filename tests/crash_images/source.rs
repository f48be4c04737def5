//! The machine that is the source: a btrfs with the parts as subvolumes, and read-only snapshots of them as of the last sync and as
//! of this one.

use std::fs::{self, File};
use std::path::PathBuf;

use super::machine::{gone, seal, unmount};
use super::pool::{Pool, mount_image, sh, text};

const DISK_BYTES: u64 = 320 << 20;

/// A source, gone with all that it had when it is dropped.
pub struct Source {
    image: PathBuf,
    root: PathBuf,
    device: String,
}

impl Source {
    /// Makes one with these parts, which are empty.
    pub fn make(pool: &Pool, parts: &[&str]) -> Source {
        let (image, root) = (pool.images().join("source"), pool.machine("source"));
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        sh("mkfs.btrfs", &["--quiet", text(&image)]);
        let device = mount_image("btrfs", "", &image, &root);
        let source = Source { image, root, device };
        for part in parts {
            sh("btrfs", &["subvolume", "create", text(&source.live(part))]);
        }
        source
    }

    /// Where people work on a part.
    pub fn live(&self, part: &str) -> PathBuf {
        self.root.join(part)
    }

    /// The part as both machines had it after their last sync.
    pub fn then(&self, part: &str) -> PathBuf {
        self.root.join(format!("{part}-then"))
    }

    /// The part as it is synced.
    pub fn now(&self, part: &str) -> PathBuf {
        self.root.join(format!("{part}-now"))
    }

    /// Takes the set of the last sync.
    pub fn seal_then(&self, part: &str) {
        seal(&self.live(part), &self.then(part));
    }

    /// Takes the set of this one.
    pub fn seal_now(&self, part: &str) {
        seal(&self.live(part), &self.now(part));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        unmount(&self.root);
        gone(&self.device, &self.image);
        let _ = fs::remove_file(&self.image);
    }
}
