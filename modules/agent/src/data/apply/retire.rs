//! What becomes of displaced versions when a session is over.
//!
//! A version that is the one of the plan is in the pre set, too, and may go. Any other holds an edit that came after the pre
//! set, by whoever still had the file open: nobody else has it. It moves to `kept-…`, which is never removed by us and is
//! named by every sync until the user has seen to it. So does whatever cannot be judged.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use pc_switcher_contract::{BytePath, SessionId};

use super::part::{Part, own_dir};
use super::plan::{Action, Step};
use super::planner::Planner;
use super::touched::is_same_version;
use super::{journal, remove};
use crate::data::HOME;
use crate::data::seen::Seen;
use crate::proto::{Conflict, Identity};

const KEPT: &str = "kept-";

/// Longest part of a file's name in the name it is kept under; the rest is for its number.
const NAME: usize = 200;

/// The versions that steps displace: part, path and identity by the step's number. Without an identity it is something that
/// was only out of the way, and nobody else holds it.
pub(super) type Expected = HashMap<u64, (usize, BytePath, Option<Identity>)>;

/// Returns what steps displace.
pub(super) fn expected(steps: &[Step]) -> Expected {
    let displaced = steps.iter().filter_map(|step| {
        let identity = match &step.action {
            Action::Put { replaces, .. } | Action::Link { replaces, .. } => Some((*replaces)?),
            Action::Remove { expect } => Some(*expect),
            Action::Move { replaces, .. } => Some((*replaces)?),
            Action::Aside { .. } => None,
            Action::RemoveDir | Action::SetMeta { .. } | Action::SetDir { .. } | Action::Swap { .. } => {
                return None;
            }
        };
        Some((step.number, (step.part, step.path.clone(), identity)))
    });
    displaced.collect()
}

/// Returns the name of the directory that keeps versions of a session.
pub(super) fn kept_name(session: &SessionId) -> String {
    format!("{KEPT}{session}")
}

impl Part {
    /// Moves what nobody else holds out of undo, and tells where each of them is.
    pub(super) fn retire(&self, expected: &Expected) -> Result<Vec<Conflict>, Errno> {
        let mut kept = Vec::new();
        for (name, version) in left(&self.undo, expected, self.has_pre_set)? {
            let to = keep(&self.home, &self.session, &self.undo, &name, version.as_ref())?;
            let path = version.map_or_else(|| self.undo_path(), |path| self.absolute(&path));
            let place = self.kept_path().join(to.as_bytes());
            kept.push(Conflict {
                path,
                why: format!("what was written to it meanwhile is kept in `{place}`"),
            });
        }
        Ok(kept)
    }

    /// Returns a line per directory that keeps versions, of this or an older session.
    pub(super) fn kept_lines(&self) -> Result<Vec<String>, Errno> {
        let names = remove::list(&self.home)?.into_iter();
        let names = names.filter(|(name, _)| name.to_bytes().starts_with(KEPT.as_bytes()));
        let line = |name: &CStr| {
            let place = self.path.join(HOME.as_bytes()).join(name.to_bytes());
            format!(
                "`{place}` keeps versions that were written to while they were replaced; take what you need and remove it"
            )
        };
        Ok(names.map(|(name, _)| line(&name)).collect())
    }
}

/// Moves into undo what stands in staging and is not what was `staged` there: a version that a step had exchanged when the session was cut
/// off, and that nobody has judged yet. New names of files are not among what was staged; undo drops those that are names of something live.
pub(super) fn rescue(stage: &OwnedFd, undo: &OwnedFd, staged: &HashMap<u64, u64>) -> Result<(), Errno> {
    for (name, _) in remove::list(stage)? {
        let Some(number) = name.to_str().ok().and_then(|name| name.parse::<u64>().ok()) else { continue };
        let seen = Seen::at(stage, &name)?;
        let is_ours = staged.get(&number) == Some(&seen.ino());
        if is_ours || seen.is_dir() && unlinkat(stage, &name, AtFlags::REMOVEDIR).is_ok() {
            continue;
        }
        let to = |to: &str| renameat_with(stage, &*name, undo, to, RenameFlags::NOREPLACE);
        match to(&number.to_string()) {
            // The step had taken the old version away, and what stands here was to come into its place.
            Err(Errno::EXIST) => to(&format!("{number}-staged"))?,
            moved => moved?,
        }
    }
    Ok(())
}

/// Returns the entries of undo that nobody else holds, with the path each was displaced from, if it is known. Names of
/// inodes that live on under another name are removed, so that nothing live shares an inode with undo.
fn left(
    undo: &OwnedFd,
    expected: &Expected,
    has_pre_set: bool,
) -> Result<Vec<(String, Option<BytePath>)>, Errno> {
    let mut left = Vec::new();
    for (name, _) in remove::list(undo)? {
        let seen = Seen::at(undo, &name)?;
        if !seen.is_dir() && seen.nlink() > 1 {
            unlinkat(undo, &name, AtFlags::empty())?;
            continue;
        }
        let name = name.to_string_lossy().into_owned();
        let known = name.parse().ok().and_then(|number: u64| expected.get(&number));
        let is_planned = known
            .and_then(|(_, _, planned)| planned.as_ref())
            .is_some_and(|planned| !seen.is_dir() && is_same_version(&seen.identity(), planned));
        // Without a pre set all of undo stays where it is for a while, what cannot be judged included.
        if !is_planned && (has_pre_set || known.is_some()) {
            left.push((name, known.map(|(_, path, _)| path.clone())));
        }
    }
    Ok(left)
}

/// Moves one entry of undo to where it is kept; returns its name there.
fn keep(
    home: &OwnedFd,
    session: &SessionId,
    undo: &OwnedFd,
    name: &str,
    path: Option<&BytePath>,
) -> Result<BytePath, Errno> {
    let dir = own_dir(home, &kept_name(session))?;
    let own = path.map(|path| path.name()).unwrap_or_default();
    let mut to = format!("{name}-").into_bytes();
    to.extend(&own[..own.len().min(NAME)]);
    renameat_with(undo, name, &dir, to.as_slice(), RenameFlags::NOREPLACE)?;
    Ok(BytePath::new(to))
}

/// Sweeps what dead sessions left below a root and no redo will see to.
pub(super) fn sweep(home: &OwnedFd, has_pre_set: bool) -> Result<(), Errno> {
    let names = || -> Result<Vec<String>, Errno> {
        Ok(remove::list(home)?.into_iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect())
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in names()? {
        let Some(session) = name.strip_prefix("stage-") else { continue };
        let stage = openat(home, name.as_str(), flags, Mode::empty())?;
        let is_number =
            |(name, _): &(CString, _)| name.to_str().is_ok_and(|name| name.parse::<u64>().is_ok());
        if let Some(staged) = staged_of(&stage)
            && remove::list(&stage)?.iter().any(is_number)
        {
            rescue(&stage, &own_dir(home, &format!("undo-{session}"))?, &staged)?;
        }
    }
    let names = names()?;
    for name in &names {
        let Some(session) = name.strip_prefix("undo-") else { continue };
        // Without a pre set a session that came to its end leaves what it displaced, and no staging.
        if !has_pre_set && !names.contains(&format!("stage-{session}")) {
            continue;
        }
        let Ok(session) = session.parse::<SessionId>() else { continue };
        let undo = openat(home, name.as_str(), flags, Mode::empty())?;
        let expected = openat(home, format!("stage-{session}"), flags, Mode::empty())
            .map(|stage| expected_of(&stage))
            .unwrap_or_default();
        for (name, version) in left(&undo, &expected, true)? {
            keep(home, &session, &undo, &name, version.as_ref())?;
        }
        if has_pre_set {
            remove::tree(home, name)?;
        }
    }
    for name in names.iter().filter(|name| name.starts_with("stage-") || name.starts_with("deep-")) {
        remove::tree(home, name)?;
    }
    Ok(())
}

/// Returns the inodes that a session staged, by number; `None` if its journal says that it was not committed, so that nothing was
/// exchanged. Where the journal is not there, or cannot be read to its end, nobody knows of any others.
pub(super) fn staged_of(stage: &OwnedFd) -> Option<HashMap<u64, u64>> {
    let Ok(Some(journal)) = journal::read_journal(stage) else { return Some(HashMap::new()) };
    let (mut staged, mut is_committed) = (HashMap::new(), false);
    for record in journal {
        match record {
            Ok(journal::Record::Staged(inodes)) => staged.extend(inodes),
            Ok(journal::Record::Commit { .. }) => is_committed = true,
            Ok(journal::Record::Begin { .. } | journal::Record::Ops { .. } | journal::Record::Left(_)) => {}
            Err(_) => return Some(staged),
        }
    }
    is_committed.then_some(staged)
}

/// Returns what the session of a staging directory displaces, as far as its journal lies there and can be read.
pub(super) fn expected_of(stage: &OwnedFd) -> Expected {
    let Ok(Some(journal)) = journal::read_journal(stage) else { return Expected::default() };
    let mut planner = Planner::new(usize::from(u16::MAX) + 1);
    for record in journal.map_while(Result::ok) {
        if let journal::Record::Ops { part, ops, .. } = record {
            for op in ops {
                if planner.step(part.into(), op).is_err() {
                    return expected(&planner.into_steps());
                }
            }
        }
    }
    expected(&planner.into_steps())
}
