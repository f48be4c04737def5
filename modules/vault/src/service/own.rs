//! What only the catalogue knows that is replaced: directories that somebody tracks since, and what waits for the next backup.

use std::path::Path;

use jiff::Timestamp;

use super::stage::Stage;
use crate::catalogue::{Catalogue, StagedItem};
use crate::error::Result;

/// Gives the new catalogue what only the one before it knows.
///
/// # Errors
/// If one of them fails.
pub(super) fn take_own(
    fresh: &mut Catalogue,
    previous: Option<&Catalogue>,
    stage: &Stage,
    now: Timestamp,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if let Some(previous) = previous {
        take_directories(fresh, previous, now, warnings)?;
    }
    take_queue(fresh, previous, stage, warnings)
}

/// Tracks what is tracked here, unless the new one knows that it was forgotten since.
fn take_directories(
    fresh: &mut Catalogue,
    previous: &Catalogue,
    now: Timestamp,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let (there, tracked) = (fresh.forgettings()?, fresh.directories()?);
    for directory in previous.directories()? {
        let since: Option<Timestamp> = directory.created_at.parse().ok();
        let text = directory.path.display().to_string();
        let is_it =
            |(path, at): &(String, Timestamp)| *path == text && since.is_none_or(|since| *at >= since);
        if !there.iter().any(is_it) {
            fresh.create_directory(&directory.path, since.unwrap_or(now))?;
        }
    }
    // Whose versions are to be forgotten that came since, nobody knows.
    for forgotten in previous.forgettings()?.into_iter().filter(|one| !there.contains(one)) {
        let path = Path::new(&forgotten.0);
        let is_back = tracked.iter().any(|directory| directory.path == path);
        if is_back && previous.find_directory_by_path(path)?.is_none() {
            let path = path.display();
            warnings.push(format!(
                "`{path}` is tracked again, with its versions, though it was forgotten since: `bt dir forget {path}` forgets it once more"
            ));
        }
    }
    Ok(())
}

/// Gives the new catalogue the queue of the one before it, as far as its files are tracked and in the stage.
fn take_queue(
    fresh: &mut Catalogue,
    previous: Option<&Catalogue>,
    stage: &Stage,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let queue = |catalogue: &Catalogue| catalogue.staged_after(0, usize::MAX >> 1);
    let waiting = queue(previous.unwrap_or(fresh))?;
    let directories = previous.unwrap_or(fresh).directories()?;
    let old: Vec<i64> = queue(fresh)?.iter().map(|item| item.seq).collect();
    let tracked = fresh.directories()?;
    let mut lost = 0;
    fresh.together(|fresh| {
        fresh.remove_staged(&old)?;
        for StagedItem { directory_id, name, content_id, facts, .. } in waiting {
            let there = directories.iter().find(|directory| directory.id == directory_id);
            // It may be part of another one there.
            let path = there.map(|directory| directory.path.join(&name));
            let here = tracked.iter().find_map(|directory| {
                Some((directory, path.as_ref()?.strip_prefix(&directory.path).ok()?.to_owned()))
            });
            let is_there = !facts.is_file() || content_id.is_none_or(|content| stage.path(content).exists());
            match here.filter(|_| is_there) {
                Some((directory, name)) => fresh.stage_for_backup(directory, &name, &facts, content_id)?,
                None => lost += 1,
            }
        }
        Ok(())
    })?;
    if lost > 0 {
        warnings.push(format!(
            "{lost} files that waited for the next backup wait no longer; `bt add` stages them again"
        ));
    }
    Ok(())
}
