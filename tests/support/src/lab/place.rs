//! Where a lab lies on the host: run directory, lock, cgroup, pools. Pure path arithmetic plus one look-up of the
//! cgroup2 mount.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::{
    error::{LabError, Result},
    options::MachineName,
};

const RUN: &str = "/run/pc-switcher-lab";
const CACHE: &str = "/var/cache/pc-switcher-lab";
const CACHE_VARIABLE: &str = "PC_SWITCHER_LAB_CACHE";

/// Paths of one lab.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) lab: String,
    pub(super) cache: PathBuf,
    pub(super) cgroup: PathBuf,
}

impl Place {
    pub(super) fn of(lab: &str) -> Result<Self> {
        let cgroup = cgroup2_mount()?.join("pc-switcher-lab").join(lab);
        Ok(Self { lab: lab.to_owned(), cache: cache_dir(), cgroup })
    }

    /// Everything that exists only while the lab is up.
    pub(super) fn run(&self) -> PathBuf {
        Path::new(RUN).join(&self.lab)
    }

    /// Locked by the guardian for as long as the lab is up; never removed, since that would race.
    pub(super) fn lock(&self) -> PathBuf {
        Path::new(RUN).join(format!("{}.lock", self.lab))
    }

    pub(super) fn options(&self) -> PathBuf {
        self.run().join("options.json")
    }

    pub(super) fn hub_pid(&self) -> PathBuf {
        self.run().join("hub.pid")
    }

    /// Names the loop devices whose flushes were stopped; the guardian reads it under this name.
    pub(super) fn unflushed(&self) -> PathBuf {
        self.run().join("unflushed")
    }

    pub(super) fn guardian_log(&self) -> PathBuf {
        self.run().join("guardian.log")
    }

    pub(super) fn console(&self, machine: MachineName) -> PathBuf {
        self.run().join(format!("{}.console", machine.as_str()))
    }

    pub(super) fn pools(&self) -> PathBuf {
        self.cache.join("pools").join(&self.lab)
    }

    /// Names of pools and images start with this, and no other file on the host has such a name: it is how their
    /// loop devices are told from foreign ones.
    pub(super) fn prefix(&self) -> String {
        format!("pcs-lab.{}.", self.lab)
    }

    pub(super) fn pool_file(&self, machine: MachineName) -> PathBuf {
        self.pools().join(format!("{}{}.pool", self.prefix(), machine.as_str()))
    }

    /// Mount point of the pool, in the hub only.
    pub(super) fn pool(&self, machine: MachineName) -> PathBuf {
        self.run().join(machine.as_str()).join("pool")
    }

    /// Mount point of the disk's top level while it is made.
    pub(super) fn top(&self, machine: MachineName) -> PathBuf {
        self.run().join(machine.as_str()).join("top")
    }

    /// Mount point of the machine's root, in the machine and while its disk is made.
    pub(super) fn root(&self, machine: MachineName) -> PathBuf {
        self.run().join(machine.as_str()).join("root")
    }

    pub(super) fn image(&self, machine: MachineName) -> PathBuf {
        self.pool(machine).join(self.image_name(machine))
    }

    /// The file name of the image, by which its loop device is known.
    pub(super) fn image_name(&self, machine: MachineName) -> String {
        format!("{}{}.img", self.prefix(), machine.as_str())
    }

    pub(super) fn machine_cgroup(&self, machine: MachineName) -> PathBuf {
        self.cgroup.join(machine.as_str())
    }
}

/// Returns the directory of base trees and pools.
pub fn cache_dir() -> PathBuf {
    env::var_os(CACHE_VARIABLE).map_or_else(|| PathBuf::from(CACHE), PathBuf::from)
}

/// Returns the names of labs that left anything in the run directory or in the cgroup tree.
pub(super) fn known_labs() -> Vec<String> {
    let mut dirs = vec![PathBuf::from(RUN)];
    dirs.extend(cgroup2_mount().ok().map(|mount| mount.join("pc-switcher-lab")));
    let mut names: Vec<String> = dirs
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Finds the cgroup2 tree: `/sys/fs/cgroup` on a pure v2 host, `/sys/fs/cgroup/unified` on a hybrid one.
pub(super) fn cgroup2_mount() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").map_err(LabError::path("read", "/proc/self/mounts"))?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let point = words.next()?;
            (words.next()? == "cgroup2").then(|| PathBuf::from(point))
        })
        .next()
        .ok_or_else(|| LabError::Unavailable {
            why: "no cgroup2 tree is mounted on /sys/fs/cgroup".to_owned(),
        })
}
