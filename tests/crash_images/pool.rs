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
        for dir in ["memory", "images"] {
            fs::create_dir(pool.at(dir)).unwrap();
        }
        let (memory, images) = (pool.at("memory"), pool.at("images"));
        sh("mount", &["-t", "tmpfs", "-o", &format!("size={BYTES}"), "none", text(&memory)]);
        let file = memory.join("pool");
        File::create(&file).unwrap().set_len(BYTES).unwrap();
        sh("mkfs.xfs", &["-q", "-K", "-m", "reflink=1", text(&file)]);
        mount_image("xfs", ",discard", &file, &images);
        pool
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the images lie.
    pub fn images(&self) -> PathBuf {
        self.at("images")
    }

    /// Where the root of the machine of this name is mounted.
    pub fn machine(&self, name: &str) -> PathBuf {
        let root = self.at(name);
        fs::create_dir_all(&root).unwrap();
        root
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

/// Mounts an image and returns the name of its device (`loop3`), which goes with its last mount, and also if we are killed
/// before there is one.
pub fn mount_image(fs_type: &str, options: &str, image: &Path, point: &Path) -> String {
    let options = format!("loop{options}");
    let words = ["-t", fs_type, "-o", &options, text(image), text(point)];
    // Another user of the host may have taken the same free device in between.
    let is_mounted = (0..20).any(|_| {
        let done = Command::new("mount").args(words).output().unwrap().status.success();
        if !done {
            sleep(Duration::from_millis(50));
        }
        done
    });
    assert!(is_mounted, "`{}` cannot be mounted", image.display());
    let source = sh("findmnt", &["--noheadings", "--output", "SOURCE", "--mountpoint", text(point)]);
    let source = source.lines().last().unwrap();
    source.split('[').next().unwrap().trim().trim_start_matches("/dev/").to_owned()
}
