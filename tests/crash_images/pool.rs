//! Where images lie: memory → loop → XFS, in which a copy of an image is one reflink (facts/btrfs.md B86).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// The memory that images may take.
const BYTES: u64 = 3 << 30;

/// Runs a command and returns what it printed.
pub fn sh(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{program} {}`: {said}", args.join(" "));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The place of all images and mounts of one run.
pub struct Pool {
    dir: TempDir,
}

impl Pool {
    pub fn make() -> Pool {
        let pool = Pool { dir: tempfile::tempdir().unwrap() };
        for dir in ["memory", "images", "machine"] {
            fs::create_dir(pool.at(dir)).unwrap();
        }
        let (memory, images) = (pool.at("memory"), pool.at("images"));
        sh("mount", &["-t", "tmpfs", "-o", &format!("size={BYTES}"), "none", text(&memory)]);
        let file = memory.join("pool");
        File::create(&file).unwrap().set_len(BYTES).unwrap();
        sh("mkfs.xfs", &["-q", "-K", "-m", "reflink=1", text(&file)]);
        let device = attach(&file);
        sh("mount", &["-t", "xfs", "-o", "discard", &format!("/dev/{device}"), text(&images)]);
        detach(&device);
        pool
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the images lie.
    pub fn images(&self) -> PathBuf {
        self.at("images")
    }

    /// Where the machine's root is mounted.
    pub fn machine(&self) -> PathBuf {
        self.at("machine")
    }

    /// Returns a fresh directory for the trees of the source.
    pub fn source(&self) -> PathBuf {
        let source = self.images().join("source");
        let _ = fs::remove_dir_all(&source);
        fs::create_dir(&source).unwrap();
        source
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What a failed test left mounted goes with the namespace.
        for point in [self.images(), self.at("memory")] {
            let _ = Command::new("umount").arg(point).output();
        }
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Attaches an image and returns the device's name (`loop3`).
pub fn attach(image: &Path) -> String {
    // Another user of the host may have taken the same free device in between.
    for _ in 0..20 {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output().unwrap();
        if output.status.success() {
            let device = String::from_utf8(output.stdout).unwrap();
            return device.trim().trim_start_matches("/dev/").to_owned();
        }
        sleep(Duration::from_millis(50));
    }
    panic!("no loop device for `{}`", image.display());
}

/// Lets a device go with its last mount.
pub fn detach(device: &str) {
    sh("losetup", &["--detach", &format!("/dev/{device}")]);
}
