//! The rows, as values.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::Row;
use serde::Serialize;

use crate::format::{Id, NodeKind};

/// A tracked directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Its number.
    pub id: i64,
    /// Absolute.
    pub path: PathBuf,
    /// UTC.
    pub created_at: String,
}

/// A file of a tracked directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its number.
    pub id: i64,
    /// Relative to its directory.
    pub name: PathBuf,
    /// The directory.
    pub directory_id: i64,
    /// The version that counts.
    pub current_snapshot_id: Option<i64>,
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
        self.same_inode(other) && self.xattrs == other.xattrs && self.target == other.target
    }

    /// Whether `stat` says the same but for the time of reading. With the time of the last change among it nothing else is another one
    /// either: neither attributes nor where a link points.
    pub fn same_inode(&self, other: &Self) -> bool {
        let tell = |facts: &Self| {
            let whose = (facts.kind, facts.permissions, facts.uid, facts.gid, facts.device);
            (whose, facts.size, facts.inode, facts.links, facts.modified_at, facts.changed_at)
        };
        // A copy of a catalogue or a tree may not know when a file was born.
        let is_born_so = self.born_at.is_none() || other.born_at.is_none() || self.born_at == other.born_at;
        tell(self) == tell(other) && is_born_so
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

    /// Reads them, from a column on.
    pub(super) fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let number = |at: usize| row.get::<_, i64>(first + at);
        Ok(Self {
            size: number(0)? as u64,
            permissions: row.get(first + 1)?,
            uid: row.get(first + 2)?,
            gid: row.get(first + 3)?,
            inode: number(4)? as u64,
            accessed_at: number(5)?,
            modified_at: number(6)?,
            changed_at: number(7)?,
            born_at: row.get(first + 8)?,
            xattrs: row.get(first + 9)?,
            kind: {
                let word = row.get_ref(first + 10)?.as_str()?;
                KINDS.iter().find(|(_, known)| *known == word).map_or(NodeKind::File, |(kind, _)| *kind)
            },
            target: row.get(first + 11)?,
            device: number(12)? as u64,
            links: number(13)? as u64,
        })
    }
}

/// One version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number.
    pub id: i64,
    /// The file.
    pub file_id: i64,
    /// Its content's SHA-256.
    pub content_id: Id,
    /// Its content's number in this catalogue.
    pub content: i64,
    /// Counts the versions of a file from 1.
    pub number: i64,
    /// When it was backed up, UTC.
    pub created_at: String,
    /// What `stat` said.
    pub facts: FileFacts,
}

impl Version {
    /// What [`Version::read`] reads, of `file_snapshots v` and `contents c`.
    pub(super) const COLUMNS: &'static str = "v.id, v.file_id, c.id, v.number, v.created_at, v.size, v.permissions, v.uid,
         v.gid, v.inode, v.accessed_at, v.modified_at, v.changed_at, v.born_at, v.xattrs, v.kind, v.target, v.device, v.links,
         v.content";

    /// How many columns that are.
    pub(super) const WIDTH: usize = 20;

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            file_id: row.get(1)?,
            content_id: id(row, 2)?,
            content: row.get(19)?,
            number: row.get(3)?,
            created_at: time_of(row.get(4)?),
            facts: FileFacts::read(row, 5)?,
        })
    }
}

/// A version that waits for the next backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedItem {
    /// Its place in the queue.
    pub seq: i64,
    /// The tracked directory.
    pub directory_id: i64,
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

pub(super) fn path(row: &Row<'_>, column: usize) -> rusqlite::Result<PathBuf> {
    Ok(OsString::from_vec(row.get(column)?).into())
}

/// Reads a place as the name that it is of.
pub(super) fn name(row: &Row<'_>, column: usize) -> rusqlite::Result<PathBuf> {
    let mut bytes: Vec<u8> = row.get(column)?;
    bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'/');
    Ok(OsString::from_vec(bytes).into())
}

pub(super) fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<Id> {
    let bytes = row.get_ref(column)?.as_blob()?;
    Id::from_slice(bytes).ok_or_else(|| {
        let why = format!("a checksum of {} bytes", bytes.len());
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, why.into())
    })
}

/// Returns a moment as the tables keep it that have many of them: nanoseconds since 1970.
pub(super) fn moment(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX })
}

/// Returns such a moment as text.
pub(super) fn time_of(moment: i64) -> String {
    Timestamp::from_nanosecond(moment.into()).unwrap_or_default().to_string()
}
