//! Takes a sync back on the machine that was its target, path by path, while people work.
//!
//! The list of the sync's steps says where to look. Each path is compared in three states: before the sync, after it, and
//! now. Only what still is as the sync left it becomes what it was; whatever somebody touched since is named and stays. The
//! steps go the way of a sync's: staged, journalled, committed, so each path is old or new at each moment, and a redo
//! finishes what was cut off. Old content is cloned out of the pre set.
//!
//! Before the first change the records of the last syncs learn which paths are taken back: both machines differ there from
//! now on, and the next sync asks in either direction.

mod judge;
mod look;
mod moved;
mod past;
mod steps;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use pc_switcher_contract::{BytePath, SnapshotSet};

use self::judge::Meant;
use self::look::View;
use self::steps::{Place, States, Steps, Trees};
use super::apply::{Record, Source, Watch, list_of, local, read_list, run_from};
use super::changed::{Names, SUBVOLUME_ROOT};
use super::open;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::linux::state::StateDir;
use crate::proto::{AgentError, ApplyRequest, PartRoot, UndoLine, UndoReport, UndoRequest, UndoWord};
use crate::server::Call;

/// Bytes of paths that one item carries, about.
const ITEM: usize = 256 << 10;

/// Answers [`crate::proto::Request::Undo`].
///
/// # Errors
/// If the list of steps or a set cannot be read, or whatever stopped staging: nothing visible has changed then.
pub fn run(
    request: &UndoRequest,
    call: &Call,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<UndoReport, AgentError> {
    take_back(request, call, state, watch, &mut |lines| tell(lines, call))
}

/// As [`run`]; `said` is told what becomes of which path before anything is done.
///
/// # Errors
/// As [`run`], and what `said` says.
pub(crate) fn take_back(
    request: &UndoRequest,
    call: &Call,
    state: &StateDir,
    watch: &dyn Watch,
    said: &mut dyn FnMut(&[UndoLine]) -> Result<(), AgentError>,
) -> Result<UndoReport, AgentError> {
    let (mut shares, mut parts, mut report) = (Vec::new(), Vec::new(), UndoReport::default());
    let mut lines = Vec::new();
    let mut next = 0;
    for Listed { part, meant, moved } in listed(&request.pre)? {
        let mut trees = match Snapshots::open(request, &part)? {
            Ok(trees) => trees,
            Err(why) => {
                lines.push(UndoLine { path: part.root.clone(), word: UndoWord::Beyond(why) });
                continue;
            }
        };
        let failed = |(path, error): (BytePath, Errno)| {
            AgentError::io(format!("`{}`", part.root.join(path.as_bytes())), &error.into())
        };
        let meant = moved::expand(meant, &moved, &mut trees.pre, &mut trees.post).map_err(failed)?;
        let planned = steps::plan(meant, &mut trees, next).map_err(failed)?;
        if call.is_cancelled() {
            return Err(AgentError::cancelled());
        }
        let Steps { ops, clones, said, already } = planned;
        report.already += already;
        let line = |(Place(path), word): (Place, UndoWord)| UndoLine {
            path: if path.is_empty() { part.root.clone() } else { part.root.join(path.as_bytes()) },
            word,
        };
        lines.extend(said.into_iter().map(line));
        if !ops.is_empty() {
            next += clones.len() as u32;
            shares.push(local::Share { ops, clones, from: trees.pre.root });
            parts.push(part);
        }
    }
    said(&lines)?;
    if request.now.is_none() || shares.is_empty() {
        return Ok(report);
    }
    past::forget(state, &request.pre, &lines)?;
    let apply = ApplyRequest { session: request.session.clone(), parts, pre_set: None };
    report.commit = run_from(&Source::Here(&shares), &apply, call, state, watch)?;
    Ok(report)
}

fn tell(lines: &[UndoLine], call: &Call) -> Result<(), AgentError> {
    let mut rest = lines;
    while !rest.is_empty() {
        let mut bytes = 0;
        let end = rest.iter().position(|line| {
            bytes += line.path.as_bytes().len() + 64;
            bytes > ITEM
        });
        let (piece, after) = rest.split_at(end.unwrap_or(rest.len()).max(1));
        call.item(&piece)?;
        rest = after;
    }
    Ok(())
}

/// A part of a sync.
struct Listed {
    part: PartRoot,
    /// What was meant to become of its paths.
    meant: BTreeMap<Place, Meant>,
    /// Where something was moved away or to, with all below it.
    moved: BTreeSet<Place>,
}

/// Returns where the sync of a pre set went, and what it meant each path to become.
fn listed(pre: &SnapshotSet) -> Result<Vec<Listed>, AgentError> {
    let list = list_of(pre).ok_or_else(|| AgentError::protocol("an undo needs a pre set"))?;
    let failed = |error| AgentError::io(format!("list of steps in `{list}`"), &error);
    let records = read_list(list.as_path()).map_err(failed)?;
    let records =
        records.ok_or_else(|| AgentError::failed(format!("no list of steps is kept in `{list}`")))?;
    let mut all: Vec<Listed> = Vec::new();
    let mut left: HashSet<BytePath> = HashSet::new();
    let (mut is_whole, mut first) = (false, 0);
    for record in records {
        match record.map_err(failed)? {
            Record::Begin { parts, .. } => {
                // A sync commits more than once if it made subvolumes.
                let begin = |part| Listed { part, meant: BTreeMap::new(), moved: BTreeSet::new() };
                (is_whole, first) = (false, all.len());
                all.extend(parts.into_iter().map(begin));
            }
            Record::Ops { part, ops, .. } => {
                let Some(listed) = all.get_mut(first + usize::from(part)) else { continue };
                for op in &ops {
                    match Meant::of(op) {
                        Some((path, meant)) => {
                            listed.meant.insert(Place(path.clone()), meant);
                        }
                        None => listed.moved.extend(moved::places(op).into_iter().cloned().map(Place)),
                    }
                }
            }
            Record::Left(paths) => {
                is_whole = true;
                left.extend(paths);
            }
            Record::Staged(_) | Record::Commit { .. } => {}
        }
    }
    if !is_whole {
        return Err(AgentError::failed(format!("the list of steps in `{list}` is damaged")));
    }
    // What the sync left alone is not its work.
    for Listed { part, meant, moved } in &mut all {
        let is_ours = |place: &Place| !left.contains(&part.root.join(place.0.as_bytes()));
        meant.retain(|place, _| is_ours(place));
        moved.retain(is_ours);
    }
    Ok(all)
}

/// The three states of a part.
struct Snapshots {
    pre: View,
    post: View,
    now: View,
    names: Names,
    /// The inode of the part's root.
    root: u64,
}

impl Snapshots {
    /// Opens them; the inner error says why there is no way back.
    fn open(request: &UndoRequest, part: &PartRoot) -> Result<Result<Self, String>, AgentError> {
        if part.subvolume_uuid.is_empty() {
            return Ok(Err("there are no snapshots of it".into()));
        }
        let at = |error: Errno| AgentError::io(format!("`{}`", part.root), &error.into());
        let live = match open::root(&part.root) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Ok(Err("it is not there any more".into()));
            }
            opened => opened.map_err(at)?,
        };
        let plain = |uuid: &str| uuid.replace('-', "").to_ascii_lowercase();
        let uuid = plain(&part.subvolume_uuid);
        let found = super::btrfs::subvolume_uuid(&live)
            .map_err(|error| AgentError::io(format!("subvolume of `{}`", part.root), &error))?;
        if found.as_deref().map(plain).as_deref() != Some(uuid.as_str()) {
            return Ok(Err("it lies on another subvolume than at that sync".into()));
        }
        let inside = KernelBtrfs
            .inside(part.root.as_path())
            .map_err(|error| AgentError::io(format!("`{}`", part.root), &error))?;
        let ino = super::seen::Seen::of(&live).map_err(at)?.ino();
        let member = |set: &SnapshotSet| -> Result<Result<OwnedFd, String>, AgentError> {
            let member = set.members.iter().find(|member| plain(&member.source_uuid) == uuid);
            let Some(member) = member else { return Ok(Err(format!("set `{}` does not hold it", set.id()))) };
            let path =
                if inside.is_empty() { member.path.clone() } else { member.path.join(inside.as_slice()) };
            match open::root(&path) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    Ok(Err(format!("it is not in set `{}`", set.id())))
                }
                opened => opened.map(Ok).map_err(at),
            }
        };
        let (pre, post) = match (member(&request.pre)?, member(&request.post)?) {
            (Ok(pre), Ok(post)) => (pre, post),
            (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
        };
        let now = match request.now.as_ref().map(member).transpose()? {
            None => live,
            Some(Ok(now)) => now,
            Some(Err(why)) => return Ok(Err(why)),
        };
        for root in [&pre, &post, &now] {
            if super::seen::Seen::of(root).map_err(at)?.ino() != ino {
                return Ok(Err("its root was replaced since that sync".into()));
            }
        }
        let names = Names::of(rustix::io::dup(&pre).map_err(at)?);
        Ok(Ok(Self { pre: View::of(pre), post: View::of(post), now: View::of(now), names, root: ino }))
    }

    /// Returns the path of a directory before the sync; `None` if it lay elsewhere.
    fn dir_before(&mut self, mut ino: u64) -> Result<Option<BytePath>, Errno> {
        let mut names = Vec::new();
        while ino != self.root {
            if ino == SUBVOLUME_ROOT {
                return Ok(None);
            }
            let Some((parent, name)) = self.names.of_inode(ino)?.pop() else { return Ok(None) };
            names.push(name);
            ino = parent;
        }
        let path = names.iter().rev().fold(BytePath::default(), |path, name| path.join(name));
        Ok(Some(path))
    }
}

impl Trees for Snapshots {
    fn states(&mut self, path: &BytePath) -> Result<States, Errno> {
        Ok(States { pre: self.pre.at(path)?, post: self.post.at(path)?, now: self.now.at(path)? })
    }

    fn names(&mut self, dir: &BytePath) -> Result<Vec<Vec<u8>>, Errno> {
        self.now.names(dir)
    }

    fn names_before(&mut self, ino: u64) -> Result<Vec<BytePath>, Errno> {
        let mut paths = Vec::new();
        for (parent, name) in self.names.of_inode(ino)? {
            if let Some(dir) = self.dir_before(parent)? {
                paths.push(dir.join(&name));
            }
        }
        Ok(paths)
    }
}
