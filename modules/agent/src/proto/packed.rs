//! Content that is compressed for a slow link.
//!
//! Each frame is compressed by itself, so the two ends share no state, and any frame may go as it is. What is decoded is
//! bounded before it is allocated: whoever unpacks is root.

use serde::Deserialize;
use zstd::bulk::{Compressor, decompress_to_buffer};

use super::apply::{Piece, StreamFrame};
use super::{decode, encode};

/// No packed frame holds more than so many bytes; what is read of files comes in a quarter of that.
pub const MOST_PLAIN: usize = 1 << 20;

/// The level that is faster than most links and takes most of what there is to gain (facts/vault-engine.md).
const LEVEL: i32 = 1;

/// Shorter frames are not worth a try.
const LEAST: usize = 512;

/// The first byte of a [`StreamFrame::Content`].
const CONTENT: u8 = 0;

/// Compresses frames of content, if that helps.
pub struct Packer {
    compressor: Compressor<'static>,
    out: Vec<u8>,
    /// The file that could not be made smaller a moment ago.
    futile: Option<u32>,
}

impl Packer {
    /// Makes one.
    ///
    /// # Errors
    /// If there is no memory for its tables.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { compressor: Compressor::new(LEVEL)?, out: Vec::new(), futile: None })
    }

    /// Whether a frame is worth a try: content, and no more of a file that could not be made smaller.
    pub fn is_worthy(&self, frame: &[u8]) -> bool {
        frame.first() == Some(&CONTENT)
            && (LEAST..=MOST_PLAIN).contains(&frame.len())
            && (self.futile.is_none() || only_file(frame) != self.futile)
    }

    /// Returns an encoded frame of content as an encoded [`StreamFrame::Packed`]; none if that would save less than a tenth.
    pub fn pack(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        if !self.is_worthy(frame) {
            return None;
        }
        let pieces = &frame[1..];
        let room = pieces.len() / 10 * 9;
        self.out.resize(room.max(self.out.len()), 0);
        // It fails where what comes out does not fit.
        let Ok(len) = self.compressor.compress_to_buffer(pieces, &mut self.out[..room]) else {
            self.futile = only_file(frame);
            return None;
        };
        self.futile = None;
        let (plain, data) = (pieces.len() as u32, self.out[..len].to_vec());
        Some(encode(&StreamFrame::Packed { plain, data }))
    }
}

/// Returns the number of the file that a frame of content holds, if it is one only.
fn only_file(frame: &[u8]) -> Option<u32> {
    let ((count, content), _) = postcard::take_from_bytes::<(u32, u32)>(frame.get(1..)?).ok()?;
    (count == 1).then_some(content)
}

/// Returns the pieces of a [`StreamFrame::Packed`].
///
/// # Errors
/// If it says that it holds too much, holds something else than it says, or is no content.
pub fn unpack(plain: u32, data: &[u8]) -> Result<Vec<Piece>, String> {
    let len = plain as usize;
    if len > MOST_PLAIN {
        return Err(format!("packed content of {len} bytes is over the limit of {MOST_PLAIN}"));
    }
    let mut bytes = vec![0; len];
    let found = decompress_to_buffer(data, &mut bytes[..])
        .map_err(|error| format!("packed content cannot be read: {error}"))?;
    if found != len {
        return Err(format!("packed content has {found} bytes instead of {len}"));
    }
    decode::<Pieces>(&bytes).map(|pieces| pieces.0)
}

#[derive(Deserialize)]
struct Pieces(#[serde(deserialize_with = "super::few")] Vec<Piece>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(content: u32, data: &[u8]) -> Vec<u8> {
        encode(&StreamFrame::Content(vec![Piece { content, offset: 7, data: data.to_vec(), last: None }]))
    }

    /// Bytes that nothing makes smaller.
    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn packed(plain: u32, bytes: &[u8]) -> Result<Vec<Piece>, String> {
        unpack(plain, &zstd::bulk::compress(bytes, 1).unwrap())
    }

    #[test]
    fn content_comes_out_as_it_went_in_and_takes_less_meanwhile() {
        let mut packer = Packer::new().unwrap();
        let text = b"the same again and again, ".repeat(4000);
        let frame = content(3, &text);
        let short = packer.pack(&frame).unwrap();
        assert!(
            short.len() < frame.len() / 20
                && !StreamFrame::is_content(&short)
                && StreamFrame::is_bulk(&short)
        );
        let Ok(StreamFrame::Packed { plain, data }) = decode(&short) else { panic!("something else") };
        assert_eq!(unpack(plain, &data).unwrap()[0].data, text);
    }

    #[test]
    fn what_does_not_get_smaller_goes_as_it_is_and_the_rest_of_its_file_is_not_tried() {
        let mut packer = Packer::new().unwrap();
        let text = vec![b'a'; 10_000];
        assert!(packer.pack(&content(3, &noise(100_000))).is_none());
        assert!(!packer.is_worthy(&content(3, &text)) && packer.pack(&content(3, &text)).is_none());
        assert!(packer.pack(&content(4, &text)).is_some());
        assert!(packer.pack(&content(3, &text)).is_some());
        assert!(packer.pack(&content(5, b"short")).is_none());
        assert!(packer.pack(&encode(&StreamFrame::Hole { content: 3, at: 0, end: 9 })).is_none());
    }

    #[test]
    fn neither_what_is_said_of_it_nor_what_it_is_can_take_much_memory() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(unpack(u32::MAX, &bomb).unwrap_err().contains("over the limit"));
        assert!(unpack(MOST_PLAIN as u32, &bomb).unwrap_err().contains("cannot be read"));
        // A list of very many empty pieces.
        let mut many = encode(&200_000_u32);
        many.extend(vec![0; 800_000]);
        assert!(packed(many.len() as u32, &many).is_err());
        assert!(packed(3, &[0]).unwrap_err().contains("instead of 3"));
        assert!(packed(1, &[0, 0]).is_err());
        assert_eq!(packed(1, &[0]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_content_or_refused(
            parts in proptest::collection::vec((any::<u32>(), any::<u32>(), "[a-d]{0,400}"), 0..20),
            hit in any::<prop::sample::Index>(),
            with in any::<u8>(),
            lie in -3_i32..4,
        ) {
            let pieces = |(content, offset, text): (u32, u32, String)| Piece {
                content, offset: offset.into(), data: text.into_bytes(), last: None,
            };
            let pieces: Vec<Piece> = parts.into_iter().map(pieces).collect();
            let frame = encode(&StreamFrame::Content(pieces.clone()));
            let Some(packed) = Packer::new().unwrap().pack(&frame) else { return Ok(()) };
            let Ok(StreamFrame::Packed { plain, mut data }) = decode(&packed) else { panic!("something else") };
            prop_assert_eq!(unpack(plain, &data), Ok(pieces));
            prop_assert_eq!(unpack(plain.saturating_add_signed(lie), &data).is_ok(), lie == 0);
            let cut = hit.index(data.len());
            prop_assert!(unpack(plain, &data[..cut]).is_err());
            // Damage may hit a byte that says nothing; the digest of the file finds what it changed.
            data[cut] ^= with;
            let _ = unpack(plain, &data);
        }
    }
}
