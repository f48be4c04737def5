//! What ran on a machine when a set was taken.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The system that a set is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// The release of the kernel that ran.
    pub kernel: String,
    /// The packages that were installed, if a known manager keeps them.
    #[serde(default)]
    pub packages: Option<Packages>,
    /// The release of the kernel that the next start would have had, where that can be told.
    #[serde(default)]
    pub boot_kernel: Option<String>,
    /// The digest of `/etc/fstab`, if there was one.
    #[serde(default)]
    pub fstab: Option<String>,
}

/// The packages that were installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// Whose they are.
    pub manager: PackageManager,
    /// How many; `None` if only the manager itself can tell.
    pub count: Option<u32>,
    /// The same for the same packages in the same versions; where they cannot be counted it changes with their database.
    pub digest: String,
}

/// A manager of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageManager {
    /// That of Debian and its children.
    Dpkg,
    /// That of Arch and its children.
    Pacman,
    /// That of Fedora, SUSE and others.
    Rpm,
}

impl fmt::Display for PackageManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PackageManager::Dpkg => "dpkg",
            PackageManager::Pacman => "pacman",
            PackageManager::Rpm => "rpm",
        })
    }
}

/// How the system differs between two sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemChange {
    /// The kernel that ran at each, if it was another.
    pub kernels: Option<(String, String)>,
    /// Packages that came, went or have another version, by name; `None` if that is not known of both.
    pub packages: Option<Vec<PackageChange>>,
}

/// A package that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageChange {
    /// Its name, with its architecture where there may be several of that name.
    pub name: String,
    /// Its version in the first set, if it was installed there.
    pub from: Option<String>,
    /// Its version in the second set, if it was installed there.
    pub to: Option<String>,
}
