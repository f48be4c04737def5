//! Index files: which blob lies in which pack, and where.

use serde::{Deserialize, Serialize};

use super::blob::{BlobKind, PackEntry};
use super::id::Id;

/// An index file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFile {
    /// The packs that it knows.
    #[serde(default)]
    pub packs: Vec<IndexedPack>,
}

/// One pack of an index file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedPack {
    /// The pack.
    pub id: Id,
    /// What lies in it.
    pub blobs: Vec<IndexedBlob>,
}

/// One blob of an index file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedBlob {
    /// The SHA-256 of what it holds.
    pub id: Id,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: BlobKind,
    /// Where it begins.
    pub offset: u32,
    /// How long it is, encrypted.
    pub length: u32,
    /// How long it is when unpacked, if it was compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncompressed_length: Option<u32>,
}

impl IndexedPack {
    /// Returns what an index says of a pack with these entries.
    pub fn of(id: Id, entries: &[PackEntry]) -> Self {
        let mut offset = 0_u32;
        let blobs = entries.iter().map(|entry| {
            let at = offset;
            // Who wrote so much has no pack of ours.
            offset = offset.saturating_add(entry.length);
            IndexedBlob {
                id: entry.id,
                kind: entry.kind,
                offset: at,
                length: entry.length,
                uncompressed_length: entry.uncompressed_length,
            }
        });
        Self { id, blobs: blobs.collect() }
    }
}
