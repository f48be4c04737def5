//! A tree from a seed, with everything that is easily lost.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use pc_switcher_testkit::seed::Random;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat,
};

const MODES: [u32; 8] = [0o644, 0o600, 0o755, 0o000, 0o4755, 0o2750, 0o444, 0o666];
const DIR_MODES: [u32; 5] = [0o755, 0o700, 0o3770, 0o1777, 0o555];
const OWNERS: [u32; 4] = [0, 1000, 1001, 65534];

/// `cap_net_raw+ep` as the kernel keeps it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where a tree grows, and the luck it has.
pub struct Garden<'a> {
    pub root: &'a Path,
    pub random: Random,
    /// Paths made so far, for names that nobody had.
    count: usize,
}

impl Garden<'_> {
    pub fn new(root: &Path, random: Random) -> Garden<'_> {
        Garden { root, random, count: 0 }
    }

    /// Grows some 60 to 160 paths.
    pub fn grow(&mut self) {
        let mut dirs = vec![self.root.to_owned()];
        for _ in 0..5 + self.random.below(12) {
            let parent = self.random.pick(&dirs).clone();
            dirs.push(self.dir(&parent));
        }
        let mut deep = self.root.join("deep");
        fs::create_dir(&deep).unwrap();
        for _ in 0..self.random.below(30) {
            deep = self.dir(&deep);
        }
        dirs.push(deep);
        let crowded = self.random.pick(&dirs).clone();
        for _ in 0..20 + self.random.below(60) {
            self.small_file(&crowded);
        }
        for _ in 0..20 + self.random.below(30) {
            let dir = self.random.pick(&dirs).clone();
            self.something(&dir);
        }
        for _ in 0..2 + self.random.below(3) {
            let dir = self.random.pick(&dirs).clone();
            self.medium_file(&dir);
        }
        if self.random.below(3) == 0 {
            self.large_file(&crowded);
        }
        // From the leaves up: a directory's time moves with what is made in it.
        let all = below(self.root).into_iter().rev().filter(|path| path.is_dir() && !path.is_symlink());
        all.chain([self.root.to_owned()]).for_each(|dir| self.touch(&dir));
    }

    /// Makes anything that is no directory, at times with several names.
    pub fn something(&mut self, dir: &Path) {
        match self.random.below(12) {
            0 => {
                let path = self.fresh(dir);
                symlink(format!("nowhere-{}", self.random.below(100)), &path).unwrap();
                self.own(&path, None);
            }
            1 => {
                let path = self.fresh(dir);
                mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
                self.own(&path, Some(0o640));
            }
            2 => {
                let path = self.fresh(dir);
                let file = File::create(&path).unwrap();
                file.write_all_at(&self.random.bytes(5000), 1 << 20).unwrap();
                file.set_len(2 << 20).unwrap();
                self.own(&path, Some(0o644));
            }
            3..=4 => {
                let path = self.small_file(dir);
                for _ in 0..1 + self.random.below(3) {
                    let place = self.any(|path| path.is_dir() && !path.is_symlink());
                    let name = self.fresh(&place.unwrap_or(dir.to_owned()));
                    fs::hard_link(&path, name).unwrap();
                }
            }
            _ => drop(self.small_file(dir)),
        }
    }

    pub fn dir(&mut self, parent: &Path) -> PathBuf {
        let path = self.fresh(parent);
        fs::create_dir(&path).unwrap();
        let mode = *self.random.pick(&DIR_MODES);
        self.own(&path, Some(mode));
        path
    }

    pub fn small_file(&mut self, dir: &Path) -> PathBuf {
        let path = self.fresh(dir);
        let most = *self.random.pick(&[1, 200, 2000, 5000, 70_000]);
        self.write(&path, most);
        path
    }

    /// One of which others may be made (ADR 12).
    pub fn medium_file(&mut self, dir: &Path) -> PathBuf {
        let path = self.fresh(dir);
        self.write(&path, 400_000);
        path
    }

    pub fn large_file(&mut self, dir: &Path) -> PathBuf {
        let path = self.fresh(dir);
        self.write(&path, 6_000_000);
        path
    }

    /// Writes new content below a size, with new metadata.
    pub fn write(&mut self, path: &Path, most: u64) {
        let length = self.random.below(most) as usize;
        fs::write(path, self.random.bytes(length)).unwrap();
        let mode = *self.random.pick(&MODES);
        self.own(path, Some(mode));
    }

    /// Gives a path other metadata: owner, mode unless it is a link's, attributes, time.
    pub fn own(&mut self, path: &Path, mode: Option<u32>) {
        lchown(path, Some(*self.random.pick(&OWNERS)), Some(*self.random.pick(&OWNERS))).unwrap();
        if let Some(mode) = mode {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let is_file = fs::symlink_metadata(path).unwrap().is_file();
        if is_file && self.random.below(4) == 0 {
            let length = self.random.below(300) as usize;
            let value = self.random.bytes(length);
            lsetxattr(path, "user.note", &value, XattrFlags::empty()).unwrap();
        }
        if is_file && self.random.below(15) == 0 {
            lsetxattr(path, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
        }
        self.touch(path);
    }

    pub fn touch(&mut self, path: &Path) {
        let seconds = self.random.below(2_000_000_000) as i64 - 1000;
        let time = Timespec { tv_sec: seconds, tv_nsec: self.random.below(1_000_000_000) as i64 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    /// Returns a path in `dir` that nothing has.
    pub fn fresh(&mut self, dir: &Path) -> PathBuf {
        self.count += 1;
        let number = self.random.below(1 << 20) << 12 | self.count as u64;
        let name = match self.random.below(20) {
            0 => [b"bad-\xff\xfe-\n".as_slice(), number.to_string().as_bytes()].concat(),
            1 => format!("{}-{number}", "long-".repeat(40)).into_bytes(),
            2 => format!(".hidden {number}").into_bytes(),
            _ => format!("n{number}").into_bytes(),
        };
        dir.join(OsStr::from_bytes(&name))
    }

    /// Returns one of the paths below the root for which something holds.
    pub fn any(&mut self, holds: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let all: Vec<PathBuf> = below(self.root).into_iter().filter(|path| holds(path)).collect();
        (!all.is_empty()).then(|| self.random.pick(&all).clone())
    }
}

/// Returns all paths below a directory, sorted.
fn below(root: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inside = |path: PathBuf| {
        let inner = if path.is_dir() && !path.is_symlink() { below(&path) } else { Vec::new() };
        std::iter::once(path).chain(inner)
    };
    paths.into_iter().flat_map(inside).collect()
}
