//! Facts of a machine, its lock, its subvolumes, its space, commands on it.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, Hostname, Role, SessionId, SnapshotKind, SubvolumeName, UtcStamp};

/// A user that a person may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFact {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: BytePath,
}

/// What a machine says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Its own name.
    pub hostname: Hostname,
    /// Its id, from `/etc/machine-id`.
    pub machine_id: String,
    /// The id of this boot.
    pub boot_id: String,
    /// Its architecture, for example `x86_64`.
    pub arch: String,
    /// The kernel's release.
    pub kernel: String,
    /// Root and every user with id 1000 to 59999.
    pub users: Vec<UserFact>,
    /// Seconds since 1970 by its clock.
    pub clock_seconds: i64,
    /// Whether the agent runs as root.
    pub elevated: bool,
}

/// Asks for the machine's lock, held until the agent ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    /// The session.
    pub session: SessionId,
    /// The part this machine plays.
    pub role: Role,
    /// The machine that started the sync.
    pub from: Hostname,
    /// The user who started it.
    pub user: String,
}

/// Who holds a lock; written only after it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The session.
    pub session: SessionId,
    /// The part this machine plays in it.
    pub role: Role,
    /// The machine that started it.
    pub from: Hostname,
    /// The user who started it.
    pub user: String,
    /// The holding process on this machine.
    pub pid: u32,
    /// Since when, ISO 8601 UTC.
    pub since: String,
}

/// The answer to a lock request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockReply {
    /// It is held.
    Held,
    /// Another holds it; `None` if it has not written its name yet.
    Busy(Option<LockHolder>),
}

/// Asks how folders lie on subvolumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutRequest {
    /// Absolute folders to mirror.
    pub folders: Vec<BytePath>,
    /// Subvolumes to snapshot.
    pub subvolumes: Vec<SubvolumeName>,
    /// Where snapshots go.
    pub snapshot_dir: BytePath,
    /// Absolute roots of nested subvolumes that are mirrored with the folders; one may be missing here, or a directory.
    pub nested: Vec<BytePath>,
}

/// How a part stands on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// The folder itself, or a mount below it.
    Folder,
    /// A subvolume inside the one that holds the folder.
    Nested,
    /// A directory, where another machine has a nested subvolume.
    Directory,
    /// Nothing, where another machine has a nested subvolume.
    Missing,
    /// A file, a link or the like, where another machine has a nested subvolume.
    File,
    /// Something else, a mount for example, where another machine has a nested subvolume.
    Other,
}

/// A subvolume found by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubvolumeFact {
    /// Its name: the flat one, or for one inside another its path.
    pub name: SubvolumeName,
    /// A path where its root is seen.
    pub mount_point: BytePath,
    /// Its uuid, 32 hex digits.
    pub uuid: String,
    /// Its id.
    pub id: u64,
    /// The file system's uuid.
    pub fs_uuid: String,
    /// Its last transaction.
    pub generation: u64,
}

/// A stretch of a folder that lies on one subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderPart {
    /// The configured folder.
    pub folder: BytePath,
    /// Where the part begins, absolute; the folder itself or a mount below it.
    pub root: BytePath,
    /// The name of the subvolume, `None` if there is no btrfs or nobody has named it.
    pub subvolume: Option<SubvolumeName>,
    /// The part's root relative to the subvolume's root.
    pub inside: BytePath,
    /// The subvolume's uuid; empty without btrfs.
    pub subvolume_uuid: String,
    /// The file system's uuid or, without btrfs, its device number as text.
    pub fs_uuid: String,
    /// The file system's type, for example `btrfs`.
    pub fs_type: String,
    /// Where the file system is mounted.
    pub mount_point: BytePath,
    /// Subvolumes nested below the part's root, relative to it.
    pub nested: Vec<BytePath>,
    /// Those of them that cannot be mirrored, each with the reason.
    pub closed: Vec<(BytePath, String)>,
    /// How it stands here.
    pub standing: Standing,
    /// Whether the root holds no entry at all.
    pub is_empty: bool,
    /// What stands in our own directory at the root: staging and displaced versions of sessions that did not end.
    pub leftovers: Vec<BytePath>,
}

/// A mount below a folder that is not mirrored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignMount {
    /// Where it is mounted.
    pub path: BytePath,
    /// Its type, for example `fuse.sshfs`.
    pub fs_type: String,
}

/// How folders lie on subvolumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Parts, folder by folder.
    pub parts: Vec<FolderPart>,
    /// Folders that do not exist here.
    pub missing_folders: Vec<BytePath>,
    /// Folders that cannot be mirrored as they are named, each with the reason.
    pub unfit_folders: Vec<(BytePath, String)>,
    /// Mounts that are left out.
    pub foreign: Vec<ForeignMount>,
    /// The subvolumes that were asked for and those that hold a folder, as far as they exist.
    pub subvolumes: Vec<SubvolumeFact>,
    /// Those asked for that do not exist or are not mounted here.
    pub missing_subvolumes: Vec<SubvolumeName>,
    /// All flat names of the file systems concerned, for a nearest-name hint.
    pub known_subvolumes: Vec<SubvolumeName>,
    /// The snapshot directory's file system uuid; empty if it does not exist and its parent's is not btrfs.
    pub snapshot_fs_uuid: String,
    /// Whether the snapshot directory exists.
    pub snapshot_dir_exists: bool,
    /// Whether it lies on a top-level subvolume of its own, so that a rollback of `@` keeps it.
    pub snapshot_dir_own_subvolume: bool,
    /// Whether others than root may go into it.
    pub snapshot_dir_is_open: bool,
    /// The other file systems that subvolumes lie on of which a set is to be taken.
    pub others: Vec<OtherPlace>,
    /// Subvolumes of which another one has the name that is meant by it, on another file system.
    pub doubled: Vec<SubvolumeFact>,
}

/// Where the snapshots of another file system go than that of the snapshot directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherPlace {
    /// The uuid of the file system.
    pub fs_uuid: String,
    /// The directory: where its top-level subvolume `@snapshots` is mounted. `None` if that is nowhere.
    pub dir: Option<BytePath>,
    /// Whether others than root may go into it.
    pub is_open: bool,
    /// Whether that file system has such a subvolume, mounted or not.
    pub has_subvolume: bool,
}

/// What is to become of a nested subvolume of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NestedOrder {
    /// An empty one is made at this path; without btrfs a directory.
    Make(BytePath),
    /// The one at this path is removed, if nothing is in it.
    Remove {
        /// Where it stands.
        root: BytePath,
        /// Its uuid, 32 hex digits.
        uuid: String,
    },
}

/// Asks for one read-only snapshot per subvolume, at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeSet {
    /// The session.
    pub session: SessionId,
    /// The stamp in the names.
    pub stamp: UtcStamp,
    /// Why.
    pub kind: SnapshotKind,
    /// Where they go; made if it is missing.
    pub snapshot_dir: BytePath,
    /// Of what.
    pub subvolumes: Vec<SubvolumeName>,
}

/// Free space of one file system, judged the way btrfs needs it (facts/btrfs.md B35, B36).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceReport {
    /// A path on it, for messages.
    pub path: BytePath,
    /// The file system's uuid, or its device number without btrfs.
    pub fs_uuid: String,
    /// Its type.
    pub fs_type: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Bytes free inside data chunks.
    pub data_free_bytes: u64,
    /// Bytes that belong to no chunk yet.
    pub unallocated_bytes: u64,
    /// Bytes free inside metadata chunks, without the global reserve.
    pub metadata_free_bytes: u64,
    /// How many copies of metadata are kept; what a new chunk for it takes is so many times its size.
    pub metadata_copies: u64,
    /// What can be relied on: the minimum estimate, in bytes.
    pub available_bytes: u64,
}

/// A command to run elevated, or as the given user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program.
    pub program: BytePath,
    /// Arguments.
    pub args: Vec<BytePath>,
    /// Input.
    pub stdin: Vec<u8>,
    /// Limit in milliseconds.
    pub timeout_ms: u64,
}

/// A bit of a command's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecItem {
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
}

/// A file to write atomically; its bytes follow as upload frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutFile {
    /// Where.
    pub path: BytePath,
    /// Mode.
    pub mode: u32,
    /// Owner and group; root when `None`.
    pub owner: Option<(u32, u32)>,
}

/// Asks the agent to install the binary it runs from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivateRequest {
    /// The user who gets the sudoers line; nobody when `None`.
    pub user: Option<String>,
}

/// What an activation changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// Where the binary lies now.
    pub path: BytePath,
    /// What was changed, a line each; empty if all was in place.
    pub changes: Vec<String>,
}
