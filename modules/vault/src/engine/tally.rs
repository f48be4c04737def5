//! How far several threads are together.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Observer, Progress};

/// Adds up what was written, and tells it as a part of the whole.
pub(crate) struct Tally<'o> {
    observer: &'o dyn Observer,
    files: AtomicU64,
    bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl<'o> Tally<'o> {
    /// Begins with nothing of so many bytes, 0 while nobody knows.
    pub(crate) fn new(observer: &'o dyn Observer, total_bytes: u64) -> Self {
        let (files, bytes) = Default::default();
        Self { observer, files, bytes, total_bytes: AtomicU64::new(total_bytes) }
    }

    /// Says how much there is in all.
    pub(crate) fn expect(&self, total_bytes: u64) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Counts so many bytes of what has this name.
    pub(crate) fn add(&self, item: &Path, bytes: u64) {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (files, total_bytes) =
            (self.files.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed));
        self.observer.progress(Progress { files, bytes, total_bytes, item: item.to_owned() });
    }

    /// Counts a file that is complete.
    pub(crate) fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }
}

impl Observer for Tally<'_> {
    fn progress(&self, progress: Progress) {
        self.observer.progress(progress);
    }

    fn is_cancelled(&self) -> bool {
        self.observer.is_cancelled()
    }

    fn wrote(&self, file: &Path, bytes: u64) {
        self.add(file, bytes);
    }

    fn is_watched(&self) -> bool {
        self.observer.is_watched()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(u64, u64, u64)>>);

    impl Observer for Heard {
        fn progress(&self, progress: Progress) {
            self.0.lock().unwrap().push((progress.files, progress.bytes, progress.total_bytes));
        }

        fn is_cancelled(&self) -> bool {
            false
        }
    }

    #[test]
    fn pieces_add_up_to_a_part_of_the_whole() {
        let heard = Heard::default();
        let tally = Tally::new(&heard, 0);
        tally.wrote(Path::new("a"), 3);
        tally.expect(10);
        tally.add_file();
        tally.wrote(Path::new("b"), 4);
        assert_eq!(*heard.0.lock().unwrap(), [(0, 3, 0), (1, 7, 10)]);
    }
}
