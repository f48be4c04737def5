//! The disk: filled to the brim, or dying.

use std::{fs::File, path::PathBuf};

use rustix::{
    fs::{FallocateFlags, fallocate, fstatvfs},
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

    /// Gives back what [`Machine::fill`] took.
    pub fn unfill(&self) -> Result<()> {
        let path = self.ballast()?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(LabError::path("remove", path)(error))
            }
            _ => self.sync_disk(),
        }
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
}
