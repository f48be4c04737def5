//! A home of the size that people have: many small files, few large ones, and a day's work in it. For benchmarks.
//!
//! Invariant: the same seed and number of files make the same home, and the same days of work on it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt, lchown},
    path::{Path, PathBuf},
};

use rustix::fs::{XattrFlags, setxattr};

use super::{random::Random, tree::Tree};

/// Bytes that contents are cut out of; no tool that is measured compresses or looks for equal parts.
const POOL: usize = 8 << 20;

/// One kind of file: share of all files in percent, share of small ones, sizes of small and of other ones.
struct Sort {
    percent: usize,
    small_percent: u64,
    small: (u64, u64),
    large: (u64, u64),
    name: fn(usize) -> String,
}

/// About 2.2 GB for 100,000 files, two thirds of it in a tenth of them.
const SORTS: [Sort; 7] = [
    Sort { percent: 33, small_percent: 60, small: (20, 2_000), large: (2_000, 20_000), name: package },
    Sort { percent: 20, small_percent: 80, small: (40, 2_000), large: (2_000, 30_000), name: object },
    Sort { percent: 15, small_percent: 50, small: (100, 8_000), large: (8_000, 24_000), name: source },
    Sort { percent: 12, small_percent: 70, small: (800, 8_000), large: (8_000, 60_000), name: mail },
    Sort { percent: 10, small_percent: 50, small: (4_000, 40_000), large: (40_000, 200_000), name: document },
    Sort {
        percent: 5,
        small_percent: 40,
        small: (20_000, 100_000),
        large: (100_000, 340_000),
        name: picture,
    },
    Sort { percent: 5, small_percent: 80, small: (10, 4_000), large: (4_000, 30_000), name: setting },
];

fn package(n: usize) -> String {
    format!("src/web-{}/node_modules/package-{}/lib/part-{}.js", n % 4, n / 80, n)
}

fn object(n: usize) -> String {
    format!("src/tool-{}/.git/objects/{:02x}/{n:038x}", n % 6, n / 6 % 256)
}

fn source(n: usize) -> String {
    format!("src/tool-{}/source/module-{}/file-{n}.rs", n % 6, n / 90)
}

/// One directory with very many entries.
fn mail(n: usize) -> String {
    format!("Mail/cur/{}.M{n}P7.laptop:2,S", 1_600_000_000 + n * 977)
}

fn document(n: usize) -> String {
    format!("Documents/year-{}/folder-{}/paper-{n}.odt", 2010 + n % 15, n / 15 % 40)
}

fn picture(n: usize) -> String {
    format!("Pictures/{}/summer-{}/image-{n}.jpg", 2010 + n % 15, n / 15 % 12)
}

fn setting(n: usize) -> String {
    format!(".config/application-{}/state-{n}.json", n / 25)
}

/// Describes a home with so many files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullHome {
    seed: u64,
    files: usize,
    owner: u32,
}

/// What a day's work did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Files appended to, rewritten in part, or replaced.
    pub edited: usize,
    /// New files.
    pub created: usize,
    /// Files deleted.
    pub deleted: usize,
    /// Files that have another name now.
    pub renamed: usize,
}

impl FullHome {
    /// Describes a home of alice.
    pub fn new(seed: u64, files: usize) -> Self {
        Self { seed, files, owner: 1000 }
    }

    /// Writes it into `home`: files, a symbolic link per 50 of them, a second name per 200, attributes on one in 100, a few
    /// large and sparse ones. Needs root.
    pub fn write(&self, home: &Path) -> io::Result<()> {
        let mut tree = Tree::new(home, self.owner);
        let mut random = Random::new(self.seed);
        let pool = random.bytes(POOL);
        let mut made = 0;
        for sort in &SORTS {
            for n in 0..self.files * sort.percent / 100 {
                let name = (sort.name)(n);
                let is_small = random.below(100) < sort.small_percent;
                let (least, most) = if is_small { sort.small } else { sort.large };
                let length = least + random.below(most - least);
                let path = tree.file(&name, cut(&pool, &mut random, length), 0o644)?;
                made += 1;
                if made % 50 == 0 {
                    tree.symlink(&format!("links/link-{made}"), &format!("../{name}"))?;
                }
                if made % 200 == 0 {
                    tree.hard_link(&format!("links/name-{made}"), &name)?;
                }
                if made % 100 == 0 {
                    setxattr(&path, "user.xdg.tags", b"from the seed", XattrFlags::empty())?;
                }
            }
        }
        for n in 0..self.files / 12_500 {
            tree.file(format!("data/base-{n}.db"), cut(&pool, &mut random, 4 << 20), 0o600)?;
            tree.sparse(
                &format!("data/sparse-{n}.img"),
                64 << 20,
                &[(0, vec![1; 4096]), (32 << 20, vec![2; 4096])],
            )?;
        }
        for n in 0..self.files / 50_000 {
            let path = tree.file(format!("Videos/film-{n}.mkv"), b"", 0o644)?;
            let film = File::options().write(true).open(path)?;
            for at in 0..25_u64 {
                film.write_all_at(cut(&pool, &mut random, 4 << 20), at * (4 << 20))?;
            }
        }
        tree.set_times(&mut random, &[])
    }

    /// Does the work of the given day: of each 100 files one changes. Of those are 40 appended to, 20 rewritten in place, 15
    /// replaced by another file, 10 new, 10 deleted, 5 renamed.
    pub fn work(&self, home: &Path, day: u64) -> io::Result<Changed> {
        let mut random = Random::new(self.seed ^ (day << 32));
        let pool = random.bytes(1 << 20);
        let mut files = Vec::new();
        for top in ["src", "Mail", "Documents", "Pictures", ".config"] {
            plain_files(&home.join(top), &mut files)?;
        }
        let mut changed = Changed::default();
        for number in 0..self.files.div_ceil(100).min(files.len()) {
            let at = usize::try_from(random.below(files.len() as u64)).unwrap_or_default();
            let path = files.swap_remove(at);
            let bytes = cut(&pool, &mut random, 200);
            let beside = path.with_extension(format!("day-{day}-{number}"));
            match random.below(100) {
                0..40 => {
                    let file = File::options().write(true).open(&path)?;
                    file.write_all_at(bytes, file.metadata()?.len())?;
                    changed.edited += 1;
                }
                40..60 => {
                    let file = File::options().write(true).open(&path)?;
                    file.write_all_at(bytes, random.below(file.metadata()?.len()))?;
                    changed.edited += 1;
                }
                60..75 => {
                    let length = fs::metadata(&path)?.len().min(pool.len() as u64);
                    self.create(&beside, cut(&pool, &mut random, length))?;
                    fs::rename(&beside, &path)?;
                    changed.edited += 1;
                }
                75..85 => {
                    let length = 20 + random.below(40_000);
                    self.create(&beside, cut(&pool, &mut random, length))?;
                    changed.created += 1;
                }
                85..95 => {
                    fs::remove_file(&path)?;
                    changed.deleted += 1;
                }
                _ => {
                    fs::rename(&path, &beside)?;
                    changed.renamed += 1;
                }
            }
        }
        Ok(changed)
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::write(path, bytes)?;
        lchown(path, Some(self.owner), Some(self.owner))
    }
}

fn cut<'a>(pool: &'a [u8], random: &mut Random, length: u64) -> &'a [u8] {
    let length = usize::try_from(length).unwrap_or(pool.len()).min(pool.len() / 2);
    let room = (pool.len() - length) as u64;
    let at = usize::try_from(random.below(room)).unwrap_or_default();
    &pool[at..at + length]
}

/// Collects the files with one name and some content, in order of their paths.
fn plain_files(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file_type = entry.file_type()?;
        if file_type.is_dir() {
            plain_files(&entry.path(), files)?;
        } else if file_type.is_file()
            && entry.metadata().is_ok_and(|seen| seen.nlink() == 1 && seen.len() > 0)
        {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_of_files_make_a_whole() {
        assert_eq!(SORTS.iter().map(|sort| sort.percent).sum::<usize>(), 100);
        let mean = |(least, most): (u64, u64)| (least + most) / 2;
        let bytes: u64 = SORTS
            .iter()
            .map(|sort| {
                let small = mean(sort.small) * sort.small_percent;
                (small + mean(sort.large) * (100 - sort.small_percent)) * sort.percent as u64 / 100
            })
            .sum();
        // Per file; with films and databases that makes the 2.2 GB.
        assert!((18_000..21_000).contains(&(bytes / 100)), "{}", bytes / 100);
    }
}
