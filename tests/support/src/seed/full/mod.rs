//! A home of the size that people have: many small files, few large ones, and a day's work in it. For benchmarks.
//!
//! Invariant: the same seed and number of files make the same home, and the same days of work on it, whatever the number
//! of threads.

mod database;
mod image;
mod large;
mod plan;
mod sorts;
mod work;
mod write;

pub use self::image::Image;

/// Describes a home with so many ordinary files; some more things come on top of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullHome {
    seed: u64,
    files: usize,
    is_tiny: bool,
}

/// The user and group that everything belongs to.
const OWNER: u32 = 1000;

/// Bytes of a block of the file system.
const BLOCK: u64 = 4096;

/// What a day's work did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Files appended to, rewritten in part, or replaced.
    pub edited: usize,
    /// New files.
    pub created: usize,
    /// Files deleted.
    pub deleted: usize,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Bytes of the blocks of 4 KiB that hold something new, up to the end of their files: what whoever looks at blocks
    /// has to send.
    pub block_bytes: u64,
}

impl Changed {
    /// Notes that `length` bytes were written at `at` into a file that has `end` bytes now.
    fn write(&mut self, at: u64, length: u64, end: u64) {
        self.written_bytes += length;
        let (first, last) = (at / BLOCK * BLOCK, (at + length).next_multiple_of(BLOCK).min(end));
        self.block_bytes += last - first;
    }
}

impl FullHome {
    /// Describes a home of alice.
    pub fn new(seed: u64, files: usize) -> Self {
        Self { seed, files, is_tiny: false }
    }

    /// Describes a home with the same names, in which every file has less than 1500 bytes.
    pub fn tiny(seed: u64, files: usize) -> Self {
        Self { seed, files, is_tiny: true }
    }

    /// Returns how many ordinary files it has.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Returns the directory with a third of all files, relative to the home.
    pub fn large_directory() -> &'static str {
        sorts::PACKAGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_counts_in_whole_blocks_up_to_the_end_of_the_file() {
        let count = |at, length, end| {
            let mut changed = Changed::default();
            changed.write(at, length, end);
            (changed.written_bytes, changed.block_bytes)
        };
        assert_eq!(count(0, 200, 200), (200, 200));
        assert_eq!(count(5_000, 200, 9_000), (200, 4_096));
        assert_eq!(count(4_000, 200, 9_000), (200, 8_192));
        assert_eq!(count(8_500, 500, 9_000), (500, 808));
    }
}
