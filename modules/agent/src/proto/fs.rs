//! Files as they are compared: listings, metadata, rules.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::BytePath;

/// A time with its nanoseconds; seconds may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct FileTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
}

/// The metadata that is mirrored: all of it, always numeric.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Permission and special bits, 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: FileTime,
    /// Extended attributes by name: `user.*`, ACLs, capabilities; sorted. `security.selinux`, `security.ima`,
    /// `security.evm` are left out: they belong to the machine.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name, without a slash; empty for the root of a walk itself.
    pub name: BytePath,
    /// What it is.
    pub kind: Kind,
    /// Its metadata.
    pub meta: Meta,
    /// Bytes of content; 0 for anything but a file.
    pub size: u64,
    /// Bytes allocated, for the forecast.
    pub allocated: u64,
    /// Last change of the inode.
    pub ctime: FileTime,
    /// The inode number, the same in a subvolume and its snapshots.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u32,
    /// Where a symbolic link points.
    pub target: BytePath,
}

/// Why an entry is not mirrored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SkipReason {
    /// A rule excludes it; the text is the rule's reason.
    Rule(String),
    /// A socket.
    Socket,
    /// A device node.
    Device,
    /// A nested subvolume or its empty stand-in inside a snapshot.
    Subvolume,
    /// It could not be read; the text is the system's word. A run with one of these must not delete.
    Unreadable(String),
}

/// An entry that is there and is not mirrored: never deleted, never overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// Its name.
    pub name: BytePath,
    /// Why.
    pub reason: SkipReason,
}

/// One directory. Listings of one walk come in any order; the root's comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirListing {
    /// The directory, relative to the root of the walk; empty for the root.
    pub path: BytePath,
    /// The directory's own entry: in the listing of the root, and of every directory that was asked for by itself.
    pub root: Option<Entry>,
    /// What is mirrored, sorted by name.
    pub entries: Vec<Entry>,
    /// What is there and is not mirrored.
    pub skipped: Vec<Skip>,
    /// Whether another piece of this directory follows: a large one does not fit into one message. Pieces of one directory
    /// come in order.
    pub more: bool,
}

/// Listings that travel together, at most [`super::MOST`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listings(#[serde(deserialize_with = "super::few")] pub Vec<DirListing>);

/// What a directory's listing can be compared by with another machine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirDigest {
    /// The directory, relative to the root of the walk; empty for the root.
    pub path: BytePath,
    /// BLAKE3 of its entries: names, kinds, metadata, sizes and targets of links, not what is each machine's own (inode numbers, change
    /// times, allocation). `None` where entries alone do not tell: something was skipped, or has several names.
    pub digest: Option<[u8; 32]>,
}

/// Digests that travel together, at most [`super::MOST`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirDigests(#[serde(deserialize_with = "super::few")] pub Vec<DirDigest>);

/// One exclusion rule: a pattern in gitignore syntax, relative to the folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The pattern; a leading `!` re-includes.
    pub pattern: String,
    /// Why it is there, for people.
    pub reason: String,
}

/// The rules of one folder. `forced` come first and cannot be undone; in `layered` the last match wins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct RuleSet {
    /// Identity and our own state.
    pub forced: Vec<Rule>,
    /// Machine-specific defaults, then the user's excludes, then the user's includes.
    pub layered: Vec<Rule>,
}

/// A tree on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Absolute path of its root, in a snapshot or live.
    pub root: BytePath,
    /// The root's path relative to the folder that the rules are written for; empty when it is the folder.
    pub prefix: BytePath,
    /// What is left out.
    pub rules: RuleSet,
}

/// Asks for all listings of a tree, read by several threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkRequest {
    /// The tree.
    pub tree: Tree,
}

/// Asks which directories of a tree changed since an older snapshot of its subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRequest {
    /// The tree's root in the older snapshot.
    pub base: BytePath,
    /// The tree.
    pub tree: Tree,
}

/// A directory whose listing may differ from what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedDir {
    /// Relative to the tree's root.
    pub path: BytePath,
    /// Whether it is new or was moved: then everything below it may differ.
    pub whole: bool,
    /// The names in it that another inode has, that are gone, or whose inode was written; `None` if any may be.
    pub names: Option<Vec<BytePath>>,
    /// Names of files whose content was written while size and times stayed as they were.
    pub silent: Vec<BytePath>,
}

/// A directory, or a name of a file, that stands elsewhere than in the older snapshot: the same inode. What lies below a
/// moved directory and moved along is not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Where it stood, relative to the tree's root.
    pub from: BytePath,
    /// Where it stands; the same path if only the directory above it is another one.
    pub to: BytePath,
    /// Whether it is a directory; then the rules say the same of everything below it at both places.
    pub is_dir: bool,
}

/// A directory to be listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListWant {
    /// Relative to the tree's root.
    pub path: BytePath,
    /// Whether everything below it is listed as well.
    pub whole: bool,
    /// Only these names are listed; `None` for all of them.
    pub names: Option<Vec<BytePath>>,
}

impl ListWant {
    /// Asks for a directory with all below it.
    pub fn all(path: BytePath) -> Self {
        Self { path, whole: true, names: None }
    }

    /// Asks for a directory with all its names.
    pub fn one(path: BytePath) -> Self {
        Self { path, whole: false, names: None }
    }
}

/// The answer after the last listing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkSummary {
    /// Directories listed.
    pub directories: u64,
    /// Entries listed, directories included.
    pub entries: u64,
    /// Bytes of content listed.
    pub bytes: u64,
    /// Entries that could not be read.
    pub unreadable: u64,
}
