//! Which ranges of files are the same as ranges of other files, told by their extents: nothing is read for it.
//!
//! The same place of the same extent is the same content (see [`super::delta`]). So every file that is asked about is held against
//! those asked about before, and against the older snapshot: its own version there, and whoever else refers to its extents,
//! as the file system says (`facts/sync-engine.md`, "reflinks"). Memory is bounded; what there is no room for is not told.

mod index;

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use self::index::{Index, Stretch};
use super::changed::{Names, Places};
use super::gains::Owners;
use super::rules::Rules;
use super::search::{Search, u64_at};
use super::seen::Seen;
use super::{btrfs, delta, open, walk};
use crate::proto::{AgentError, MOST, Origin, ReadWant, Share, Shares, SharesRequest, decode};
use crate::server::Call;

/// Files that are asked about, at most.
const ASKED: usize = 1 << 17;
/// Extents of one file that are looked at, at most.
const EXTENTS: usize = 1 << 18;
/// Room for extents of one search.
const ROOM: usize = 64 << 10;
/// Shorter stretches are not asked about: their extents are many, and little is gained.
const SHORT: u64 = 16 << 10;
/// So many questions may lead to nothing before no more are asked.
const VAIN: u32 = 512;
/// Ranges of one file that are told, at most.
const RANGES: usize = MOST / 2;
/// Ranges that one item carries, about.
const ITEM: usize = 4096;
/// The type of an item for a stretch of a file.
const EXTENT_DATA: u32 = 108;

/// Answers [`crate::proto::Request::Shares`]: `since` is the transaction in which the base was taken, if it is one.
///
/// # Errors
/// If a rule is invalid, a root cannot be opened, or the caller gave up.
pub fn run(request: &SharesRequest, since: Option<u64>, call: &Call) -> Result<(), AgentError> {
    let tree = &request.tree;
    let rules = Rules::compile(&tree.rules, &tree.prefix).map_err(AgentError::failed)?;
    let opened = |path: &BytePath| {
        open::root(path).map_err(|error| AgentError::io(format!("`{path}`"), &error.into()))
    };
    let root = opened(&tree.root)?;
    let base = match (&request.base, since) {
        (Some(base), Some(_)) => opened(base)?,
        _ => opened(&tree.root)?,
    };
    let is_sealed = [&root, &base].into_iter().all(walk::is_sealed);
    let mut finder = Finder::new(&rules, &root, &base, since)?;
    let mut asked = Vec::new();
    while let Some(body) = call.next_upload()? {
        let wants: Vec<ReadWant> = decode(&body).map_err(AgentError::protocol)?;
        let room = if is_sealed { ASKED - asked.len() } else { 0 };
        // One that cannot be opened is not told of.
        let taken = wants.into_iter().take(room);
        asked.extend(taken.filter_map(|want| Some((want.content, finder.take(&want).ok()?))));
    }
    let mut told = Vec::new();
    let mut weight = 0;
    for (content, (ino, size)) in asked {
        if call.is_cancelled() {
            return Err(AgentError::cancelled());
        }
        // What cannot be told is sent.
        let Ok(Some(shares)) = finder.shares(content, ino, size) else { continue };
        weight += shares.ranges.len();
        told.push(shares);
        if weight >= ITEM {
            weight = 0;
            call.item(&std::mem::take(&mut told))?;
        }
    }
    if told.is_empty() { Ok(()) } else { call.item(&told) }
}

struct Finder<'a> {
    root: &'a OwnedFd,
    base: &'a OwnedFd,
    base_id: Option<u64>,
    since: Option<u64>,
    places: Places<'a>,
    owners: Owners<'a>,
    search: Search,
    index: Index,
    /// Inodes of the base that need not be looked at any more.
    known: HashSet<u64>,
    asked: HashSet<u64>,
    vain: u32,
}

impl<'a> Finder<'a> {
    fn new(
        rules: &'a Rules,
        root: &'a OwnedFd,
        base: &'a OwnedFd,
        since: Option<u64>,
    ) -> Result<Self, AgentError> {
        let ino = Seen::of(base)?.ino();
        Ok(Self {
            root,
            base,
            base_id: btrfs::subvolume_id(base).ok().flatten(),
            since,
            places: Places::of_tree(rules, ino, Names::of(rustix::io::dup(base)?)),
            owners: Owners::of(base),
            search: Search::with_room(ROOM),
            index: Index::default(),
            known: HashSet::new(),
            asked: HashSet::new(),
            vain: 0,
        })
    }

    /// Takes in that a file is asked about; returns its inode and size.
    fn take(&mut self, want: &ReadWant) -> Result<(u64, u64), Errno> {
        let seen = Seen::of(delta::open_file(self.root, &want.path)?)?;
        self.asked.insert(seen.ino());
        Ok((seen.ino(), seen.size()))
    }

    fn shares(&mut self, content: u32, ino: u64, size: u64) -> Result<Option<Shares>, Errno> {
        let stretches = stretches(&mut self.search, self.root, ino, size)?;
        let mut found = Ranges::new(content, size);
        let mut own = Vec::new();
        for stretch in &stretches {
            let mut gaps = self.index.cover(stretch, &mut found);
            // Its own version of then costs one look; who else has an extent, a question each.
            if !gaps.is_empty() && self.is_old(stretch) && self.since.is_some() && self.learn(ino) {
                gaps = gaps.iter().flat_map(|gap| self.index.cover(gap, &mut found)).collect();
            }
            let is_worth_it = gaps.iter().any(|gap| gap.len >= SHORT);
            if is_worth_it && self.is_old(stretch) && self.ask(stretch.disk) {
                gaps = gaps.iter().flat_map(|gap| self.index.cover(gap, &mut found)).collect();
            }
            own.extend(gaps);
        }
        self.index.add(Origin::Asked(content), own);
        Ok(found.finish())
    }

    /// Whether the base may refer to this.
    fn is_old(&self, stretch: &Stretch) -> bool {
        self.since.is_none_or(|since| stretch.made <= since)
    }

    /// Asks who else refers to an extent; whether anything new is known by that.
    fn ask(&mut self, disk: u64) -> bool {
        let Some(id) = self.base_id.filter(|_| self.vain < VAIN) else { return false };
        let owners: Vec<u64> = match self.owners.of_extent(disk) {
            Ok((owners, _)) => owners.filter(|(_, tree)| *tree == id).map(|(ino, _)| ino).collect(),
            Err(_) => Vec::new(),
        };
        // Without an older snapshot whoever is asked about is not on the target yet.
        let is_there = |ino: &u64| self.since.is_some() || !self.asked.contains(ino);
        let owners: Vec<u64> = owners.into_iter().filter(is_there).collect();
        let is_new = owners.into_iter().any(|ino| self.learn(ino));
        self.vain += u32::from(!is_new);
        is_new
    }

    /// Takes in where a file of the base lies; whether anything new is known by that. What cannot be read is not known.
    fn learn(&mut self, ino: u64) -> bool {
        self.known.insert(ino) && self.take_in(ino).unwrap_or(false)
    }

    fn take_in(&mut self, ino: u64) -> Result<bool, Errno> {
        for (parent, name) in self.places.names(ino)? {
            let Some(dir) = self.places.of(parent)? else { continue };
            let Some(path) = self.places.child(&dir, &name, false) else { continue };
            let Ok(file) = delta::open_file(self.base, &path) else { continue };
            let seen = Seen::of(&file)?;
            if seen.ino() == ino {
                let stretches = stretches(&mut self.search, self.base, ino, seen.size())?;
                let origin = Origin::File { path, size: seen.size(), mtime: seen.mtime() };
                return Ok(self.index.add(origin, stretches));
            }
        }
        Ok(false)
    }
}

/// Returns where a file has data, by its inode; none if its trees hold what is not understood.
fn stretches(search: &mut Search, dir: &OwnedFd, ino: u64, size: u64) -> Result<Vec<Stretch>, Errno> {
    let mut found = Vec::new();
    search.run(dir, ((ino, EXTENT_DATA, 0), (ino, EXTENT_DATA, u64::MAX)), 0, |item| {
        if found.len() == EXTENTS {
            return Err(Errno::TOOBIG);
        }
        let extent = delta::extent(item).ok_or(Errno::INVAL)?;
        if let Some((disk, inside, _)) = extent.place
            && extent.at < size
        {
            found.push(Stretch {
                disk,
                inside: inside.wrapping_add(extent.at),
                at: extent.at,
                len: extent.end.min(size) - extent.at,
                made: u64_at(item.data, 0).ok_or(Errno::INVAL)?,
            });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Collects what one file shares.
struct Ranges {
    size: u64,
    shares: Shares,
    known: Vec<u32>,
}

impl Ranges {
    fn new(content: u32, size: u64) -> Self {
        Self { size, shares: Shares { content, origins: Vec::new(), ranges: Vec::new() }, known: Vec::new() }
    }

    /// Adds a range of another file; returns how much of it is taken: whole blocks, but at the end of the file.
    fn add(&mut self, at: u64, len: u64, from_at: u64, (number, origin): (u32, &Origin)) -> u64 {
        let len = if at + len == self.size { len } else { len - len % index::BLOCK };
        if len == 0 {
            return 0;
        }
        let origin = match self.known.iter().position(|known| *known == number) {
            Some(at) => at as u32,
            None => {
                self.known.push(number);
                self.shares.origins.push(origin.clone());
                self.known.len() as u32 - 1
            }
        };
        self.shares.ranges.push(Share { at, len, from_at, origin });
        len
    }

    fn finish(mut self) -> Option<Shares> {
        let ranges = &mut self.shares.ranges;
        ranges.sort_unstable_by_key(|range| range.at);
        ranges.dedup_by(|next, last| {
            let goes_on = (last.origin, last.at + last.len, last.from_at + last.len)
                == (next.origin, next.at, next.from_at);
            last.len += if goes_on { next.len } else { 0 };
            goes_on
        });
        (!ranges.is_empty() && ranges.len() <= RANGES && self.known.len() <= RANGES).then_some(self.shares)
    }
}
