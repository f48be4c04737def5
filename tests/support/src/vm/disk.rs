//! The disk of a machine: an image with one partition, on which is a btrfs with `@`, `@home` and `@snapshots`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::room::Room;
use crate::lab::error::{LabError, Result};
use crate::lab::tool::run;

/// The size of each disk; it takes what is written.
pub(super) const SIZE: u64 = 6 << 30;

/// Where the partition begins: before it is room for a boot loader.
const BEGIN: u64 = 1 << 20;

/// A disk that no machine has.
pub(super) struct Disk {
    pub(super) image: PathBuf,
    pub(super) uuid: String,
    point: PathBuf,
}

/// What is mounted of a disk; it goes with this.
pub struct Mounted {
    point: PathBuf,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Returns the first block of a disk with one partition, in the old form.
fn partitions() -> [u8; 512] {
    let mut block = [0; 512];
    let sectors = |bytes: u64| u32::try_from(bytes / 512).unwrap_or(u32::MAX).to_le_bytes();
    // Started from, of Linux.
    block[446] = 0x80;
    block[450] = 0x83;
    block[454..458].copy_from_slice(&sectors(BEGIN));
    block[458..462].copy_from_slice(&sectors(SIZE - BEGIN));
    block[510..].copy_from_slice(&[0x55, 0xaa]);
    block
}

impl Disk {
    /// Makes one without a system.
    pub(super) fn make(room: &Room, name: &str) -> Result<Self> {
        let uuid = "/proc/sys/kernel/random/uuid";
        let uuid = fs::read_to_string(uuid).map_err(LabError::path("read", uuid))?.trim().to_owned();
        let this = Self::at(room, name, uuid);
        File::create(&this.image)
            .and_then(|file| {
                file.set_len(SIZE)?;
                file.write_all_at(&partitions(), 0)
            })
            .map_err(LabError::path("make", &this.image))?;
        let begin = format!("--offset={BEGIN}");
        let device = run("losetup", ["--find", "--show", &begin, &text(&this.image)])?;
        let made = run("mkfs.btrfs", ["-q", "-U", &this.uuid, device.trim()]);
        run("losetup", ["--detach", device.trim()])?;
        made?;
        let top = this.mount("subvolid=5")?;
        for name in ["@", "@home", "@snapshots"] {
            run("btrfs", ["-q", "subvolume", "create", &text(&top.at(name))])?;
        }
        drop(top);
        Ok(this)
    }

    fn at(room: &Room, name: &str, uuid: String) -> Self {
        Self { image: room.at(&format!("{name}.disk")), uuid, point: room.at(&format!("{name}.mounted")) }
    }

    /// Makes another one with the same content.
    pub(super) fn copy(&self, room: &Room, name: &str) -> Result<Self> {
        let copy = Self::at(room, name, self.uuid.clone());
        run("cp", ["--sparse=always", &text(&self.image), &text(&copy.image)])?;
        Ok(copy)
    }

    /// Mounts it; no machine may run with it meanwhile.
    pub(super) fn mount(&self, options: &str) -> Result<Mounted> {
        fs::create_dir_all(&self.point).map_err(LabError::path("make", &self.point))?;
        let options = format!("loop,offset={BEGIN},{options}");
        run("mount", ["-o", &options, &text(&self.image), &text(&self.point)])?;
        Ok(Mounted { point: self.point.clone() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Otherwise it goes with the room.
        let _ = fs::remove_file(&self.image);
    }
}

impl Mounted {
    /// Returns a path in it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.point.join(path.trim_start_matches('/'))
    }

    /// Writes a file in it, and makes the directories above.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        let path = self.at(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(LabError::path("make", dir))?;
        }
        fs::write(&path, content).map_err(LabError::path("write", &path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run("umount", [&self.point]) {
            eprintln!("left mounted: {error}");
        }
    }
}
