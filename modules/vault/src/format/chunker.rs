//! Content-defined chunking: a Rabin fingerprint over 64 bytes decides where a file is cut.
//!
//! The same polynomial cuts the same file at the same places, whoever writes: that is what lets several machines and
//! restic itself share what they store.

use super::polynomial::{DEGREE, Polynomial};

const WINDOW: usize = 64;
/// No chunk but the last of a file is smaller.
pub const MIN: usize = 512 << 10;
/// No chunk is larger.
pub const MAX: usize = 8 << 20;
/// Cuts fall where these bits of the fingerprint are zero: every MiB on average.
const MASK: u64 = (1 << 20) - 1;

/// Cuts files for one repository; its tables are made once.
pub struct Chunker {
    /// What a byte contributes when it is the oldest of the window.
    leave: [u64; 256],
    /// Takes the highest byte back below the degree.
    reduce: [u64; 256],
}

impl Chunker {
    /// Prepares the tables.
    pub fn new(polynomial: Polynomial) -> Self {
        let shift = |byte: u64, by| polynomial.shift(byte, by);
        let window = 8 * (WINDOW as u32 - 1);
        let leave = std::array::from_fn(|byte| shift(byte as u64, window));
        let reduce = std::array::from_fn(|byte| shift(byte as u64, DEGREE) | (byte as u64) << DEGREE);
        Self { leave, reduce }
    }

    /// Returns the length of the first chunk of `data`, which holds [`MAX`] bytes or all that is left of the file.
    pub fn cut(&self, data: &[u8]) -> usize {
        let end = data.len().min(MAX);
        if end <= MIN {
            return end;
        }
        // The window of a fresh chunk holds a single 1 and zeros, so that leading zeros count.
        let mut digest = 1;
        for (at, byte) in data[MIN - WINDOW..MIN].iter().enumerate() {
            let oldest = usize::from(at == WINDOW - 1);
            digest = self.slide(digest, oldest, *byte);
        }
        let mut at = MIN;
        while digest & MASK != 0 && at < end {
            digest = self.slide(digest, usize::from(data[at - WINDOW]), data[at]);
            at += 1;
        }
        at
    }

    #[inline]
    fn slide(&self, digest: u64, oldest: usize, byte: u8) -> u64 {
        let digest = digest ^ self.leave[oldest];
        let highest = (digest >> (DEGREE - 8)) as usize;
        (digest << 8 | u64::from(byte)) ^ self.reduce[highest]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunker() -> Chunker {
        Chunker::new(Polynomial::new(0x25_b468_838d_cb75).unwrap())
    }

    fn noise(length: usize, mut seed: u64) -> Vec<u8> {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn cuts(data: &[u8]) -> Vec<usize> {
        let (chunker, mut at, mut lengths) = (chunker(), 0, Vec::new());
        while at < data.len() {
            lengths.push(chunker.cut(&data[at..]));
            at += lengths[lengths.len() - 1];
        }
        lengths
    }

    #[test]
    fn chunks_keep_their_limits_and_their_average() {
        let lengths = cuts(&noise(64 << 20, 42));
        let (last, others) = lengths.split_last().unwrap();
        assert!(others.iter().all(|length| (MIN..=MAX).contains(length)) && *last <= MAX);
        let average = (64 << 20) / lengths.len();
        assert!(((1 << 20)..(2 << 20)).contains(&average), "{average}");
    }

    #[test]
    fn what_is_small_is_one_chunk_and_what_never_matches_is_cut_at_the_limit() {
        assert_eq!(cuts(&[0; 1000]), [1000]);
        assert_eq!(cuts(&vec![0; MIN]), [MIN]);
        assert!(cuts(&vec![0; 3 * MAX]).iter().all(|length| *length == MAX || *length == MIN));
    }

    #[test]
    fn an_insertion_moves_only_the_cuts_near_it() {
        let before = noise(16 << 20, 7);
        let mut after = before.clone();
        after.insert(100, 1);
        let (old, new) = (cuts(&before), cuts(&after));
        let same = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(same + 3 >= old.len(), "{same} of {}", old.len());
    }

    #[test]
    fn a_fingerprint_depends_on_the_last_64_bytes_alone() {
        let chunker = chunker();
        let data = noise(MIN + 400, 3);
        let fold = |from: usize| {
            let start = &data[from..];
            let mut digest = 1;
            for (at, byte) in start.iter().enumerate() {
                let oldest = match at {
                    0..63 => 0,
                    63 => 1,
                    _ => usize::from(start[at - WINDOW]),
                };
                digest = chunker.slide(digest, oldest, *byte);
            }
            digest
        };
        assert_eq!(fold(MIN), fold(MIN + 200));
    }
}
