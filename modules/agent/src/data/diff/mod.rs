//! What differs between two snapshots: state against state, so all that a person would see, deletions and renames too.
//!
//! Where the tree tells which directories changed, only those are listed; otherwise all are. A name that is gone and a name
//! that came with the same inode are one renaming; below a directory that was renamed its old and new content are compared.

mod judge;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::apply::remove::list;
use super::seen::Seen;
use super::{HOME, open};
use crate::proto::{Change, ChangeKind, ChangedDir};
use judge::judge;

/// The inode number of what stands in a snapshot for a subvolume inside.
const STAND_IN: u64 = 2;

type Names = BTreeMap<Vec<u8>, Seen>;
type Result<T> = std::result::Result<T, Errno>;

/// Two trees that are being compared.
pub(crate) struct Differ<'a> {
    base: &'a OwnedFd,
    now: &'a OwnedFd,
    stop: &'a dyn Fn() -> bool,
    changes: Vec<Change>,
    gone: BTreeMap<BytePath, Seen>,
    by_inode: HashMap<u64, Vec<BytePath>>,
    came: BTreeMap<BytePath, Seen>,
    deep: Vec<(BytePath, BytePath)>,
}

impl<'a> Differ<'a> {
    /// Compares the trees below two roots.
    pub(crate) fn new(base: &'a OwnedFd, now: &'a OwnedFd, stop: &'a dyn Fn() -> bool) -> Self {
        Self {
            base,
            now,
            stop,
            changes: Vec::new(),
            gone: BTreeMap::new(),
            by_inode: HashMap::new(),
            came: BTreeMap::new(),
            deep: Vec::new(),
        }
    }

    /// Returns all differences, sorted by path. `dirs` are the directories that changed, in order; `None` if that is not
    /// known.
    ///
    /// # Errors
    /// If a tree cannot be read, or [`Errno::CANCELED`].
    pub(crate) fn run(mut self, dirs: Option<&[ChangedDir]>) -> Result<Vec<Change>> {
        let top = BytePath::default();
        let (was, is) = (Seen::of(self.base)?, Seen::of(self.now)?);
        self.pair((&top, &was), (&top, &is), false)?;
        self.deep.clear();
        match dirs {
            Some(dirs) => {
                let mut whole: Option<&BytePath> = None;
                for dir in dirs {
                    if whole.is_some_and(|whole| dir.path.is_within(whole)) {
                        continue;
                    }
                    match dir.whole {
                        // It is met again as what came, or in place of another.
                        true => whole = Some(&dir.path),
                        false => self.level(&dir.path, &dir.path, false)?,
                    }
                }
            }
            None => self.level(&top, &top, true)?,
        }
        self.go_deep()?;
        while let Some((path, is)) = self.came.pop_first() {
            self.settle(path, is)?;
            self.go_deep()?;
        }
        for (path, was) in std::mem::take(&mut self.gone) {
            self.say(ChangeKind::Deleted, path, None, &was);
        }
        self.changes.sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
        Ok(self.changes)
    }

    fn go_deep(&mut self) -> Result<()> {
        while let Some((old, new)) = self.deep.pop() {
            self.level(&old, &new, true)?;
        }
        Ok(())
    }

    fn say(&mut self, kind: ChangeKind, path: BytePath, from: Option<BytePath>, seen: &Seen) {
        let is_dir = seen.is_dir();
        let size = if is_dir { 0 } else { seen.size() };
        self.changes.push(Change { kind, path, from, is_dir, size });
    }

    /// Compares two directories, and if `deep` all below them.
    fn level(&mut self, old: &BytePath, new: &BytePath, deep: bool) -> Result<()> {
        let (mut was, is) = (self.names(self.base, old)?, self.names(self.now, new)?);
        for (name, is) in is {
            let path = new.join(&name);
            match was.remove(&name) {
                Some(was) => self.pair((&old.join(&name), &was), (&path, &is), deep)?,
                None => {
                    self.came.insert(path, is);
                }
            }
        }
        was.into_iter().try_for_each(|(name, was)| self.lose(old.join(&name), was))
    }

    /// Compares what has one name in both.
    fn pair(
        &mut self,
        (old, was): (&BytePath, &Seen),
        (new, is): (&BytePath, &Seen),
        deep: bool,
    ) -> Result<()> {
        let same_inode = was.ino() == is.ino();
        if was.file_type() != is.file_type() {
            self.came.insert(new.clone(), is.clone());
            return self.lose(old.clone(), was.clone());
        }
        if !(same_inode && was.ctime() == is.ctime())
            && let Some(kind) = judge((self.base, old, was), (self.now, new, is), self.stop)?
        {
            self.say(kind, new.clone(), None, is);
        }
        if is.is_dir() && (deep || !same_inode) {
            self.deep.push((old.clone(), new.clone()));
        }
        Ok(())
    }

    /// Remembers what is gone, with everything below.
    fn lose(&mut self, path: BytePath, was: Seen) -> Result<()> {
        let mut todo = vec![(path, was)];
        while let Some((path, was)) = todo.pop() {
            if was.is_dir() {
                let below = self.names(self.base, &path)?;
                todo.extend(below.into_iter().map(|(name, was)| (path.join(&name), was)));
            }
            self.by_inode.entry(was.ino()).or_default().push(path.clone());
            self.gone.insert(path, was);
        }
        Ok(())
    }

    /// Says where something that came is from.
    fn settle(&mut self, path: BytePath, is: Seen) -> Result<()> {
        let places = self.by_inode.get(&is.ino()).map(Vec::as_slice).unwrap_or_default();
        let is_it =
            |old: &&BytePath| self.gone.get(*old).is_some_and(|was| was.file_type() == is.file_type());
        let Some(old) = places.iter().find(is_it).cloned() else {
            if is.is_dir() {
                let below = self.names(self.now, &path)?;
                self.came.extend(below.into_iter().map(|(name, is)| (path.join(&name), is)));
            }
            self.say(ChangeKind::Created, path, None, &is);
            return Ok(());
        };
        let Some(was) = self.gone.remove(&old) else { return Ok(()) };
        let content = judge((self.base, &old, &was), (self.now, &path, &is), self.stop)?;
        self.say(ChangeKind::Renamed, path.clone(), Some(old.clone()), &is);
        if let Some(kind) = content {
            self.say(kind, path.clone(), None, &is);
        }
        if is.is_dir() {
            // What was below is below still, unless the comparison says otherwise.
            self.gone.retain(|path, _| !path.is_within(&old));
            self.deep.push((old, path));
        }
        Ok(())
    }

    /// Returns the names in a directory; none if there is none.
    fn names(&self, root: &OwnedFd, path: &BytePath) -> Result<Names> {
        if (self.stop)() {
            return Err(Errno::CANCELED);
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = match open::beneath_for_reading(root, path.as_bytes(), flags) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => return Ok(Names::new()),
            opened => opened?,
        };
        let mut found = Names::new();
        for (name, _) in list(&dir)? {
            let is_ours = path.is_empty() && name.to_bytes() == HOME.as_bytes();
            let seen = Seen::at(&dir, &name)?;
            let is_stand_in = seen.is_dir() && seen.ino() == STAND_IN;
            if !is_ours && !is_stand_in {
                found.insert(name.into_bytes(), seen);
            }
        }
        Ok(found)
    }
}
