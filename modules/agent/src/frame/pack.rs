//! Bodies that are compressed on their way to or from another machine: names, listings, steps. Content has a policy of its
//! own (ADR 15).
//!
//! A packed body is the length of the plain one (u32, little endian) and one frame of zstd. Each is packed by itself.

use zstd::bulk::{Compressor, decompress_to_buffer};

use super::MAX_BODY;

/// The level at which listings get four times smaller for next to nothing.
const LEVEL: i32 = 1;

/// Shorter bodies are not worth a try.
const LEAST: usize = 512;

/// Bytes of the length.
const LENGTH: usize = 4;

/// Whether a body is worth a try.
pub fn is_worthy(body: &[u8]) -> bool {
    (LEAST..=MAX_BODY).contains(&body.len())
}

/// Packs bodies.
pub struct Packer(Compressor<'static>);

impl Packer {
    /// Makes one; none if there is no memory for its tables.
    pub fn new() -> Option<Self> {
        Compressor::new(LEVEL).ok().map(Self)
    }

    /// Returns a body packed, if that makes it smaller by a tenth.
    pub fn pack(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if !is_worthy(body) {
            return None;
        }
        let mut packed = vec![0; LENGTH + body.len() / 10 * 9];
        packed[..LENGTH].copy_from_slice(&(body.len() as u32).to_le_bytes());
        // It fails where what comes out does not fit.
        let len = self.0.compress_to_buffer(body, &mut packed[LENGTH..]).ok()?;
        packed.truncate(LENGTH + len);
        Some(packed)
    }
}

/// Returns the plain body of a packed one. What it says of its length is bounded before it is allocated.
///
/// # Errors
/// If it is longer than any body, not longer than it is packed, or not what it says.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    let Some((length, data)) = packed.split_first_chunk::<LENGTH>() else {
        return Err("a packed frame is cut".into());
    };
    let len = u32::from_le_bytes(*length) as usize;
    if len > MAX_BODY || len < packed.len() {
        return Err(format!("a packed frame of {len} bytes"));
    }
    let mut body = vec![0; len];
    match decompress_to_buffer(data, &mut body[..]) {
        Ok(found) if found == len => Ok(body),
        Ok(found) => Err(format!("a packed frame has {found} bytes instead of {len}")),
        Err(error) => Err(format!("a packed frame cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that nothing makes smaller.
    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_body_comes_out_as_it_went_in() {
        let mut packer = Packer::new().unwrap();
        for len in [LEAST, 100_000, MAX_BODY] {
            let body = b"src/web/node_modules/".iter().copied().cycle().take(len).collect::<Vec<_>>();
            let packed = packer.pack(&body).unwrap();
            assert!(packed.len() < len / 5);
            assert_eq!(unpack(&packed).unwrap(), body);
        }
    }

    #[test]
    fn what_does_not_get_smaller_goes_as_it_is() {
        let mut packer = Packer::new().unwrap();
        assert_eq!(packer.pack(&noise(100_000)), None);
        assert_eq!(packer.pack(&[0; LEAST - 1]), None);
        assert_eq!(packer.pack(&vec![0; MAX_BODY + 1]), None);
    }

    #[test]
    fn a_body_that_says_something_else_than_it_holds_is_refused() {
        let body = vec![7; 10_000];
        let good = Packer::new().unwrap().pack(&body).unwrap();
        let says = |len: usize| [&(len as u32).to_le_bytes()[..], &good[LENGTH..]].concat();
        assert_eq!(unpack(&says(10_000)).unwrap(), body);
        for bad in [says(9_999), says(10_001), says(MAX_BODY + 1), says(1), good[..3].to_vec(), vec![0; 9]] {
            assert!(unpack(&bad).is_err(), "{}", bad.len());
        }
        assert!(unpack(&good[..good.len() - 3]).is_err());
    }
}
