//! Blobs and the header at the end of a pack that lists them.

use serde::{Deserialize, Serialize};

use super::id::Id;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A directory.
    Tree,
}

impl BlobKind {
    /// Returns the kind that this is not.
    pub fn other(self) -> Self {
        match self {
            Self::Data => Self::Tree,
            Self::Tree => Self::Data,
        }
    }
}

/// One blob as the header of its pack lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    /// The SHA-256 of what it holds.
    pub id: Id,
    /// What it holds.
    pub kind: BlobKind,
    /// How long it is, encrypted.
    pub length: u32,
    /// How long it is when unpacked, if it was compressed.
    pub uncompressed_length: Option<u32>,
}

/// Returns the header of a pack; encryption is the caller's.
pub fn encode_header(entries: &[PackEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 41);
    for entry in entries {
        let kind =
            u8::from(entry.kind == BlobKind::Tree) | u8::from(entry.uncompressed_length.is_some()) << 1;
        out.push(kind);
        out.extend_from_slice(&entry.length.to_le_bytes());
        out.extend(entry.uncompressed_length.map(u32::to_le_bytes).into_iter().flatten());
        out.extend_from_slice(&entry.id.0);
    }
    out
}

/// Reads the header of a pack.
///
/// # Errors
/// If it is cut short or names a kind that is not known.
pub fn decode_header(mut bytes: &[u8]) -> Result<Vec<PackEntry>, String> {
    let mut entries = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        bytes = rest;
        if kind > 3 {
            return Err(format!("a blob of kind {kind} is not known"));
        }
        let length = u32::from_le_bytes(take(&mut bytes)?);
        let uncompressed_length = match kind & 2 {
            0 => None,
            _ => Some(u32::from_le_bytes(take(&mut bytes)?)),
        };
        let id = Id(take(&mut bytes)?);
        let kind = if kind & 1 == 0 { BlobKind::Data } else { BlobKind::Tree };
        entries.push(PackEntry { id, kind, length, uncompressed_length });
    }
    Ok(entries)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, tail) = bytes.split_first_chunk().ok_or("the header of the pack is cut short")?;
    *bytes = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = PackEntry> {
        (any::<[u8; 32]>(), any::<bool>(), any::<u32>(), any::<Option<u32>>()).prop_map(
            |(id, tree, length, uncompressed_length)| PackEntry {
                id: Id(id),
                kind: if tree { BlobKind::Tree } else { BlobKind::Data },
                length,
                uncompressed_length,
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_survives_and_every_cut_of_it_is_noticed(entries in proptest::collection::vec(entry(), 1..8)) {
            let bytes = encode_header(&entries);
            prop_assert_eq!(decode_header(&bytes).unwrap(), entries.clone());
            let shorter = decode_header(&bytes[..bytes.len() - 1]);
            prop_assert!(shorter.is_err());
        }

        #[test]
        fn arbitrary_bytes_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_header(&bytes);
        }
    }
}
