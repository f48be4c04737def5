//! A person who works in a tree, in no hurry to be polite, and remembers what must be there afterwards.
//!
//! Each write carries a word that stands nowhere else, so what is lost can be told from what is merely elsewhere.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use pc_switcher_testkit::seed::Random;

/// What the person left at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// A file that holds all these words; none if it was only moved here.
    Words(Vec<String>),
    /// A link that leads there.
    Link(PathBuf),
    /// Nothing.
    Nothing,
}

/// The person, the tree as the host reaches it, and the memory.
pub struct Person {
    tree: PathBuf,
    random: Random,
    name: String,
    words: u32,
    /// By path below the tree.
    pub left: BTreeMap<PathBuf, Left>,
    /// How many edits came about.
    pub edits: u32,
}

impl Person {
    pub fn new(tree: PathBuf, name: String, seed: u64) -> Self {
        Self { tree, random: Random::new(seed), name, words: 0, left: BTreeMap::new(), edits: 0 }
    }

    /// Does one thing to a path, and perhaps to a second one. What the tree does not allow is not done.
    pub fn act(&mut self, path: &Path, other: &Path) {
        let done = match self.random.below(20) {
            0..5 => self.save(path),
            5..8 => self.append(path),
            8..10 => self.rewrite(path),
            10..13 => self.delete(path),
            13..15 => self.rename(path, other),
            15 => self.rename(path, &path.with_extension("moved")),
            16 => self.make_dir_of(path),
            17 => self.make_link_of(path),
            18 => self.start_over(path.parent().unwrap_or(path)),
            _ => self.save(path).and_then(|()| self.save(path)).and_then(|()| self.delete(path)),
        };
        self.edits += u32::from(done.is_ok());
    }

    fn word(&mut self) -> String {
        self.words += 1;
        format!("{}-{:06}", self.name, self.words)
    }

    /// As an editor saves: a new file beside, renamed over the old one.
    fn save(&mut self, path: &Path) -> io::Result<()> {
        let word = self.word();
        let beside = self.tree.join(path.with_extension("swp"));
        fs::write(&beside, &word)?;
        if let Err(error) = fs::rename(&beside, self.tree.join(path)) {
            fs::remove_file(beside)?;
            return Err(error);
        }
        self.left.insert(path.into(), Left::Words(vec![word]));
        Ok(())
    }

    fn append(&mut self, path: &Path) -> io::Result<()> {
        let word = self.word();
        let mut options = OpenOptions::new();
        options.append(true).custom_flags(libc::O_NOFOLLOW);
        options.open(self.tree.join(path))?.write_all(format!("{word}\n").as_bytes())?;
        match self.left.get_mut(path) {
            Some(Left::Words(words)) => words.push(word),
            _ => drop(self.left.insert(path.into(), Left::Words(vec![word]))),
        }
        Ok(())
    }

    /// In place: empty first, then the new content.
    fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        let word = self.word();
        let mut options = OpenOptions::new();
        options.write(true).truncate(true).custom_flags(libc::O_NOFOLLOW);
        options.open(self.tree.join(path))?.write_all(word.as_bytes())?;
        self.left.insert(path.into(), Left::Words(vec![word]));
        Ok(())
    }

    fn delete(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.tree.join(path))?;
        self.left.insert(path.into(), Left::Nothing);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if from == to || !self.tree.join(from).symlink_metadata()?.is_file() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fs::rename(self.tree.join(from), self.tree.join(to))?;
        let moved = match self.left.insert(from.into(), Left::Nothing) {
            Some(words @ Left::Words(_)) => words,
            _ => Left::Words(Vec::new()),
        };
        self.left.insert(to.into(), moved);
        Ok(())
    }

    /// Where a file was, there is a directory with a file in it.
    fn make_dir_of(&mut self, path: &Path) -> io::Result<()> {
        self.delete(path)?;
        fs::create_dir(self.tree.join(path))?;
        self.left.remove(path);
        self.save(&path.join("inside"))
    }

    fn make_link_of(&mut self, path: &Path) -> io::Result<()> {
        self.delete(path)?;
        let to = PathBuf::from("../../canary");
        symlink(&to, self.tree.join(path))?;
        self.left.insert(path.into(), Left::Link(to));
        Ok(())
    }

    /// Throws a directory away, while it may be filled, or puts it aside and makes it anew.
    fn start_over(&mut self, dir: &Path) -> io::Result<()> {
        if self.random.below(4) > 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if self.random.below(2) == 0 {
            // Somebody else may fill it meanwhile: then some of it stays.
            let removed = fs::remove_dir_all(self.tree.join(dir));
            self.left.retain(|path, _| !path.starts_with(dir));
            fs::create_dir_all(self.tree.join(dir))?;
            return removed;
        }
        let word = self.word();
        let aside = PathBuf::from(format!("{}.{word}", dir.display()));
        fs::rename(self.tree.join(dir), self.tree.join(&aside))?;
        let moved: Vec<PathBuf> = self.left.keys().filter(|path| path.starts_with(dir)).cloned().collect();
        for path in moved {
            if let (Ok(below), Some(left)) = (path.strip_prefix(dir), self.left.remove(&path)) {
                self.left.insert(aside.join(below), left);
            }
        }
        fs::create_dir(self.tree.join(dir))?;
        self.save(&dir.join("anew"))
    }
}

/// Checks that what the person left is there; `was_there` tells whether a path was there when the sync began, and `kept` has
/// the versions that were put aside. Returns how many words are among those, or what is lost.
pub fn judge(
    left: &BTreeMap<PathBuf, Left>,
    tree: &Path,
    was_there: impl Fn(&Path) -> bool,
    kept: &[String],
) -> Result<usize, Vec<String>> {
    let (mut aside, mut lost) = (0, Vec::new());
    for (path, left) in left {
        let at = tree.join(path);
        let name = path.display();
        match left {
            Left::Words(words) => {
                let Ok(content) = fs::read(&at) else {
                    lost.push(format!("`{name}` is gone, it should hold {words:?}"));
                    continue;
                };
                let content = String::from_utf8_lossy(&content);
                for word in words.iter().filter(|word| !content.contains(*word)) {
                    if kept.iter().any(|kept| kept.contains(word)) {
                        aside += 1;
                    } else {
                        lost.push(format!("`{name}` should hold `{word}`, it holds `{content}`"));
                    }
                }
            }
            Left::Link(to) => {
                if fs::read_link(&at).ok().as_ref() != Some(to) {
                    lost.push(format!("`{name}` is no link to `{}` any more", to.display()));
                }
            }
            // What the sync brought anew may come after the person's own went.
            Left::Nothing => {
                if at.symlink_metadata().is_ok() && was_there(path) {
                    lost.push(format!("`{name}` was deleted and is back: {:?}", fs::read_to_string(&at)));
                }
            }
        }
    }
    if lost.is_empty() { Ok(aside) } else { Err(lost) }
}
