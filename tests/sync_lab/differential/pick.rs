//! What there is to change, and names for what comes.

use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt, fs::FileTypeExt},
    path::{Path, PathBuf},
};

use pc_switcher_testkit::seed::Random;

/// Returns every path below a tree, parents first, in an order that depends on the names alone.
pub fn paths(tree: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let entries = fs::read_dir(tree.join(&dir)).unwrap().map(|entry| entry.unwrap());
        let mut entries: Vec<(PathBuf, bool)> =
            entries.map(|entry| (dir.join(entry.file_name()), entry.file_type().unwrap().is_dir())).collect();
        entries.sort();
        for (path, is_dir) in entries {
            if is_dir {
                todo.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// Draws one of these.
pub fn one_of<T: Clone>(random: &mut Random, things: &[T]) -> Option<T> {
    let index = random.below(u64::try_from(things.len().max(1)).unwrap());
    things.get(usize::try_from(index).unwrap()).cloned()
}

/// A tree with its entries by kind.
pub struct Picked {
    pub all: Vec<PathBuf>,
    pub files: Vec<PathBuf>,
    /// What may get more names: files, symbolic links, pipes.
    pub linkable: Vec<PathBuf>,
    /// With the tree's root.
    pub dirs: Vec<PathBuf>,
}

impl Picked {
    pub fn read(tree: &Path) -> Self {
        let all: Vec<PathBuf> = paths(tree).into_iter().map(|path| tree.join(path)).collect();
        let kind = |path: &PathBuf| path.symlink_metadata().unwrap().file_type();
        let may_have_names = |path: &&PathBuf| {
            let kind = kind(path);
            kind.is_file() || kind.is_symlink() || kind.is_fifo()
        };
        let linkable = all.iter().filter(may_have_names).cloned().collect();
        let files = all.iter().filter(|path| kind(path).is_file()).cloned().collect();
        let mut dirs = vec![tree.to_owned()];
        dirs.extend(all.iter().filter(|path| kind(path).is_dir()).cloned());
        Self { all, files, linkable, dirs }
    }

    /// Returns a path that does not exist, in one of the directories.
    pub fn free(&self, random: &mut Random) -> PathBuf {
        let dir = one_of(random, &self.dirs).expect("the root is one of them");
        // A few names only, so that what goes comes again.
        let name = loop {
            let name = name(random);
            if dir.join(&name).symlink_metadata().is_err() {
                break name;
            }
        };
        dir.join(name)
    }
}

fn name(random: &mut Random) -> OsString {
    let number = random.below(40);
    match random.below(24) {
        0 => format!("skip-{number}").into(),
        1 => format!("new\nline {number}").into(),
        2 => OsString::from_vec([b"\xff\xfe-".as_slice(), number.to_string().as_bytes()].concat()),
        3 => format!("-n --delete {number}").into(),
        4 => format!("ünïcode 🦀 {number}").into(),
        5 => format!("{number}-{}", "long".repeat(60)).into(),
        6 => format!("*[{number}]?\\").into(),
        7 => format!(".hidden{number}").into(),
        _ => format!("n{number}").into(),
    }
}
