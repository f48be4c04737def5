//! The kinds of files of a home: how many, how large, where.

use super::super::random::Random;

/// One kind of file: share of all files in percent, share of small ones, sizes of small and of other ones.
#[derive(Debug)]
pub(super) struct Sort {
    pub(super) percent: usize,
    small_percent: u64,
    small: (u64, u64),
    large: (u64, u64),
    name: fn(usize) -> String,
    /// Whether syncs leave it out: it is made anew at need.
    pub(super) is_cache: bool,
}

/// The directory that is renamed as a whole, with about a third of all files.
pub(super) const PACKAGES: &str = "src/web/node_modules";

/// About 2.1 GB for 100,000 files, two thirds of it in a tenth of them.
pub(super) const SORTS: [Sort; 8] = [
    sort(34, 60, (20, 2_000), (2_000, 20_000), package),
    sort(16, 80, (40, 2_000), (2_000, 30_000), object),
    sort(13, 50, (100, 8_000), (8_000, 24_000), source),
    sort(10, 70, (800, 8_000), (8_000, 60_000), mail),
    Sort { is_cache: true, ..sort(12, 60, (200, 8_000), (8_000, 60_000), cached) },
    sort(8, 50, (4_000, 40_000), (40_000, 200_000), document),
    sort(3, 40, (20_000, 100_000), (100_000, 500_000), picture),
    sort(4, 80, (10, 4_000), (4_000, 30_000), setting),
];

/// Where the pictures stand among them.
pub(super) const PICTURES: usize = 6;

/// Sizes of all files of a home of small ones: they lie in the tree itself, and a million of them take a gigabyte.
pub(super) const TINY: (u64, u64) = (20, 1_500);

const fn sort(
    percent: usize,
    small_percent: u64,
    small: (u64, u64),
    large: (u64, u64),
    name: fn(usize) -> String,
) -> Sort {
    Sort { percent, small_percent, small, large, name, is_cache: false }
}

impl Sort {
    pub(super) fn name(&self, n: usize) -> String {
        (self.name)(n)
    }

    pub(super) fn length(&self, random: &mut Random) -> u64 {
        let (least, most) = if random.below(100) < self.small_percent { self.small } else { self.large };
        least + random.below(most - least)
    }

    /// Returns what a hundred of these take on average.
    pub(super) fn bytes_of_hundred(&self) -> u64 {
        let mean = |(least, most): (u64, u64)| (least + most) / 2;
        mean(self.small) * self.small_percent + mean(self.large) * (100 - self.small_percent)
    }
}

fn package(n: usize) -> String {
    format!("{PACKAGES}/package-{}/lib-{}/part-{n}.js", n / 60, n / 12 % 5)
}

fn object(n: usize) -> String {
    format!("src/tool-{}/.git/objects/{:02x}/{n:038x}", n % 6, n / 6 % 256)
}

fn source(n: usize) -> String {
    format!("src/tool-{}/source/module-{}/file-{n}.rs", n % 6, n / 90)
}

/// Four of five lie in one directory: 24,000 of 300,000 files.
fn mail(n: usize) -> String {
    let folder = if n % 5 == 4 { format!("Mail/.Archive.{}", 2010 + n / 5 % 12) } else { "Mail".to_owned() };
    format!("{folder}/cur/{}.M{n}P7.laptop:2,S", 1_600_000_000 + n * 977)
}

fn cached(n: usize) -> String {
    format!(".cache/browser/{:02x}/{n:040x}", n % 256)
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
