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
    /// The mount that holds `/boot`, with its type, if it is not the one of `/`.
    pub boot: Option<(BytePath, String)>,
    /// Whether the kernel says that its clock follows a time server.
    pub clock_follows: bool,
    /// Graphical sessions of people.
    pub sessions: Vec<Session>,
}

/// A file that the kernel swaps to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapFile {
    /// The file.
    pub path: BytePath,
    /// The root of the subvolume that holds it.
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
