//! What the kernel tells of time, for a process that plays several machines: each start has an id of its own, and time passes when
//! the story says so. Systemd is hidden meanwhile, so that nothing of this is started on the machine that runs the tests.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_bind};

use crate::pool::Pool;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const UPTIME: &str = "/proc/uptime";
const SYSTEMD: &str = "/run/systemd";

/// How long each start took.
const AT_FIRST: u64 = 30;

/// Puts files of ours in the place of the kernel's, in the namespace of this run.
pub fn begin(pool: &Pool) {
    let dir = pool.machine("clock");
    for (name, place) in [("boot_id", BOOT_ID), ("uptime", UPTIME)] {
        let file = dir.join(name);
        fs::write(&file, "").unwrap();
        mount_bind(&file, place).unwrap();
    }
    if Path::new(SYSTEMD).is_dir() {
        mount("none", SYSTEMD, "tmpfs", MountFlags::empty(), None).unwrap();
    }
}

/// Says in which start we are, and for how long.
pub fn set(boot_id: &str, seconds: u64) {
    fs::write(BOOT_ID, format!("{boot_id}\n")).unwrap();
    fs::write(UPTIME, format!("{}.00 0.00\n", AT_FIRST + seconds)).unwrap();
}
