//! What stands elsewhere than in an older snapshot of its subvolume: the same inode under another name or in another directory.
//!
//! Inode numbers are stable within a subvolume, and the inode says in which transaction it was made, so that one which got the
//! number of another is not taken for it (`facts/sync-engine.md` 3.2). Of a file with several names each name that went is one
//! that came, as far as there are such. A directory that moved brings all below it along: those
//! names are not told, their inodes were not written.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::changed::{ITEM, Names, Places};
use super::open;
use super::rules::{Decision, Rules};
use super::search::{Item, Search, u32_at, u64_at};
use super::seen::Seen;
use super::younger::{Name, Younger};
use crate::proto::{AgentError, ChangedRequest, Moved};
use crate::server::Call;

/// More than these are not told: they are sent anew then.
const MANY: usize = 50_000;

/// Inode numbers of btrfs: every subvolume's root, and what stands for a nested one inside a snapshot.
const SUBVOLUME_ROOT: u64 = 256;
const SUBVOLUME_STUB: u64 = 2;

/// The type of the item that is the inode.
const INODE: u32 = 1;

/// The format of a regular file.
const FILE: u32 = 0o100_000;

/// Answers [`crate::proto::Request::Moved`]: `since` is the transaction in which the base was taken. Returns whether it is
/// known what was moved.
///
/// # Errors
/// If a rule is invalid, a root cannot be opened, the tree cannot be read, or the caller gave up.
pub fn run(request: &ChangedRequest, since: u64, call: &Call) -> Result<bool, AgentError> {
    let tree = &request.tree;
    let rules = Rules::compile(&tree.rules, &tree.prefix).map_err(AgentError::failed)?;
    let failed = |path: &BytePath| {
        let text = format!("`{path}`");
        move |error: Errno| AgentError::io(text.clone(), &error.into())
    };
    let now = open::root(&tree.root).map_err(failed(&tree.root))?;
    let base = open::root(&request.base).map_err(failed(&request.base))?;
    let root = Seen::of(&now).map_err(failed(&tree.root))?.ino();
    if Seen::of(&base).map_err(failed(&request.base))?.ino() != root {
        return Ok(false);
    }
    let found = Younger::of(&now, &base, since, call)
        .and_then(|younger| moves(&rules, root, [base, now], (&younger, since), call));
    let found = match found {
        Ok(found) => found,
        Err(Errno::CANCELED) => return Err(AgentError::cancelled()),
        Err(Errno::TOOBIG) => return Ok(false),
        Err(error) => return Err(failed(&tree.root)(error)),
    };
    let mut rest = found.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let end = rest.iter().position(|moved| {
            bytes += moved.from.as_bytes().len() + moved.to.as_bytes().len() + 32;
            bytes > ITEM
        });
        let (some, after) = rest.split_at(end.unwrap_or(rest.len()).max(1));
        call.item(&some)?;
        rest = after;
    }
    Ok(true)
}

fn moves(
    rules: &Rules,
    root: u64,
    [base, now]: [OwnedFd; 2],
    (younger, since): (&Younger, u64),
    call: &Call,
) -> Result<Vec<Moved>, Errno> {
    let made = [rustix::io::dup(&base)?, rustix::io::dup(&now)?];
    let mut left_alone = LeftAlone { rules, root: rustix::io::dup(&now)?, known: HashMap::new() };
    let mut made = made.map(Made::of);
    let [mut base, mut now] = [base, now].map(|dir| Places::of_tree(rules, root, Names::of(dir)));
    let mut found = Vec::new();
    for written in younger.iter().filter(|written| written.ino != root) {
        if call.is_cancelled() {
            return Err(Errno::CANCELED);
        }
        let (ino, is_dir) = (written.ino, written.is_dir);
        let is = younger.names(written).map_or_else(|| now.names(ino), Ok)?;
        if written.made > since || !younger.may_be_new(&is) {
            continue;
        }
        let was = base.names(ino)?;
        let (gone, come) = (without(&was, &is), without(&is, &was));
        if gone.is_empty() || come.is_empty() {
            continue;
        }
        let then = made[0].transaction(ino)?;
        let is_file = then.is_some_and(|(_, kind)| kind == FILE);
        if then != made[1].transaction(ino)? || (was.len().max(is.len()) > 1 && !is_file) {
            continue;
        }
        // Which of several names became which nobody can tell, nor does it matter: both machines pair them in the same way.
        let (gone, come) = (base.paths(&gone, is_dir)?, now.paths(&come, is_dir)?);
        for (from, to) in gone.into_iter().zip(come) {
            let alike = !is_dir || rules.say_the_same_below(from.as_bytes(), to.as_bytes());
            if alike && !left_alone.holds(&from)? {
                found.push(Moved { from, to, is_dir });
            }
        }
        if found.len() > MANY {
            return Err(Errno::TOOBIG);
        }
    }
    // Where a path is too long to be told nobody says what was moved there.
    if base.is_cut || now.is_cut {
        return Err(Errno::TOOBIG);
    }
    found.sort_unstable_by(|a, b| a.to.cmp(&b.to));
    Ok(found)
}

/// Returns the names that the others are not.
fn without<'a>(names: &'a [Name], others: &[Name]) -> Vec<&'a Name> {
    names.iter().filter(|name| !others.contains(name)).collect()
}

impl Places<'_> {
    /// Returns where names stand, sorted; those that are not mirrored are left out.
    fn paths(&mut self, names: &[&Name], is_dir: bool) -> Result<Vec<BytePath>, Errno> {
        let mut found = Vec::with_capacity(names.len());
        for (parent, name) in names {
            found.extend(self.of(*parent)?.and_then(|parent| self.child(&parent, name, is_dir)));
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Tells what the other machine leaves alone, because this one has something there that is not mirrored.
struct LeftAlone<'a> {
    rules: &'a Rules,
    root: OwnedFd,
    known: HashMap<BytePath, bool>,
}

impl LeftAlone<'_> {
    /// Whether a path, or a directory above it, is now something that is not mirrored.
    fn holds(&mut self, path: &BytePath) -> Result<bool, Errno> {
        if path.is_empty() {
            return Ok(false);
        }
        if let Some(known) = self.known.get(path) {
            return Ok(*known);
        }
        let holds = self.holds(&path.parent().unwrap_or_default())? || self.is(path)?;
        self.known.insert(path.clone(), holds);
        Ok(holds)
    }

    fn is(&self, path: &BytePath) -> Result<bool, Errno> {
        let seen = match open::beneath(&self.root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => Seen::of(fd)?,
            Err(Errno::XDEV) => return Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            Err(error) => return Err(error),
        };
        let is_other_tree = seen.is_across(&Seen::of(&self.root)?)
            || seen.is_dir() && matches!(seen.ino(), SUBVOLUME_ROOT | SUBVOLUME_STUB);
        let is_special = matches!(
            seen.file_type(),
            FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown
        );
        let is_ruled_out = self.rules.decide(path.as_bytes(), seen.is_dir()) != Decision::Keep;
        Ok(is_other_tree || is_special || is_ruled_out)
    }
}

/// Tells when inodes of a tree were made.
struct Made {
    dir: OwnedFd,
    search: Search,
}

impl Made {
    fn of(dir: OwnedFd) -> Self {
        Self { dir, search: Search::with_room(0) }
    }

    /// Returns the transaction in which an inode was made, and its format with the kind of file.
    fn transaction(&mut self, ino: u64) -> Result<Option<(u64, u32)>, Errno> {
        let mut found = None;
        let range = ((ino, INODE, 0), (ino, INODE, u64::MAX));
        self.search.run(&self.dir, range, 0, |Item { data, .. }| {
            let mode = u32_at(data, 52).ok_or(Errno::IO)?;
            found = Some((u64_at(data, 0).ok_or(Errno::IO)?, mode & 0o170_000));
            Ok(())
        })?;
        Ok(found)
    }
}
