//! The host's loop devices, told apart by the name of their backing file.
//!
//! Invariant: only looks. Devices attach by `mount -o loop` and detach themselves with their last mount.

use std::{fs, path::PathBuf, time::Duration};

use super::{error::Result, poll::wait_for};

const DETACH_LIMIT: Duration = Duration::from_secs(20);

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
