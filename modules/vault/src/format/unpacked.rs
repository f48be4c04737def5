//! Documents outside packs: one byte that says how, then JSON, compressed with zstd.

use std::cell::RefCell;

use serde::Serialize;
use serde::de::DeserializeOwned;

const ZSTD: u8 = 2;

/// The largest document that is unpacked, in bytes.
const MOST: usize = 1 << 30;

/// Encodes a document for a repository of this version; encryption is the caller's.
///
/// # Errors
/// If it cannot be written as JSON or compressed.
pub fn encode<T: Serialize>(value: &T, version: u32) -> Result<Vec<u8>, String> {
    let json = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    if version == 1 {
        return Ok(json);
    }
    let mut out = vec![ZSTD];
    out.extend(zstd::bulk::compress(&json, 0).map_err(|error| error.to_string())?);
    Ok(out)
}

/// Decodes a document: compressed, or plain JSON as older writers left it.
///
/// # Errors
/// If it is neither.
pub fn decode<T: DeserializeOwned>(plain: &[u8]) -> Result<T, String> {
    let parse = |json: &[u8]| serde_json::from_slice(json).map_err(|error| error.to_string());
    match plain.split_first() {
        Some((&ZSTD, packed)) => parse(&inflate(packed, MOST)?),
        Some((b'{' | b'[', _)) => parse(plain),
        Some((other, _)) => Err(format!("encoding {other} is not known")),
        None => Err("the document is empty".into()),
    }
}

thread_local! {
    /// One for all that a thread decompresses: to make one takes longer than most of it.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// What is at most so long is decompressed at once, into as much memory.
const AT_ONCE: usize = 16 << 20;

/// Decompresses; what would be larger than `most` is refused.
///
/// # Errors
/// If it is no zstd, or too large.
pub fn inflate(packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let broken = |error: std::io::Error| format!("it cannot be decompressed: {error}");
    if most <= AT_ONCE {
        return DECOMPRESSOR.with_borrow_mut(|held| {
            let decompressor = match held {
                Some(decompressor) => decompressor,
                None => held.insert(zstd::bulk::Decompressor::new().map_err(broken)?),
            };
            decompressor.decompress(packed, most).map_err(broken)
        });
    }
    let mut out = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    zstd::Decoder::new(packed).map_err(broken)?.take(limit).read_to_end(&mut out).map_err(broken)?;
    if out.len() > most { Err("it is larger than it may be".into()) } else { Ok(out) }
}
