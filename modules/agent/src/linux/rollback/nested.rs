//! Subvolumes inside of those that go back: in no snapshot, so they move along with what is in them (docs/adr/0024).
//!
//! **Invariant: each is in exactly one tree at each moment, and none goes with a tree that is removed.** Which trees there are is
//! in the journal; which subvolumes stand in one is asked of the kernel when they move, so what was made, deleted or renamed since is
//! neither forgotten nor looked for in vain. They move from the tree that is not in place into the one that is, once nobody
//! works on the former: until then whoever works on it needs them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use pc_switcher_contract::BytePath;
use rustix::io::Errno;

use super::in_use;
use super::journal::Journal;
use super::steps::{Names, top_of};
use super::top::Top;
use crate::data::along;
use crate::data::apply::Watch;
use crate::linux::btrfs::{Btrfs, KernelBtrfs, SubvolumeInfo};
use crate::proto::{AgentError, Inside, RollbackMember, RollbackPhase, RollbackState};

/// Whether anybody works on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    /// It runs: what works on a tree goes on with it.
    Running,
    /// `/` is not mounted yet: only we have mounted trees.
    Still,
}

/// A tree at the top level.
struct Tree {
    root: OwnedFd,
    id: u64,
    name: String,
}

/// Subvolumes that stand in a tree: path in it, and id.
type Insides = Vec<(BytePath, u64)>;

/// The trees of one member.
struct Pair {
    top: Top,
    /// The one that is not in place.
    away: Tree,
    /// The one that is.
    home: Tree,
}

impl Pair {
    /// Opens both; `None` if one is not there any more, or they are not put in place yet.
    fn open(state: &RollbackState, member: &RollbackMember) -> Result<Option<Self>, AgentError> {
        let names = Names::of(state, member);
        let (away, home) = match state.phase {
            RollbackPhase::Done | RollbackPhase::Confirmed => {
                ((names.replaced, &member.old_uuid), (names.live, &member.new_uuid))
            }
            RollbackPhase::Cancelled => ((names.cancelled, &member.new_uuid), (names.live, &member.old_uuid)),
            _ => return Ok(None),
        };
        let top = top_of(member)?;
        let tree = |(name, uuid): (String, &String)| -> io::Result<Option<Tree>> {
            match top.look(&name)? {
                Some((found, id)) if found == *uuid => Ok(Some(Tree { root: top.open(&name)?, id, name })),
                _ => Ok(None),
            }
        };
        let trees = tree(away).and_then(|away| Ok((away, tree(home)?)));
        match trees.map_err(|error| failed(member, &error))? {
            (Some(away), Some(home)) => Ok(Some(Self { top, away, home })),
            _ => Ok(None),
        }
    }

    fn inside(&self, tree: &Tree) -> io::Result<Insides> {
        self.top.inside(tree.id)
    }
}

fn failed(member: &RollbackMember, error: &io::Error) -> AgentError {
    AgentError::io(format!("cannot look at the subvolumes inside of `{}`", member.name), error)
}

/// A subvolume that is open.
struct Opened {
    root: OwnedFd,
    info: SubvolumeInfo,
}

impl Opened {
    /// Opens the subvolume at `path` of a tree; `None` if that is another one by now, or none.
    fn at(tree: &Tree, path: &BytePath, id: u64) -> io::Result<Option<Self>> {
        let root = match along::open_inside(&tree.root, path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            root => root?,
        };
        let info = KernelBtrfs.subvolume(&path_of(&root))?;
        Ok((info.id == id && info.parent_id == tree.id).then_some(Self { root, info }))
    }

    fn set_readonly(&self, readonly: bool) -> io::Result<()> {
        KernelBtrfs.set_readonly(&path_of(&self.root), readonly)
    }
}

/// A path that leads to what is open, for this process alone.
pub(super) fn path_of(open: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/.", open.as_raw_fd()).into()
}

/// Moves what stands in trees that are not in place, and that nobody works on, into those that are. What cannot come along stays
/// where it is: [`left`] says why.
///
/// # Errors
/// If the machine does not let us look, or the journal cannot be written.
pub(super) fn bring(
    state: &RollbackState,
    journal: &Journal<'_>,
    ground: Ground,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    let busy = match ground {
        Ground::Running => in_use(state),
        Ground::Still => Vec::new(),
    };
    // A disk that is away keeps no other's from moving.
    let mut first = Ok(());
    for member in state.members.iter().filter(|member| !busy.contains(&member.name)) {
        first = first.and(bring_of(state, member, journal, watch));
    }
    first.and(seal(state, journal, watch))
}

/// As [`bring`], of one member.
fn bring_of(
    state: &RollbackState,
    member: &RollbackMember,
    journal: &Journal<'_>,
    watch: &dyn Watch,
) -> Result<(), AgentError> {
    let Some(pair) = Pair::open(state, member)? else { return Ok(()) };
    let failed = |error: io::Error| failed(member, &error);
    let inside = pair.inside(&pair.away).map_err(failed)?;
    if inside.is_empty() {
        return Ok(());
    }
    let opened = inside.iter().filter_map(|(path, id)| Opened::at(&pair.away, path, *id).ok().flatten());
    let sealed: Vec<String> =
        opened.filter(|found| found.info.readonly).map(|found| found.info.uuid.hex()).collect();
    if !sealed.is_empty() {
        // A read-only one leaves no directory (facts/btrfs.md B19): whoever is cut off finds here which are to be so again.
        journal.unseal(&sealed)?;
        watch.after("unseal")?;
    }
    for (path, id) in &inside {
        // What fails with one keeps no other from moving; it is looked at again by whoever tells of it.
        let _ = move_one(&pair, path, *id, watch);
        watch.after("along")?;
    }
    pair.top.sync().map_err(failed)
}

fn move_one(pair: &Pair, path: &BytePath, id: u64, watch: &dyn Watch) -> io::Result<()> {
    let Some(found) = Opened::at(&pair.away, path, id)? else { return Ok(()) };
    if along::obstacle(&pair.home.root, path)?.is_some() {
        return Ok(());
    }
    if !found.info.readonly {
        return Ok(along::move_along(&pair.away.root, &pair.home.root, path).map(drop)?);
    }
    found.set_readonly(false)?;
    watch.after("writable")?;
    let moved = along::move_along(&pair.away.root, &pair.home.root, path);
    watch.after("moved")?;
    // Wherever it is now.
    found.set_readonly(true)?;
    Ok(moved.map(drop)?)
}

/// Makes read-only again what was so before it moved, wherever it stands now.
fn seal(state: &RollbackState, journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    let uuids = journal.unsealed()?;
    if uuids.is_empty() {
        return Ok(());
    }
    let seal_of = |member: &RollbackMember| -> Result<(), AgentError> {
        let Some(pair) = Pair::open(state, member)? else { return Ok(()) };
        let failed = |error: io::Error| failed(member, &error);
        for tree in [&pair.away, &pair.home] {
            for (path, id) in pair.inside(tree).map_err(failed)? {
                let found = Opened::at(tree, &path, id).map_err(failed)?;
                if let Some(found) = found
                    && !found.info.readonly
                    && uuids.contains(&found.info.uuid.hex())
                {
                    found.set_readonly(true).map_err(failed)?;
                    watch.after("seal")?;
                }
            }
        }
        Ok(())
    };
    let mut first = Ok(());
    for member in &state.members {
        first = first.and(seal_of(member));
    }
    // Where one could not be looked at, what is noted is needed again.
    first?;
    journal.sealed()
}

/// So many are told of in one answer.
pub(super) const TOLD: usize = 1000;

/// Returns those that stand in trees that are not in place, and how many there are beyond those that are told.
/// Of a disk that is not there it is told that nothing is known.
pub(super) fn left(state: &RollbackState) -> (Vec<Inside>, u64) {
    let busy = in_use(state);
    let (mut told, mut more) = (Vec::new(), 0);
    for member in &state.members {
        let looked = || -> Result<Option<(Pair, Insides)>, AgentError> {
            let Some(pair) = Pair::open(state, member)? else { return Ok(None) };
            let inside = pair.inside(&pair.away).map_err(|error| failed(member, &error))?;
            Ok(Some((pair, inside)))
        };
        let (pair, inside) = match looked() {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            // Nobody may go on as if all had come along.
            Err(error) => {
                let why = format!("whether all in it came along cannot be told: {error}");
                told.push(Inside { path: member.point.clone(), is_held: false, stays: Some(why) });
                continue;
            }
        };
        let is_busy = busy.contains(&member.name);
        for (path, id) in inside {
            if told.len() == TOLD {
                more += 1;
                continue;
            }
            let stays = (!is_busy).then(|| why_it_stays(&pair, &path, id));
            told.push(Inside { path: member.point.join(path.as_bytes()), is_held: false, stays });
        }
    }
    (told, more)
}

fn why_it_stays(pair: &Pair, path: &BytePath, id: u64) -> String {
    let looked = || -> io::Result<Option<String>> {
        let obstacle = along::obstacle(&pair.home.root, path)?;
        let held = || -> io::Result<Option<String>> {
            match Opened::at(&pair.away, path, id)? {
                Some(_) => Ok(along::held_back(&pair.away.root, path)?),
                None => Ok(None),
            }
        };
        match obstacle {
            None => held(),
            why => Ok(why),
        }
    };
    match looked() {
        Ok(Some(why)) => why,
        Ok(None) => "it was not moved yet; the next `pc-switcher rollback` or sync does it".into(),
        Err(error) => error.to_string(),
    }
}

/// Checks that no tree that is to be removed has a subvolume inside.
///
/// # Errors
/// If one has, with what to do about it.
pub(super) fn none_is_left(state: &RollbackState) -> Result<(), AgentError> {
    for member in &state.members {
        let Some(pair) = Pair::open(state, member)? else { continue };
        let inside = pair.inside(&pair.away).map_err(|error| failed(member, &error))?;
        let Some((first, id)) = inside.first() else { continue };
        let why = why_it_stays(&pair, first, *id);
        return Err(AgentError::failed(format!(
            "`{first}` is a subvolume inside of `{name}`, which would be removed, and in no set: {why}. Move away what is in its place, \
             or mount the top level (`sudo mount -o subvolid=5 UUID={} /mnt`) and move `/mnt/{name}/{first}` to where you want it",
            member.fs_uuid,
            name = pair.away.name
        )));
    }
    Ok(())
}
