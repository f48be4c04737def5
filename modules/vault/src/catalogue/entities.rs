//! The rows, as values.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rusqlite::Row;
use serde::Serialize;

use crate::format::{Id, NodeKind};

/// A tracked directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// A UUID.
    pub id: String,
    /// Absolute.
    pub path: PathBuf,
    /// UTC.
    pub created_at: String,
}

/// A file of a tracked directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// A UUID.
    pub id: String,
    /// Relative to its directory.
    pub name: PathBuf,
    /// The directory.
    pub directory_id: String,
    /// The version that counts.
    pub current_snapshot_id: Option<String>,
    /// Whether it was gone at the last backup.
    pub deleted: bool,
}

/// What `stat` said of a file; times in nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFacts {
    /// What it is.
    pub kind: NodeKind,
    /// Bytes of content; only files have any.
    pub size: u64,
    /// Rights, with set-id and sticky bits.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number in the file system.
    pub inode: u64,
    /// Last read.
    pub accessed_at: i64,
    /// Content changed.
    pub modified_at: i64,
    /// Anything changed.
    pub changed_at: i64,
    /// Made; not every file system knows.
    pub born_at: Option<i64>,
    /// Extended attributes, as trees have them.
    #[serde(skip)]
    pub xattrs: Vec<u8>,
    /// Where a symbolic link points.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<u8>,
    /// The number of a device.
    #[serde(skip_serializing_if = "is_zero")]
    pub device: u64,
    /// How many names a file has.
    pub links: u64,
}

#[expect(clippy::ptr_arg, reason = "serde hands it so")]
fn as_text<S: serde::Serializer>(bytes: &Vec<u8>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The words for what something is, as the catalogue has them.
const KINDS: [(NodeKind, &str); 6] = [
    (NodeKind::File, "file"),
    (NodeKind::Dir, "dir"),
    (NodeKind::Symlink, "symlink"),
    (NodeKind::Fifo, "fifo"),
    (NodeKind::Dev, "dev"),
    (NodeKind::CharDev, "chardev"),
];

impl FileFacts {
    /// Whether both are the same version: nothing but the time of the last access may differ. When a file was made is not
    /// compared if it is not known of one, as snapshots do not say it.
    pub fn same_version(&self, other: &Self) -> bool {
        let born_at = self.born_at.and(other.born_at);
        let quiet =
            |facts: &Self| Self { accessed_at: 0, born_at: born_at.and(facts.born_at), ..facts.clone() };
        quiet(self) == quiet(other)
    }

    /// Whether it is a regular file; whatever else has no content.
    pub fn is_file(&self) -> bool {
        self.kind == NodeKind::File
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == NodeKind::Dir
    }

    /// The columns, in order.
    pub(super) const COLUMNS: &'static str =
        "size, permissions, uid, gid, inode, accessed_at, modified_at, changed_at, born_at, xattrs,
         kind, target, device, links";

    /// Returns the word for what it is.
    pub(super) fn kind_word(&self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or("file", |(_, word)| *word)
    }

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            size: row.get::<_, i64>("size")? as u64,
            permissions: row.get("permissions")?,
            uid: row.get("uid")?,
            gid: row.get("gid")?,
            inode: row.get::<_, i64>("inode")? as u64,
            accessed_at: row.get("accessed_at")?,
            modified_at: row.get("modified_at")?,
            changed_at: row.get("changed_at")?,
            born_at: row.get("born_at")?,
            xattrs: row.get("xattrs")?,
            kind: {
                let word: String = row.get("kind")?;
                KINDS.iter().find(|(_, known)| *known == word).map_or(NodeKind::File, |(kind, _)| *kind)
            },
            target: row.get("target")?,
            device: row.get::<_, i64>("device")? as u64,
            links: row.get::<_, i64>("links")? as u64,
        })
    }
}

/// One version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// A UUID.
    pub id: String,
    /// The file.
    pub file_id: String,
    /// Its content's SHA-256.
    pub content_id: Id,
    /// Counts the versions of a file from 1.
    pub number: i64,
    /// When it was backed up, UTC.
    pub created_at: String,
    /// What `stat` said.
    pub facts: FileFacts,
}

impl Version {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            file_id: row.get("file_id")?,
            content_id: id(row, "content_id")?,
            number: row.get("number")?,
            created_at: row.get("created_at")?,
            facts: FileFacts::read(row)?,
        })
    }
}

/// A version that waits for the next backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedItem {
    /// Its place in the queue.
    pub seq: i64,
    /// The tracked directory.
    pub directory_id: String,
    /// Relative to it.
    pub name: PathBuf,
    /// Which content of the stage; none for a file that is read where it lies.
    pub content_id: Option<Id>,
    /// What `stat` said.
    pub facts: FileFacts,
}

/// A chunk of a content in one vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The blob.
    pub blob_id: Id,
    /// Its length.
    pub size: u32,
}

/// A command that changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Its number.
    pub id: i64,
    /// UTC.
    pub started_at: String,
    /// UTC; none while it runs, or if it was cut off.
    pub finished_at: Option<String>,
    /// Its name.
    pub operation: String,
    /// What it was told.
    pub parameters: String,
    /// `running`, `success` or `error`.
    pub status: String,
    /// What it did, or why it failed.
    pub details: String,
}

/// What is known of a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultState {
    /// Which one it was when it was set up.
    pub vault_id: String,
    /// The newest copy of the catalogue in it.
    pub uploaded: i64,
    /// Whether the last copy could not be stored.
    pub pending: bool,
}

pub(super) fn path(row: &Row<'_>, column: &str) -> rusqlite::Result<PathBuf> {
    Ok(OsString::from_vec(row.get(column)?).into())
}

pub(super) fn id(row: &Row<'_>, column: &str) -> rusqlite::Result<Id> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error: String| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })
}
