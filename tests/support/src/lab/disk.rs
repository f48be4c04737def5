//! The disk: filled to the brim, or dying.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, XattrFlags, fallocate, fsetxattr, fstatvfs},
    io::Errno,
};

use super::{
    error::{LabError, Result},
    machine::Machine,
};

/// Holds the space that [`Machine::fill`] takes; beside the synced folders.
const BALLAST: &str = "var/tmp/pc-switcher-lab-ballast";
const FIRST_STEP_BYTES: u64 = 1 << 30;
const LAST_STEP_BYTES: u64 = 64 << 10;
/// Attributes of one file of [`Machine::fill_metadata`], each of which takes a node of btrfs for itself, and then those
/// that fit between them.
const ATTRIBUTES: usize = 100;
const ATTRIBUTE_BYTES: [usize; 3] = [16_000, 4_000, 200];

impl Machine {
    /// Takes space until at most `leave_bytes` are free, as an ordinary user sees it.
    pub fn fill(&self, leave_bytes: u64) -> Result<()> {
        let path = self.ballast()?;
        let file =
            File::options().create(true).append(true).open(&path).map_err(LabError::path("open", &path))?;
        let os = |what: &str| {
            let what = format!("{what} the ballast of `{}`", self.hostname());
            move |error: Errno| LabError::io(what)(error.into())
        };
        let mut step = FIRST_STEP_BYTES;
        let mut length = file.metadata().map_err(LabError::path("look at", &path))?.len();
        loop {
            // btrfs counts free space anew when a transaction ends.
            rustix::fs::syncfs(&file).map_err(os("sync"))?;
            let free_bytes =
                fstatvfs(&file).map(|stat| stat.f_bavail * stat.f_frsize).map_err(os("measure"))?;
            let Some(wanted) = free_bytes.checked_sub(leave_bytes).filter(|&wanted| wanted > 0) else {
                return Ok(());
            };
            let take = wanted.min(step);
            match fallocate(&file, FallocateFlags::empty(), length, take) {
                Ok(()) => length += take,
                Err(Errno::NOSPC) if step > LAST_STEP_BYTES => step /= 4,
                Err(Errno::NOSPC) => return Ok(()),
                Err(error) => return Err(os("grow")(error)),
            }
        }
    }

    /// Takes what is left for names and small files too, once [`Machine::fill`] has left no space for anything else.
    pub fn fill_metadata(&self) -> Result<()> {
        let dir = self.metadata_ballast()?;
        std::fs::create_dir_all(&dir).map_err(LabError::path("create", &dir))?;
        for bytes in ATTRIBUTE_BYTES {
            let value = vec![b'x'; bytes];
            while self.add_attributes(&dir.join(format!("{bytes}-{}", count(&dir)?)), &value)? {}
        }
        Ok(())
    }

    /// Makes a file with many attributes; returns whether there was space for all of it.
    fn add_attributes(&self, path: &Path, value: &[u8]) -> Result<bool> {
        let is_full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
        let file = match File::create(path) {
            Err(error) if is_full(&error) => return Ok(false),
            file => file.map_err(LabError::path("create", path))?,
        };
        for number in 0..ATTRIBUTES {
            match fsetxattr(&file, format!("user.{number}"), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOSPC) => return Ok(false),
                Err(error) => return Err(LabError::path("grow", path)(error.into())),
            }
        }
        Ok(true)
    }

    /// Gives back what [`Machine::fill`] and [`Machine::fill_metadata`] took.
    pub fn unfill(&self) -> Result<()> {
        let (file, dir) = (self.ballast()?, self.metadata_ballast()?);
        for (removed, path) in [(std::fs::remove_file(&file), file), (std::fs::remove_dir_all(&dir), dir)] {
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LabError::path("remove", path)(error));
                }
                _ => {}
            }
        }
        self.sync_disk()
    }

    /// Returns how many bytes are free on the machine's disk, as an ordinary user sees it.
    pub fn free_bytes(&self) -> Result<u64> {
        let root = self.root_path()?;
        let stat =
            rustix::fs::statvfs(&root).map_err(|error| LabError::path("measure", &root)(error.into()))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Lets the disk die: every access that is not answered from memory fails, programs and network go on. A
    /// [`super::Lab::reset`] or a power cut with boot brings a disk back that has lost what was not flushed.
    pub fn disk_fail(&self) -> Result<()> {
        self.door()?;
        self.shared.hub.run(|| self.pool.shut_down())
    }

    fn ballast(&self) -> Result<PathBuf> {
        Ok(self.root_path()?.join(BALLAST))
    }

    fn metadata_ballast(&self) -> Result<PathBuf> {
        Ok(self.ballast()?.with_extension("names"))
    }
}

/// Returns how many entries a directory has.
fn count(dir: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(dir).map_err(LabError::path("list", dir))?.count())
}
