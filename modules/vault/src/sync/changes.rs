//! What changed in tracked directories since the snapshots of the last backup: asked of the agent, which asks the trees.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use pc_switcher_agent::proto::{ChangedDir, RuleSet, Tree};
use pc_switcher_agent::typed::{Agent, Held};
use pc_switcher_contract::{BytePath, ExecError, SetId, SnapshotSet};

use crate::service::{Place, Reading, Told};

/// Returns from what each of these directories is read in a set that the agent handed over, with what changed since the base that was
/// recorded of it. Where that is not known, all of it will be looked at.
///
/// # Errors
/// If the agent is gone, or the run shall end.
pub async fn readings(
    agent: &Agent,
    set: &SnapshotSet,
    held: &[Held],
    directories: &[PathBuf],
    bases: &[(PathBuf, Place)],
) -> Result<Vec<Reading>, ExecError> {
    let mut all = Vec::new();
    for directory in directories {
        let Some(parts) = parts_of(directory, held) else { continue };
        let place = Place { set: set.clone(), parts };
        let base = bases.iter().find(|(of, _)| of == directory).map(|(_, base)| base);
        let told = match base {
            Some(base) => since(agent, base, &place).await?.map(|told| (base.set.id(), told)),
            None => None,
        };
        all.push(Reading { directory: directory.clone(), place, told });
    }
    Ok(all)
}

/// Returns where a directory and what is mounted or a subvolume in it lie in the set; `None` if some of it lies elsewhere.
fn parts_of(directory: &Path, held: &[Held]) -> Option<Vec<(BytePath, BytePath)>> {
    let inside = held.iter().filter(|one| one.path.as_path().starts_with(directory));
    let part = |one: &Held| {
        let open = one.directory.as_ref().ok()?;
        let place = fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd())).ok()?;
        place.is_absolute().then(|| (one.path.clone(), BytePath::from(place.as_path())))
    };
    let mut parts: Vec<(BytePath, BytePath)> = inside.map(part).collect::<Option<_>>()?;
    parts.sort();
    (parts.first().is_some_and(|(path, _)| path.as_path() == directory)).then_some(parts)
}

/// Returns the directories that may differ from a base; `None` if nobody knows.
async fn since(agent: &Agent, base: &Place, now: &Place) -> Result<Option<Vec<Told>>, ExecError> {
    let places = |place: &Place| place.parts.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    if places(base) != places(now) {
        return Ok(None);
    }
    // A snapshot that is gone, or was written to, is no base.
    match agent.check_set(base.set.clone()).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(ExecError::Failed { .. }) => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut all = Vec::new();
    for ((path, then), (_, root)) in base.parts.iter().zip(&now.parts) {
        let tree = Tree { root: root.clone(), prefix: BytePath::default(), rules: RuleSet::default() };
        match agent.changed(then.clone(), tree).await {
            Ok((found, true)) => all.extend(found.into_iter().map(|dir| told(path, dir))),
            Ok((_, false)) | Err(ExecError::Failed { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(all))
}

fn told(part: &BytePath, dir: ChangedDir) -> Told {
    let ChangedDir { path, whole, names, silent } = dir;
    let path = if path.is_empty() { part.clone() } else { part.join(path.as_bytes()) };
    let plain = |names: Vec<BytePath>| -> Vec<OsString> {
        names.into_iter().map(|name| OsString::from_vec(name.as_bytes().to_vec())).collect()
    };
    Told {
        path: path.as_path().to_owned(),
        // Where any name may differ, all below is looked at.
        whole: whole || names.is_none(),
        names: plain(names.unwrap_or_default()),
        silent: plain(silent),
    }
}

/// Returns the sets that are bases.
pub fn sets_of(bases: &[(PathBuf, Place)]) -> Vec<SetId> {
    bases.iter().map(|(_, base)| base.set.id()).collect()
}
