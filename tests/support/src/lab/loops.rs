//! The host's loop devices, told apart by the name of their backing file.
//!
//! Devices attach by `mount -o loop` and detach themselves with their last mount. Invariant: a device whose flushes
//! were stopped is named in a file of the run directory, since that setting would stay with it for its next user.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    error::{LabError, Result},
    poll::wait_for,
};

const DETACH_LIMIT: Duration = Duration::from_secs(60);

/// Returns the names (`loop3`) of devices whose backing file's name satisfies `is_ours`.
pub(super) fn attached(is_ours: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let backing = |dir: PathBuf| fs::read_to_string(dir.join("loop/backing_file")).ok();
    entries
        .flatten()
        .filter(|entry| {
            // The directory may look different from another mount namespace; the file's name never does.
            backing(entry.path()).is_some_and(|path| path.trim_end().rsplit('/').next().is_some_and(&is_ours))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Waits until the file called `name` backs no loop device any more.
pub(super) fn wait_detached(name: &str) -> Result<()> {
    wait_for(&format!("detaching of `{name}`"), DETACH_LIMIT, || {
        Ok(attached(|file| file == name).is_empty().then_some(()))
    })
}

/// Stops flushes of a device from reaching its backing file, and notes it in `notes` for [`flush_again`].
pub(super) fn stop_flushing(device: &str, notes: &Path) -> Result<()> {
    let mut file =
        File::options().create(true).append(true).open(notes).map_err(LabError::path("open", notes))?;
    writeln!(file, "{device}").map_err(LabError::path("write", notes))?;
    set_write_cache(device, "write through")
}

/// Lets the devices that are named in `notes` flush again.
pub(super) fn flush_again(notes: &Path) -> Result<()> {
    let names = fs::read_to_string(notes).unwrap_or_default();
    names.lines().try_for_each(|device| set_write_cache(device, "write back"))
}

fn set_write_cache(device: &str, mode: &str) -> Result<()> {
    let path = format!("/sys/block/{device}/queue/write_cache");
    fs::write(&path, mode).map_err(LabError::path("write", &path))
}
