//! The end of a committed session, and of one that is dropped: what was displaced is judged, all of ours goes, the roots get
//! their metadata. Each step may be done again after a crash.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::commit::{RootMeta, explain_frozen, rights_changed};
use super::entry::{Entry, Phase};
use super::held::held;
use super::journal;
use super::part::Part;
use super::retire::Expected;
use super::watch::Watch;
use crate::data::HOME;
use crate::data::meta::{self, Settled};
use crate::data::seen::Seen;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, AgentErrorKind, ApplyReport, Conflict};

/// Ends a session whose steps are all done and on the disk. `roots` are those of [`Phase::Done`].
pub(super) fn finish(
    parts: &[(usize, &Part)],
    expected: &Expected,
    entry: &mut Entry,
    roots: Vec<RootMeta>,
    state: &StateDir,
    watch: &dyn Watch,
    report: &mut ApplyReport,
) -> Result<(), AgentError> {
    if let Some((_, first)) = parts.first().filter(|(index, _)| *index == 0) {
        if let Some(list) = &entry.list
            && let Err(error) = keep_list(&first.stage, list.as_path(), report)
        {
            report.warnings.push(format!("the list of steps in `{list}` could not be written: {error}"));
        }
        watch.after("list")?;
    }
    entry.phase = Phase::Done(roots);
    entry.put(state)?;
    watch.after("done")?;
    let Phase::Done(roots) = &entry.phase else { return Ok(()) };
    report.warnings.extend(held(parts, expected));
    for (_, part) in parts {
        report.conflicts.extend(part.retire(expected).map_err(|error| tidying(part, error))?);
        watch.after("retire")?;
    }
    for (_, part) in parts {
        part.sync()?;
        report.warnings.extend(part.kept_lines().map_err(|error| tidying(part, error))?);
    }
    // The journal lies in the first part's staging: that goes last, when the others are gone for good. What they displaced
    // could not be judged without it.
    for (index, part) in parts.iter().rev() {
        if *index == 0 {
            parts.iter().skip(1).try_for_each(|(_, other)| other.sync())?;
        }
        match part.clean_up() {
            Ok(false) => {}
            Ok(true) => {
                let place = part.undo_path();
                report.warnings.push(format!("displaced versions are kept in `{place}`"));
            }
            Err(error) => return Err(tidying(part, error)),
        }
        part.restore_mtime();
        watch.after("clean up")?;
    }
    for root in roots {
        let Some((_, part)) = parts.iter().find(|(part, _)| *part == root.part) else { continue };
        set_root(part, root, report);
        watch.after("root")?;
    }
    for (_, part) in parts {
        part.sync()?;
    }
    entry.remove(state)
}

/// Sets the metadata of a root.
pub(super) fn set_root(part: &Part, root: &RootMeta, report: &mut ApplyReport) {
    match root.set(&part.root) {
        Ok(Settled::Touched) => {
            report.conflicts.push(Conflict { path: part.path.clone(), why: rights_changed() });
        }
        Ok(Settled::Done(refused)) => {
            refused.into_iter().for_each(|refused| report.refused.add(meta::told(&part.path, refused)));
        }
        Err(error) => {
            let flag = Seen::of(&part.root).ok().and_then(|seen| seen.frozen_by());
            let why = match flag.filter(|_| error == Errno::PERM) {
                Some(flag) => explain_frozen("it", flag),
                None => std::io::Error::from(error).to_string(),
            };
            report.conflicts.push(Conflict { path: part.path.clone(), why });
        }
    }
}

/// Removes all of a session that was not committed or is given up, durably; what was displaced is judged before. The caller
/// removes the entry. A full disk does not keep it from that: it is our own staging that fills it.
pub(super) fn drop_all(
    parts: &[(usize, &Part)],
    expected: &Expected,
    entry: &mut Entry,
    state: &StateDir,
) -> Result<Vec<Conflict>, AgentError> {
    let mut kept = Vec::new();
    for (_, part) in parts {
        kept.extend(part.retire(expected).map_err(|error| tidying(part, error))?);
    }
    if !kept.is_empty() {
        settled(parts)?;
    }
    // From here on the journal may say things that staging does not hold any more.
    entry.phase = Phase::Dropping;
    if entry.put(state).is_err() {
        put_without_room(parts, entry, state)?;
    }
    let mut removed = Ok(());
    for (_, part) in parts.iter().rev() {
        removed = removed.and(part.remove_all().map_err(|error| tidying(part, error)));
    }
    for (_, part) in parts {
        // The entry goes next. What this complains of may be writes of what was just removed, on a disk that was full; what is
        // left then is swept by the next session.
        let _ = part.sync();
    }
    removed.map(|()| kept)
}

/// Has what was moved out of staging and undo on the disk. A full disk does not keep it from that.
pub(super) fn settled(parts: &[(usize, &Part)]) -> Result<(), AgentError> {
    for (_, part) in parts {
        match part.sync() {
            Err(error) if error.kind != AgentErrorKind::NoSpace => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes the entry into the space that was kept back. If that is not enough, the journal goes instead: without it no
/// redo takes what is left of staging for a commit.
fn put_without_room(parts: &[(usize, &Part)], entry: &Entry, state: &StateDir) -> Result<(), AgentError> {
    for (_, part) in parts {
        part.free_reserve();
        // It may take a commit of the file system until the space can be had; without it the entry says no again.
        let _ = part.sync();
    }
    let Err(error) = entry.put(state) else { return Ok(()) };
    match parts.first() {
        Some((0, first)) => journal::remove(&first.stage).map_err(|error| tidying(first, error)),
        _ => Err(error),
    }
}

pub(super) fn tidying(part: &Part, error: Errno) -> AgentError {
    AgentError::io(
        format!("staging in `{}` could not be removed", part.absolute(&HOME.into())),
        &error.into(),
    )
}

/// Keeps the journal, with what became of it, next to the pre set.
fn keep_list(stage: &OwnedFd, list: &Path, report: &ApplyReport) -> std::io::Result<()> {
    match journal::read_journal(stage.as_fd())? {
        Some(records) => journal::keep(records, list, report),
        None => Ok(()),
    }
}
