//! What differs between sets, and the versions of a file in them.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SetId, SubvolumeName};

use super::fs::{FileTime, Kind};
use super::store::CreateSet;
use super::system::SystemChange;

/// Asks for the versions of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionsRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// The file, as it is now on the machine.
    pub path: BytePath,
    /// The user with whose access rights it is read.
    pub uid: u32,
}

/// A state of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// What it is.
    pub kind: Kind,
    /// Last change of the content.
    pub mtime: FileTime,
    /// Bytes of content.
    pub size: u64,
    /// Whether it is so now.
    pub is_now: bool,
    /// The sets that hold it, newest first.
    pub sets: Vec<SetId>,
}

/// The versions of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Newest first.
    pub versions: Vec<Version>,
    /// The sets of its subvolume that do not hold it, newest first.
    pub without: Vec<SetId>,
    /// The sets that could not be read, with the reason, newest first.
    pub unread: Vec<(SetId, String)>,
}

/// Asks what differs between two sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// The first set.
    pub from: SetId,
    /// The second.
    pub to: DiffEnd,
    /// Only what lies here, as it is now on the machine.
    pub path: Option<BytePath>,
    /// The user who may see what that user could list.
    pub uid: u32,
}

/// What a set is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiffEnd {
    /// Another set.
    Set(SetId),
    /// What is there now: this set is taken, and removed again.
    Now(Box<CreateSet>),
}

/// What became of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It is new.
    Created,
    /// It is gone.
    Deleted,
    /// It had another name or place.
    Renamed,
    /// Its content changed.
    Changed,
    /// Only its owner, mode, time or attributes changed.
    Metadata,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What became of it.
    pub kind: ChangeKind,
    /// The path as it is now on the machine, or was.
    pub path: BytePath,
    /// Where it was before it was renamed.
    pub from: Option<BytePath>,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes of content, of a file that is gone those that it had.
    pub size: u64,
}

/// The answer after the last difference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diffed {
    /// The subvolumes that were compared.
    pub compared: Vec<SubvolumeName>,
    /// Subvolumes that only one of the two has.
    pub alone: Vec<SubvolumeName>,
    /// Differences in places that the user may not list.
    pub hidden: u64,
    /// How the system differs, if all of it was asked for.
    pub system: SystemChange,
}
