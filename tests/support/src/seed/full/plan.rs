//! What a home holds, by numbers alone: nothing is written here, and each file is known without the others.

use super::{
    super::random::Random,
    FullHome,
    sorts::{PICTURES, SORTS, TINY},
};

/// Bytes that contents are cut out of; no tool that is measured compresses or looks for equal parts.
pub(super) const POOL: u64 = 8 << 20;
/// The largest content that is cut out in one piece.
const PIECE: u64 = POOL / 2;
/// Two copies of what a file takes in the trees of btrfs, with its names.
const TREE_BYTES: u64 = 2_048;
/// What is lost in the last block of a file, on average.
const BLOCK_REST: u64 = 2_048;

/// One ordinary file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) length: u64,
    /// Where its content begins in the pool.
    pub(super) at: u64,
    pub(super) time: Time,
    pub(super) more: More,
}

/// Seconds and nanoseconds.
pub(super) type Time = (i64, i64);

/// What one file in some has besides its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct More {
    /// A symbolic link elsewhere leads to it: one in 50.
    pub(super) symlink: bool,
    /// It has a second name: one in 200.
    pub(super) second_name: Option<Place>,
    /// It has an attribute of the user's: one in 100.
    pub(super) attribute: bool,
    /// It has an access control list: one in 500.
    pub(super) access_list: bool,
}

/// Where a second name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Beside,
    Elsewhere,
}

impl More {
    /// Returns what the file with this number among all has.
    pub(super) fn of(index: usize) -> Self {
        let second_name = match index % 400 {
            7 => Some(Place::Beside),
            207 => Some(Place::Elsewhere),
            _ => None,
        };
        Self {
            symlink: index % 50 == 3,
            second_name,
            attribute: index % 100 == 11,
            access_list: index % 500 == 19,
        }
    }
}

impl FullHome {
    /// Returns how many files of one sort there are.
    pub(super) fn count(&self, sort: usize) -> usize {
        self.files * SORTS[sort].percent / 100
    }

    /// Returns one file.
    pub(super) fn file(&self, sort: usize, n: usize) -> File {
        let index = SORTS[..sort].iter().map(|sort| self.files * sort.percent / 100).sum::<usize>() + n;
        let mut random = Random::new(self.seed ^ ((sort as u64 + 1) << 56) ^ ((n as u64) << 8));
        let drawn = SORTS[sort].length(&mut random);
        let length = if self.is_tiny { TINY.0 + random.below(TINY.1 - TINY.0) } else { drawn };
        let at = random.below(POOL - PIECE);
        File { name: SORTS[sort].name(n), length, at, time: time(&mut random), more: More::of(index) }
    }

    /// Returns number and length of the databases.
    pub(super) fn databases(&self) -> (usize, u64) {
        let count = (self.files / 37_500).max(1);
        (count, (self.files as u64 * 600 / count as u64).min(20 << 20))
    }

    /// Returns number and length of sparse files; of each two blocks are written.
    pub(super) fn sparse_files(&self) -> (usize, u64) {
        match self.files {
            0..50_000 => (10, 8 << 20),
            50_000..200_000 => (10, 64 << 20),
            _ => (10, 1 << 30),
        }
    }

    /// Returns number and length of films, half a gigabyte for 300,000 files.
    pub(super) fn films(&self) -> (usize, u64) {
        let count = self.files.div_ceil(60_000);
        (count, (self.files as u64 * 1_700 / count.max(1) as u64).next_multiple_of(1 << 20).min(100 << 20))
    }

    /// Returns how many pictures have a copy that shares their blocks.
    pub(super) fn copies(&self) -> usize {
        (self.files / 15_000).max(2).min(self.count(PICTURES))
    }

    /// Returns about what it takes on a disk with btrfs.
    pub fn disk_bytes(&self) -> u64 {
        let files = self.files as u64;
        let tree = files * TREE_BYTES;
        if self.is_tiny {
            return tree + files * (TINY.0 + TINY.1) / 2;
        }
        let contents: u64 =
            SORTS.iter().map(|sort| files * sort.percent as u64 * sort.bytes_of_hundred() / 10_000).sum();
        let ((databases, database), (films, film)) = (self.databases(), self.films());
        contents + files * BLOCK_REST + tree + databases as u64 * database + films as u64 * film
    }
}

/// Draws a time in the six years from 2020 on.
pub(super) fn time(random: &mut Random) -> Time {
    const FIRST: i64 = 1_577_836_800;
    const SPAN: u64 = 6 * 365 * 86_400;
    (FIRST + random.below(SPAN).cast_signed(), random.below(1_000_000_000).cast_signed())
}

/// Returns the part of the pool that a content of this length consists of, cut there if it is longer.
pub(super) fn cut(pool: &[u8], at: u64, length: u64) -> &[u8] {
    let (at, length) = (at as usize, length.min(PIECE) as usize);
    &pool[at..at + length]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(home: FullHome) -> impl Iterator<Item = File> {
        (0..SORTS.len()).flat_map(move |sort| (0..home.count(sort)).map(move |n| home.file(sort, n)))
    }

    #[test]
    fn the_kinds_of_files_make_a_whole() {
        assert_eq!(SORTS.iter().map(|sort| sort.percent).sum::<usize>(), 100);
    }

    #[test]
    fn the_same_seed_plans_the_same_home_and_another_one_another() {
        let plan = |seed| all(FullHome::new(seed, 3_000)).collect::<Vec<_>>();
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        let names: std::collections::BTreeSet<String> = plan(1).into_iter().map(|file| file.name).collect();
        assert_eq!(names.len(), 3_000);
    }

    #[test]
    fn the_proportions_hold_at_every_size() {
        for files in [100_000, 300_000, 1_000_000] {
            let home = FullHome::new(1, files);
            let mut seen = [0_usize; 6];
            let (mut bytes, mut mail, mut moved) = (0, 0, 0);
            for file in all(home) {
                let more = file.more;
                let has = [
                    more.symlink,
                    more.second_name == Some(Place::Beside),
                    more.second_name == Some(Place::Elsewhere),
                    more.attribute,
                    more.access_list,
                    file.length <= 2_048,
                ];
                seen.iter_mut().zip(has).for_each(|(seen, has)| *seen += usize::from(has));
                bytes += file.length;
                mail += usize::from(file.name.starts_with("Mail/cur/"));
                moved += usize::from(file.name.starts_with("src/web/node_modules/"));
            }
            // In ten thousandths of all files.
            let shares = seen.map(|seen| (seen * 10_000 + files / 2) / files);
            assert_eq!(shares[..5], [200, 25, 25, 100, 20]);
            assert!((3_500..5_500).contains(&shares[5]), "files that lie in the tree: {}", shares[5]);
            assert!((17_500..20_500).contains(&(bytes / files as u64)), "{} per file", bytes / files as u64);
            assert_eq!((mail, moved), (files * 8 / 100, files * 34 / 100));
        }
    }

    #[test]
    fn what_it_takes_is_told_within_a_fifth() {
        let home = FullHome::new(1, 20_000);
        let ((databases, database), (films, film)) = (home.databases(), home.films());
        let blocks = |length: u64| if length > 2_048 { length.next_multiple_of(4096) } else { 0 };
        let files: u64 = all(home).map(|file| blocks(file.length) + TREE_BYTES).sum();
        let real = files + databases as u64 * database + films as u64 * film;
        let told = home.disk_bytes();
        assert!(told * 10 > real * 9 && told * 10 < real * 12, "told {told}, planned {real}");
    }

    #[test]
    fn a_home_of_tiny_files_has_no_large_one() {
        assert!(all(FullHome::tiny(1, 2_000)).all(|file| (TINY.0..TINY.1).contains(&file.length)));
        assert!(FullHome::tiny(1, 1_000_000).disk_bytes() < 4_000_000_000);
    }
}
