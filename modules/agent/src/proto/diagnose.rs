//! What a machine tells a doctor, beside its facts, its layout and its space.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::BytePath;

/// What may stand in the way of a sync or of a way back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The text of `/etc/fstab`.
    pub fstab: String,
    /// Files on btrfs that the kernel swaps to.
    pub swapfiles: Vec<SwapFile>,
    /// Mount points of btrfs file systems whose quotas are on.
    pub quotas: Vec<BytePath>,
    /// Mount points of file systems in thin volumes of LVM, of which snapshots can be taken.
    pub thin: Vec<BytePath>,
    /// Layers of containers that are subvolumes, while what names them is part of the tree around them.
    pub layers: Vec<Layers>,
    /// The mount that holds `/boot`, with its type, if it is not the one of `/`.
    pub boot: Option<(BytePath, String)>,
    /// Whether the kernel says that its clock follows a time server.
    pub clock_follows: bool,
    /// Graphical sessions of people.
    pub sessions: Vec<Session>,
    /// What sshd looks at before it believes the keys of a person: home, `.ssh` and the file, for people who have one.
    pub logins: Vec<LoginPath>,
}

/// A path whose owner and mode decide whether a person may log in by key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginPath {
    /// Whose login.
    pub user: u32,
    /// The path.
    pub path: BytePath,
    /// Its owner.
    pub owner: u32,
    /// Its permission bits.
    pub mode: u32,
}

/// Asks which files below these folders are open for writing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WritersRequest {
    /// The folders, absolute.
    pub folders: Vec<BytePath>,
}

/// A file that a process holds open for writing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Writer {
    /// The file.
    pub path: BytePath,
    /// The process's short name.
    pub program: String,
    /// Its pid.
    pub pid: u32,
    /// Whose process it is.
    pub uid: u32,
}

/// A file that the kernel swaps to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapFile {
    /// The file.
    pub path: BytePath,
    /// The root of the subvolume that holds it.
    pub subvolume_root: BytePath,
}

/// Layers of containers, each a subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Where they lie.
    pub path: BytePath,
    /// The root of the subvolume that holds the list of them.
    pub subvolume_root: BytePath,
}

/// A graphical session, as logind knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose it is.
    pub uid: u32,
    /// Its type: `x11`, `wayland` or `mir`.
    pub kind: String,
}
