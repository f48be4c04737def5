//! Room for machines that no death leaves behind: a file system in a file that has no name any more, mounted in a mount namespace of
//! the calling thread and of what it starts. When the last of them is gone, so are the mounts, the loop devices and the file.
#![expect(
    unsafe_code,
    reason = "a mount namespace of one's own is entered by a call that the crate calls unsafe"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::lab::error::{LabError, Result};
use crate::lab::tool::run;

/// Where it is seen, by each namespace that has one.
const PLACE: &str = "/run/pc-switcher-vm";

/// So much fits; it takes what is written.
const SIZE: u64 = 24 << 30;

/// The room; it goes with the last that holds it.
pub(super) struct Room {
    /// Its loop device ends with whoever has it open.
    _device: File,
}

impl Room {
    /// Makes it.
    pub(super) fn make() -> Result<Self> {
        // SAFETY: only the file system's namespace is parted, no table of descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(|error| LabError::io("enter a mount namespace of one's own")(error.into()))?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|error| LabError::io("keep mounts to ourselves")(error.into()))?;
        let file = tempfile::Builder::new().prefix("pc-switcher-vm").tempfile_in("/var/tmp");
        let file = file.map_err(LabError::io("make a file for machines"))?;
        file.as_file().set_len(SIZE).map_err(LabError::path("grow", file.path()))?;
        let name = run("losetup", [Path::new("--find"), Path::new("--show"), file.path()])?;
        let name = name.trim();
        let device = File::open(name).map_err(LabError::path("open", name));
        // While somebody has it open this only says that it ends with them.
        run("losetup", ["--detach", name])?;
        let device = device?;
        drop(file);
        run("mkfs.ext4", ["-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", name])?;
        fs::create_dir_all(PLACE).map_err(LabError::path("make", PLACE))?;
        run("mount", ["-o", "noatime", name, PLACE])?;
        Ok(Self { _device: device })
    }

    /// Returns a path in it.
    pub(super) fn at(&self, name: &str) -> PathBuf {
        Path::new(PLACE).join(name)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = run("umount", [PLACE]) {
            eprintln!("it goes with this process: {error}");
        }
    }
}
