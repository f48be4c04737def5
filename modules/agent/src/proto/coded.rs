//! Content that is compressed on the source's disk and stays so on its way.
//!
//! What a part of an extent holds is told by the kernel of the source; the target does not believe it: it decodes each piece
//! within these bounds, and the digest of the file is over what comes out.

use serde::{Deserialize, Serialize};
use zstd::bulk::decompress_to_buffer;
use zstd::zstd_safe::find_frame_compressed_size;

/// Neither the bytes of a compressed extent nor what they hold are more (`BTRFS_MAX_COMPRESSED`).
pub const LARGEST_EXTENT: usize = 128 << 10;

/// How a piece is compressed: as a part of what one frame of zstd holds, which zeros may follow up to the end of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coding {
    /// Which piece of the frame.
    pub piece: u32,
    /// Bytes of the file that it stands for.
    pub len: u32,
    /// Bytes that the extent holds.
    pub whole: u32,
    /// Where in them those of the file begin.
    pub skip: u32,
}

impl Coding {
    /// Whether it can be true of any extent.
    pub fn is_possible(self) -> bool {
        let end = self.skip.checked_add(self.len);
        self.len > 0 && self.whole as usize <= LARGEST_EXTENT && end.is_some_and(|end| end <= self.whole)
    }

    /// Returns the bytes of the file that an extent holds.
    ///
    /// # Errors
    /// If it cannot be, or holds something else.
    pub fn decoded(self, data: &[u8]) -> Result<Vec<u8>, String> {
        if !self.is_possible() || data.len() > LARGEST_EXTENT {
            return Err("an extent is larger than any can be".into());
        }
        let broken = |why: &str| format!("an extent cannot be read: {why}");
        let frame = find_frame_compressed_size(data).map_err(|_| broken("it is no frame of zstd"))?;
        let frame = data.get(..frame).ok_or_else(|| broken("it is cut"))?;
        let mut bytes = vec![0; self.whole as usize];
        let found =
            decompress_to_buffer(frame, &mut bytes[..]).map_err(|error| broken(&error.to_string()))?;
        let (begin, end) = (self.skip as usize, (self.skip + self.len) as usize);
        if found < end {
            return Err(broken("it is too short"));
        }
        bytes.truncate(end);
        bytes.drain(..begin);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn coding(len: u32, whole: u32, skip: u32) -> Coding {
        Coding { piece: 0, len, whole, skip }
    }

    /// As btrfs stores it: zeros up to the end of the block.
    fn extent(bytes: &[u8]) -> Vec<u8> {
        let mut data = zstd::bulk::compress(bytes, 3).unwrap();
        data.resize(data.len().next_multiple_of(4096), 0);
        data
    }

    #[test]
    fn a_part_of_an_extent_is_what_the_file_holds_there() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at / 9 % 250) as u8).collect();
        let data = extent(&bytes);
        assert_eq!(coding(100_000, 100_000, 0).decoded(&data).unwrap(), bytes);
        assert_eq!(coding(5000, 100_000, 4096).decoded(&data).unwrap(), bytes[4096..9096]);
        assert!(coding(100_000, 102_400, 4096).decoded(&data).unwrap_err().contains("larger than any"));
        assert!(coding(102_400, 102_400, 0).decoded(&data).unwrap_err().contains("too short"));
        assert!(coding(100, 50_000, 0).decoded(&data).is_err());
        assert!(coding(100, 100_000, 0).decoded(&data[..100]).is_err());
    }

    #[test]
    fn no_bomb_and_no_lie_takes_more_than_an_extent_can_hold() {
        let bomb = extent(&vec![0; 32 << 20]);
        for lie in
            [coding(u32::MAX, u32::MAX, 0), coding(1, u32::MAX, 0), coding(1, 1, u32::MAX), coding(0, 0, 0)]
        {
            assert!(lie.decoded(&bomb).unwrap_err().contains("larger than any"));
        }
        assert!(coding(131_072, 131_072, 0).decoded(&bomb).is_err());
        assert!(coding(1, 131_072, 0).decoded(&vec![0; 1 << 20]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_as_long_as_it_says_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            (len, whole, skip) in (0_u32..5000, 0_u32..5000, 0_u32..5000),
            hit in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let mut data = extent(&bytes);
            let hit = hit.index(data.len());
            data[hit] ^= with;
            if let Ok(found) = coding(len, whole, skip).decoded(&data) {
                prop_assert_eq!(found.len(), len as usize);
            }
            let _ = coding(len, whole, skip).decoded(&bytes);
        }
    }
}
