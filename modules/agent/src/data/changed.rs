//! Which directories changed between two snapshots of one subvolume: asked of the tree, not of the files.
//!
//! The inodes that were written since are all that changed ([`super::younger`]); their names lead to the directories whose listings
//! may differ.
//! Invariant: a directory that is not named, nor lies below one that is named as a whole, has the same listing in both
//! snapshots, at the same path; and so has each name that is not told of a directory that is.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::entries::{self, Entries};
use super::rules::{Decision, Rules};
use super::search::{Item, Search, u16_at, u64_at};
use super::seen::Seen;
use super::younger::Younger;
use super::{HOME, open};
use crate::proto::{AgentError, ChangedDir, ChangedRequest, Tree};
use crate::server::Call;

/// More directories than this are not told: listing everything is no slower then, and memory stays bounded.
const MANY: usize = 50_000;
/// Bytes of paths that one item carries, about.
pub(super) const ITEM: usize = 64 << 10;
/// Longest path that is told: there may be as many as it has names.
const LONGEST: usize = 4096;
/// Room for the names of one inode.
const NAMES_ROOM: usize = 4 << 10;

/// The root directory of every subvolume.
pub(super) const SUBVOLUME_ROOT: u64 = 256;
/// Types of items: the names of an inode, and those that had no room there.
const REF: u32 = 12;
const EXTREF: u32 = 13;

/// Answers [`crate::proto::Request::Changed`]: `since` is the transaction in which the base was taken. Returns whether it is
/// known what changed; if it is too much, only files whose content alone was written are told.
///
/// # Errors
/// If a rule is invalid, a root cannot be opened, the tree cannot be read, or the caller gave up.
pub fn run(request: &ChangedRequest, since: u64, call: &Call) -> Result<bool, AgentError> {
    let (found, is_known) = find_all(&request.base, &request.tree, since, call)?;
    let found: Vec<ChangedDir> = found.into_iter().flat_map(pieces).collect();
    let mut rest = found.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let end = rest.iter().position(|dir| {
            let names = dir.names.iter().flatten().chain(&dir.silent).map(|name| name.as_bytes().len() + 2);
            bytes += dir.path.as_bytes().len() + 16 + names.sum::<usize>();
            bytes > ITEM
        });
        let (dirs, after) = rest.split_at(end.unwrap_or(rest.len()).max(1));
        call.item(&dirs)?;
        rest = after;
    }
    Ok(is_known)
}

/// Cuts what is told of a directory into pieces of which each fits into a message: all but the first tell of nothing but files
/// whose content alone was written.
fn pieces(mut dir: ChangedDir) -> Vec<ChangedDir> {
    let silent = std::mem::take(&mut dir.silent);
    let mut bytes = 0;
    let parts = silent.chunk_by(|name, _| {
        bytes += name.as_bytes().len() + 2;
        let fits = bytes < ITEM;
        if !fits {
            bytes = 0;
        }
        fits
    });
    let further = ChangedDir { whole: false, names: Some(Vec::new()), ..dir.clone() };
    let mut pieces = vec![dir];
    for (at, part) in parts.enumerate() {
        match at {
            0 => pieces[0].silent = part.to_vec(),
            _ => pieces.push(ChangedDir { silent: part.to_vec(), ..further.clone() }),
        }
    }
    pieces
}

/// Returns the directories of a tree whose listings may differ from those of `base`, sorted by path; `None` if that is not
/// known.
///
/// # Errors
/// As [`run`].
pub(crate) fn find(
    base: &BytePath,
    tree: &Tree,
    since: u64,
    call: &Call,
) -> Result<Option<Vec<ChangedDir>>, AgentError> {
    let (found, is_known) = find_all(base, tree, since, call)?;
    Ok(is_known.then_some(found))
}

/// As [`find`]; where it is not known, those with files whose content alone was written, as far as that is.
fn find_all(
    base: &BytePath,
    tree: &Tree,
    since: u64,
    call: &Call,
) -> Result<(Vec<ChangedDir>, bool), AgentError> {
    let rules = Rules::compile(&tree.rules, &tree.prefix).map_err(AgentError::failed)?;
    let failed = |path: &BytePath| {
        let text = format!("`{path}`");
        move |error: Errno| AgentError::io(text.clone(), &error.into())
    };
    let now = open::root(&tree.root).map_err(failed(&tree.root))?;
    let old = open::root(base).map_err(failed(base))?;
    let root = Seen::of(&now).map_err(failed(&tree.root))?.ino();
    if Seen::of(&old).map_err(failed(base))?.ino() != root {
        return Ok((Vec::new(), false));
    }
    let known = |error| match error {
        Errno::CANCELED => Err(AgentError::cancelled()),
        Errno::TOOBIG => Ok((Vec::new(), false)),
        error => Err(failed(&tree.root)(error)),
    };
    let younger = match Younger::of(&now, &old, since, call) {
        Ok(younger) => younger,
        Err(error) => return known(error),
    };
    let mut places = Places::of_tree(&rules, root, Names::of(now));
    directories(&mut places, &mut Names::of(old), &younger, since, call).or_else(known)
}

/// What is known of a directory that may differ.
#[derive(Default)]
struct Listed {
    is_whole: bool,
    /// Whether any name in it may differ.
    all: bool,
    names: BTreeSet<Vec<u8>>,
    /// Those of files whose content alone was written.
    silent: Vec<Vec<u8>>,
}

impl Listed {
    /// Returns the names that may differ; `None` if any may, or they are so many that a listing of all costs no more.
    fn into_names(self) -> Option<Vec<BytePath>> {
        let bytes: usize = self.names.iter().map(|name| name.len() + 2).sum();
        (!self.all && bytes <= ITEM).then(|| self.names.into_iter().map(BytePath::new).collect())
    }
}

/// Returns the directories to look at, sorted, and whether these are all: if they are too many, only those with files whose
/// content alone was written are left.
fn directories(
    places: &mut Places<'_>,
    base: &mut Names,
    younger: &Younger,
    since: u64,
    call: &Call,
) -> Result<(Vec<ChangedDir>, bool), Errno> {
    let mut is_known = true;
    let mut listed: HashMap<u64, Listed> = HashMap::new();
    let mut entries = [Entries::of(places.now.dir()?), Entries::of(base.dir()?)];
    let mut inode = Search::with_room(0);
    let stop = || call.is_cancelled();
    for written in younger.iter() {
        if call.is_cancelled() {
            return Err(Errno::CANCELED);
        }
        let (ino, is_dir) = (written.ino, written.is_dir);
        let names = younger.names(written).map_or_else(|| places.now.of_inode(ino), Ok)?;
        if is_dir && places.of(ino)?.is_some() {
            let was = if younger.may_be_new(&names) { base.of_inode(ino)? } else { names.clone() };
            let listed = listed.entry(ino).or_default();
            // What is new or was moved has everything below it at another path.
            listed.is_whole |= ino != places.root && was != names;
            match ino != places.root && was.is_empty() {
                true => listed.all = true,
                false => listed.all |= !entries::differ(&mut entries, ino, &mut listed.names, &stop)?,
            }
        }
        if ino == places.root {
            continue;
        }
        let is_silent = Younger::is_silent(written, &base.dir, since, &mut inode)?;
        for (parent, name) in names {
            if places.holds(parent, &name, is_dir)? {
                let listed = listed.entry(parent).or_default();
                listed.silent.extend(is_silent.then(|| name.clone()));
                listed.names.insert(name);
            }
        }
        if listed.len() > MANY {
            is_known = false;
            listed.retain(|_, listed| !listed.silent.is_empty());
            if listed.len() > MANY / 2 {
                return Err(Errno::TOOBIG);
            }
        }
    }
    let mut found = Vec::with_capacity(listed.len());
    for (ino, listed) in listed {
        if let Some(path) = places.of(ino)? {
            let (whole, mut listed) = (listed.is_whole, listed);
            let silent = std::mem::take(&mut listed.silent).into_iter().map(BytePath::new).collect();
            found.push(ChangedDir { path, whole, names: listed.into_names(), silent });
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    is_known &= !places.is_cut;
    if !is_known {
        found.retain(|dir| !dir.silent.is_empty());
    }
    Ok((found, is_known))
}

/// Names of inodes in one tree.
pub(super) struct Names {
    dir: OwnedFd,
    search: Search,
}

impl Names {
    pub(super) fn of(dir: OwnedFd) -> Self {
        Self { dir, search: Search::with_room(NAMES_ROOM) }
    }

    /// Returns another handle on the tree.
    fn dir(&self) -> Result<OwnedFd, Errno> {
        rustix::io::dup(&self.dir)
    }

    /// Returns every name of an inode with the directory that it is in; none if there is no such inode.
    pub(super) fn of_inode(&mut self, ino: u64) -> Result<Vec<(u64, Vec<u8>)>, Errno> {
        let mut found = Vec::new();
        let range = ((ino, REF, 0), (ino, EXTREF, u64::MAX));
        self.search.run(&self.dir, range, 0, |Item { key: (_, kind, offset), data }| {
            let parent = (kind == REF).then_some(offset);
            names(parent, data, &mut found).ok_or(Errno::IO)
        })?;
        Ok(found)
    }
}

/// Reads the `struct btrfs_inode_ref`s of one item, whose key has the directory, or its `struct btrfs_inode_extref`s.
pub(super) fn names(parent: Option<u64>, mut data: &[u8], found: &mut Vec<(u64, Vec<u8>)>) -> Option<()> {
    let head = if parent.is_some() { 8 } else { 16 };
    while !data.is_empty() {
        let dir = parent.or_else(|| u64_at(data, 0))?;
        let len = usize::from(u16_at(data, head)?);
        let (name, rest) = data.get(head + 2..)?.split_at_checked(len)?;
        found.push((dir, name.to_vec()));
        data = rest;
    }
    Some(())
}

/// Paths of directories below the root, as far as they are mirrored.
pub(super) struct Places<'a> {
    rules: &'a Rules,
    root: u64,
    now: Names,
    known: HashMap<u64, Option<BytePath>>,
    /// Whether a path was met that is too long to be told: what lies there counts as left out.
    pub(super) is_cut: bool,
}

impl<'a> Places<'a> {
    pub(super) fn of_tree(rules: &'a Rules, root: u64, now: Names) -> Self {
        Self { rules, root, now, known: HashMap::new(), is_cut: false }
    }

    /// Returns every name of an inode with the directory that it is in.
    pub(super) fn names(&mut self, ino: u64) -> Result<Vec<(u64, Vec<u8>)>, Errno> {
        self.now.of_inode(ino)
    }

    /// Returns the path of a directory; `None` if it does not lie below the root, or is left out.
    pub(super) fn of(&mut self, ino: u64) -> Result<Option<BytePath>, Errno> {
        let mut chain = Vec::new();
        let mut at = ino;
        let mut place = loop {
            if let Some(known) = self.known.get(&at) {
                break known.clone();
            }
            if at == self.root {
                break (self.rules.decide_root() == Decision::Keep).then(BytePath::default);
            }
            let name = match at {
                SUBVOLUME_ROOT => None,
                _ => self.now.of_inode(at)?.pop(),
            };
            let Some((parent, name)) = name else {
                self.known.insert(at, None);
                break None;
            };
            chain.push((at, name));
            at = parent;
        };
        for (ino, name) in chain.into_iter().rev() {
            place = place.and_then(|parent| self.child(&parent, &name, true));
            if place.as_ref().is_some_and(|path| path.as_bytes().len() > LONGEST) {
                (self.is_cut, place) = (true, None);
            }
            self.known.insert(ino, place.clone());
        }
        Ok(place)
    }

    /// Whether a directory is mirrored, and this name in it.
    fn holds(&mut self, parent: u64, name: &[u8], is_dir: bool) -> Result<bool, Errno> {
        Ok(self.of(parent)?.is_some_and(|parent| self.child(&parent, name, is_dir).is_some()))
    }

    pub(super) fn child(&self, parent: &BytePath, name: &[u8], is_dir: bool) -> Option<BytePath> {
        let path = parent.join(name);
        let kept = self.rules.decide(path.as_bytes(), is_dir) == Decision::Keep;
        (kept && path.as_bytes() != HOME.as_bytes()).then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::MAX_BODY;
    use crate::proto::encode;

    #[test]
    fn many_files_whose_content_alone_was_written_come_in_pieces_that_are_the_whole() {
        let silent: Vec<BytePath> = (0..70_000).map(|at| format!("{at:0>70}").as_str().into()).collect();
        let names = Some(vec![BytePath::from("a")]);
        let dir = ChangedDir { path: "d".into(), whole: true, names: names.clone(), silent };
        let all = pieces(dir.clone());
        assert!(all.len() > 1 && all.iter().all(|piece| encode(piece).len() < MAX_BODY / 8));
        assert_eq!(all.iter().flat_map(|piece| piece.silent.clone()).collect::<Vec<_>>(), dir.silent);
        assert_eq!((all[0].whole, &all[0].names), (true, &names));
        assert!(all[1..].iter().all(|piece| !piece.whole && piece.names == Some(Vec::new())));
        assert_eq!(pieces(ChangedDir { silent: Vec::new(), ..dir }).len(), 1);
    }
}
