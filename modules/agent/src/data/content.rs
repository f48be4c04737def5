//! The digest of a file's content: BLAKE3 of all bytes with holes read as zeros, however the bytes come in.

/// Zeros that stand for a hole.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A digest under way. Bytes are added from the beginning to the end; what is passed over is a hole.
pub(super) struct ContentHash {
    hasher: blake3::Hasher,
    end: u64,
}

impl ContentHash {
    pub(super) fn new() -> Self {
        Self { hasher: blake3::Hasher::new(), end: 0 }
    }

    /// Adds bytes at an offset.
    pub(super) fn add(&mut self, offset: u64, data: &[u8]) {
        self.zeros(offset, || false);
        self.hasher.update(data);
        self.end = self.end.max(offset) + data.len() as u64;
    }

    /// Adds the hole up to an offset. Returns false if `stop` said so before its end.
    pub(super) fn zeros(&mut self, to: u64, stop: impl Fn() -> bool) -> bool {
        while self.end < to {
            if stop() {
                return false;
            }
            let step = (to - self.end).min(ZEROS.len() as u64);
            self.hasher.update(&ZEROS[..step as usize]);
            self.end += step;
        }
        true
    }

    /// Returns the digest of a file of this size.
    pub(super) fn finish(&mut self, size: u64) -> [u8; 32] {
        self.zeros(size, || false);
        self.hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_zeros_wherever_they_are() {
        let mut whole = vec![0; 200_000];
        whole[70_000..70_003].copy_from_slice(b"abc");
        let mut hash = ContentHash::new();
        hash.add(70_000, b"ab");
        hash.add(70_002, b"c");
        assert_eq!(hash.finish(200_000), *blake3::hash(&whole).as_bytes());
        assert_eq!(ContentHash::new().finish(0), *blake3::hash(b"").as_bytes());
        assert!(!ContentHash::new().zeros(1, || true));
    }
}
