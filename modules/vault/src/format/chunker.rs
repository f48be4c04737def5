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
/// Parts of a file that are gone through in step, and how many bytes of each at once.
const LANES: usize = 4;
const STRIDE: usize = 8 << 10;

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
        if self.fingerprint(&data[MIN - WINDOW..MIN]) & MASK == 0 {
            return MIN;
        }
        let mut at = MIN;
        while end - at >= LANES * STRIDE {
            if let Some(cut) = self.cut_in_lanes(&data[at - WINDOW..at + LANES * STRIDE]) {
                return at + cut;
            }
            at += LANES * STRIDE;
        }
        let mut digest = self.fingerprint(&data[at - WINDOW..at]);
        while at < end {
            digest = self.slide(digest, data[at - WINDOW], data[at]);
            at += 1;
            if digest & MASK == 0 {
                break;
            }
        }
        at
    }

    /// Returns after how many bytes the first cut of a stretch falls, before which a window lies. Each fingerprint takes the one before it, for
    /// which a processor waits; as those of a window depend on nothing else, several parts of the stretch are gone through in step.
    fn cut_in_lanes(&self, stretch: &[u8]) -> Option<usize> {
        let lanes: [&[u8; WINDOW + STRIDE]; LANES] = std::array::from_fn(|lane| {
            stretch[lane * STRIDE..].first_chunk().expect("the stretch is long enough")
        });
        let mut digests = lanes.map(|lane| self.fingerprint(&lane[..WINDOW]));
        let mut first = [None; LANES];
        for at in 0..STRIDE {
            let mut is_any = false;
            for (digest, lane) in digests.iter_mut().zip(lanes) {
                *digest = self.slide(*digest, lane[at], lane[at + WINDOW]);
                is_any |= *digest & MASK == 0;
            }
            if is_any {
                for (lane, digest) in digests.iter().enumerate() {
                    if digest & MASK == 0 {
                        first[lane].get_or_insert(lane * STRIDE + at + 1);
                    }
                }
            }
        }
        first.into_iter().flatten().next()
    }

    /// Returns the fingerprint of a window. That of a fresh chunk holds a single 1 and zeros, so that leading zeros count.
    fn fingerprint(&self, window: &[u8]) -> u64 {
        let (last, before) = window.split_last().unwrap_or((&0, &[]));
        let digest = before.iter().fold(1, |digest, byte| self.slide(digest, 0, *byte));
        self.slide(digest, 1, *last)
    }

    #[inline]
    fn slide(&self, digest: u64, oldest: u8, byte: u8) -> u64 {
        let digest = digest ^ self.leave[usize::from(oldest)];
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

    /// Where one byte after the other is gone through.
    fn cut_one_by_one(chunker: &Chunker, data: &[u8]) -> usize {
        let end = data.len().min(MAX);
        if end <= MIN {
            return end;
        }
        let (mut at, mut digest) = (MIN, chunker.fingerprint(&data[MIN - WINDOW..MIN]));
        while digest & MASK != 0 && at < end {
            digest = chunker.slide(digest, data[at - WINDOW], data[at]);
            at += 1;
        }
        at
    }

    #[test]
    fn parts_in_step_are_cut_where_one_after_the_other_would_be() {
        let chunker = chunker();
        let same =
            |data: &[u8]| assert_eq!(chunker.cut(data), cut_one_by_one(&chunker, data), "{}", data.len());
        // Something that is cut, with its end, at every place of a stretch.
        let data = noise(6 << 20, 99);
        let cut = (0..)
            .map(|from| chunker.cut(&data[from..]))
            .find(|cut| (MIN + 100_000..MAX).contains(cut))
            .unwrap();
        for step in (0..2 * LANES * STRIDE).step_by(331).chain([0, 1, STRIDE - 1, STRIDE, STRIDE + 1]) {
            same(&data[step..]);
            same(&data[step..cut.max(step + MIN)]);
        }
        for length in [
            0,
            1,
            MIN - 1,
            MIN,
            MIN + 1,
            MIN + STRIDE,
            MIN + LANES * STRIDE - 1,
            MIN + LANES * STRIDE,
            MIN + LANES * STRIDE + 1,
        ] {
            same(&data[..length]);
        }
        // Two cuts close to each other, in one lane and in two.
        let end = cut_one_by_one(&chunker, &data);
        for distance in [WINDOW, STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE] {
            let mut twice = data[..end].to_vec();
            twice.extend_from_slice(&data[end - distance.max(WINDOW)..end]);
            twice.extend_from_slice(&data[end..end + MIN]);
            for from in
                (0..LANES * STRIDE).step_by(1009).chain(end - MIN - distance..end - MIN - distance + 2)
            {
                same(&twice[from..]);
            }
        }
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
                    _ => start[at - WINDOW],
                };
                digest = chunker.slide(digest, oldest, *byte);
            }
            digest
        };
        assert_eq!(fold(MIN), fold(MIN + 200));
    }
}
