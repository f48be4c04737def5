//! What a lab looks like: its name and its variants. Values only, nothing is run here.

use std::{net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

use super::error::{LabError, Result};

/// The two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineName {
    /// 10.77.0.2
    Laptop,
    /// 10.77.0.3, also called `target-host`
    Desk,
}

impl MachineName {
    /// Both, laptop first.
    pub const ALL: [Self; 2] = [Self::Laptop, Self::Desk];

    /// Returns the hostname.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Laptop => "laptop",
            Self::Desk => "desk",
        }
    }

    /// Returns the address on the lab's own network.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Laptop => Ipv4Addr::new(10, 77, 0, 2),
            Self::Desk => Ipv4Addr::new(10, 77, 0, 3),
        }
    }

    pub(super) fn hardware_address(self) -> &'static str {
        match self {
            Self::Laptop => "02:4c:41:42:00:02",
            Self::Desk => "02:4c:41:42:00:03",
        }
    }

    /// Returns all names under which the machine is reachable.
    pub fn hostnames(self) -> &'static [&'static str] {
        match self {
            Self::Laptop => &["laptop"],
            Self::Desk => &["desk", "target-host"],
        }
    }
}

impl std::str::FromStr for MachineName {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "laptop" => Ok(Self::Laptop),
            "desk" | "target-host" => Ok(Self::Desk),
            _ => Err(LabError::Invalid {
                what: format!("no machine is called `{text}`: use `laptop` or `desk`"),
            }),
        }
    }
}

/// What runs as pid 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// A few lines of shell and sshd: boots twice as fast, no systemctl, no logind.
    #[default]
    Tiny,
    /// systemd with logind, dbus, cron and a user manager for alice.
    Systemd,
}

/// What `/.snapshots` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotDir {
    /// It does not exist.
    None,
    /// A plain directory in `@`.
    Plain,
    /// The top-level subvolume `@snapshots`, mounted.
    #[default]
    Subvolume,
}

/// What sudo lets alice do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sudo {
    /// Everything, without a password.
    #[default]
    NoPassword,
    /// Everything, with her password `alice`.
    Password,
    /// Nothing.
    Refused,
}

/// A file system of the homes' own, in an image on the machine's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HomeDisk {
    /// ext4, with its `lost+found`.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs: `@home`, and for its snapshots `@snapshots`, mounted at `/.snapshots-home`.
    Btrfs,
}

impl HomeDisk {
    /// Returns the name of the file system.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

/// Name and variants of a lab; [`LabOptions::new`] has the defaults of an everyday pair of machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabOptions {
    pub(super) name: String,
    pub(super) init: Init,
    pub(super) root_subvolume: bool,
    pub(super) snapshot_dir: SnapshotDir,
    pub(super) sudo: Sudo,
    pub(super) disk_bytes: u64,
    pub(super) ext4: Vec<MachineName>,
    #[serde(default)]
    pub(super) homes: Vec<(MachineName, HomeDisk)>,
    #[serde(default)]
    pub(super) uncached_disks: bool,
    #[serde(skip)]
    pub(super) lock_wait: Duration,
    #[serde(skip)]
    pub(super) is_detached: bool,
}

impl LabOptions {
    /// Describes the default lab under a name of up to 24 of `a-z0-9-`. Labs of different names run side by side.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            init: Init::default(),
            root_subvolume: true,
            snapshot_dir: SnapshotDir::default(),
            sudo: Sudo::default(),
            disk_bytes: 6 << 30,
            ext4: Vec::new(),
            homes: Vec::new(),
            uncached_disks: false,
            lock_wait: Duration::from_secs(20),
            is_detached: false,
        }
    }

    /// Chooses pid 1.
    #[must_use]
    pub fn init(self, init: Init) -> Self {
        Self { init, ..self }
    }

    /// Chooses whether `/root` is the subvolume `@root`; otherwise it lies in `@`.
    #[must_use]
    pub fn root_subvolume(self, root_subvolume: bool) -> Self {
        Self { root_subvolume, ..self }
    }

    /// Chooses what `/.snapshots` is.
    #[must_use]
    pub fn snapshot_dir(self, snapshot_dir: SnapshotDir) -> Self {
        Self { snapshot_dir, ..self }
    }

    /// Chooses what sudo lets alice do.
    #[must_use]
    pub fn sudo(self, sudo: Sudo) -> Self {
        Self { sudo, ..self }
    }

    /// Chooses the size of each machine's disk (sparse on the host); 1 GiB leaves about 700 MiB free.
    #[must_use]
    pub fn disk_bytes(self, disk_bytes: u64) -> Self {
        Self { disk_bytes, ..self }
    }

    /// Gives this machine an ext4 disk: no subvolumes, no snapshots.
    #[must_use]
    pub fn ext4(mut self, machine: MachineName) -> Self {
        self.ext4.push(machine);
        self
    }

    /// Gives this machine's homes a file system of their own, in place of the subvolume `@home`.
    #[must_use]
    pub fn home(mut self, machine: MachineName, disk: HomeDisk) -> Self {
        self.homes.push((machine, disk));
        self
    }

    /// Lets the machines' disks pass the host's page cache by, as hardware does: for measurements. Otherwise each read and
    /// write costs the host a copy, and a power cut loses what was not flushed.
    #[must_use]
    pub fn uncached_disks(self) -> Self {
        Self { uncached_disks: true, ..self }
    }

    /// Chooses how long `up` waits for another process that holds this name.
    #[must_use]
    pub fn lock_wait(self, lock_wait: Duration) -> Self {
        Self { lock_wait, ..self }
    }

    /// Lets the machines outlive this process, until `down`.
    #[must_use]
    pub fn detached(self) -> Self {
        Self { is_detached: true, ..self }
    }

    /// Checks name and sizes.
    pub(super) fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        if self.disk_bytes < 1 << 30 {
            return Err(LabError::Invalid { what: "a machine's disk needs at least 1 GiB".to_owned() });
        }
        Ok(())
    }

    /// Returns the part that decides what the pristine disks hold; the rest may differ between two `up`.
    pub(super) fn disk_recipe(&self) -> String {
        let Self { init, root_subvolume, snapshot_dir, sudo, disk_bytes, ext4, .. } = self;
        let homes = self.homes.iter().map(|(machine, disk)| format!(" {machine:?} {disk:?}"));
        let homes: String = homes.collect();
        format!("{init:?} {root_subvolume} {snapshot_dir:?} {sudo:?} {disk_bytes} {ext4:?}{homes}")
    }

    /// Returns the file system of this machine's homes, if it is one of their own.
    pub(super) fn home_of(&self, machine: MachineName) -> Option<HomeDisk> {
        self.homes.iter().find(|(name, _)| *name == machine).map(|(_, disk)| *disk)
    }

    pub(super) fn is_ext4(&self, machine: MachineName) -> bool {
        self.ext4.contains(&machine)
    }
}

/// Checks that a lab's name can stand in paths and process names.
pub(super) fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 24 || !name.chars().all(is_plain) {
        return Err(LabError::Invalid {
            what: format!("lab name `{name}` is not 1 to 24 of a-z, 0-9 and `-`"),
        });
    }
    Ok(())
}
