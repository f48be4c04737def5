//! What a rollback does not touch: who this machine is, who may log in, and what we remember.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;

use super::journal::Journal;
use super::steps::{Names, top_of};
use super::top::Top;
use super::under_way;
use crate::data::carry::carry;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::linux::machine;
use crate::linux::state::{STATE_PATH, StateDir};
use crate::proto::{AgentError, RollbackMember, RollbackPhase, RollbackState};

/// The machine's own. Our program is among it: it has to be there to confirm a rollback, or to take it back. So are the modules of
/// GRUB, which must be of the version of its core: that one lies outside of every tree, where `grub-install` put it last.
const OF_THE_MACHINE: [&str; 14] = [
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/hostname",
    STATE_PATH,
    "/usr/local/lib/pc-switcher",
    "/usr/local/bin/pc-switcher",
    "/etc/systemd/system/pc-switcher-redo.service",
    "/etc/systemd/system/multi-user.target.wants/pc-switcher-redo.service",
    "/etc/systemd/system/pc-switcher-rollback.service",
    "/etc/systemd/system/sysinit.target.wants/pc-switcher-rollback.service",
    "/boot/grub/i386-pc",
    "/boot/grub/x86_64-efi",
    "/boot/grub/i386-efi",
    "/boot/grub/arm64-efi",
];

/// Directories with the beginnings of names in them.
const BY_BEGINNING: [(&str, &str); 2] = [("/etc/ssh", "ssh_host_"), ("/etc/sudoers.d", "pc-switcher-")];

/// What a person has of it, below the home directory.
const OF_A_PERSON: [(&str, &str); 2] = [(".ssh", "authorized_keys"), (".local/state", "pc-switcher")];

/// Returns the paths that are carried over; a name that is there in one of the two trees alone counts as well. `other` takes
/// a path to the same place in the new tree.
fn paths(other: &dyn Fn(&Path) -> Option<PathBuf>) -> Result<Vec<PathBuf>, AgentError> {
    let mut found: Vec<PathBuf> = OF_THE_MACHINE.iter().map(PathBuf::from).collect();
    let mut beginnings: Vec<(PathBuf, &str)> =
        BY_BEGINNING.iter().map(|(dir, start)| (PathBuf::from(dir), *start)).collect();
    for user in machine::users(Path::new("/etc/passwd"))? {
        let home = user.home.as_path().to_owned();
        beginnings.extend(OF_A_PERSON.iter().map(|(dir, start)| (home.join(dir), *start)));
    }
    for (dir, start) in beginnings {
        for place in [Some(dir.clone()), other(&dir)].into_iter().flatten() {
            let Ok(entries) = fs::read_dir(place) else { continue };
            let names = entries.flatten().map(|entry| entry.file_name());
            found.extend(
                names.filter(|name| name.as_bytes().starts_with(start.as_bytes())).map(|name| dir.join(name)),
            );
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Returns what of it lies below a directory, relative to that; the names in `copy`, another state of the directory, count as well.
///
/// # Errors
/// If it is not known whose homes there are.
pub(crate) fn below(dir: &Path, copy: &Path) -> Result<Vec<BytePath>, AgentError> {
    let other = |path: &Path| Some(copy.join(path.strip_prefix(dir).ok()?));
    let inside = |path: PathBuf| {
        let rest = path.strip_prefix(dir).ok()?;
        (!rest.as_os_str().is_empty()).then(|| BytePath::from(rest))
    };
    Ok(paths(&other)?.into_iter().filter_map(inside).collect())
}

/// Where a path lies: the subvolume of what exists of it, and the way from there.
fn place_of(path: &Path) -> io::Result<Option<(String, BytePath)>> {
    let dir = path.ancestors().skip(1).find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let info = match KernelBtrfs.subvolume(dir) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => return Ok(None),
        info => info?,
    };
    let inside = BytePath::new(KernelBtrfs.inside(&fs::canonicalize(dir)?)?);
    let rest = path.strip_prefix(dir).unwrap_or(path);
    let inside = if inside.is_empty() { rest.into() } else { inside.join(rest.as_os_str().as_bytes()) };
    Ok(Some((info.uuid.hex(), inside)))
}

/// Between which trees something is carried.
struct Way {
    /// The uuid of the tree that is mounted, if this member is concerned.
    mounted: fn(&RollbackMember) -> &str,
    from: fn(Names) -> String,
    to: fn(Names) -> String,
}

/// From the live trees into the new ones.
const FORTH: Way =
    Way { mounted: |member| &member.old_uuid, from: |names| names.live, to: |names| names.incoming };
/// From the new trees, if the machine runs on them, into those from before.
const BACK: Way =
    Way { mounted: |member| &member.new_uuid, from: |names| names.live, to: |names| names.replaced };

/// Carries all of it from the live trees into the new ones of a rollback.
pub(super) fn carry_over(state: &RollbackState, tops: &[Top]) -> Result<(), AgentError> {
    let other = |path: &Path| FORTH.place_there(state, tops, path);
    match state.fallback {
        None => FORTH.carry(state, tops, paths(&other)?),
        Some(_) => FORTH.carry_from_a_ruin(state, tops, &other),
    }
}

/// Whether a path of a tree that does not start is missing there because somebody took it away: keys that are gone from a
/// directory that is there let nobody in any more. Whatever else is missing may be what broke the tree.
fn was_taken_away(path: &Path) -> bool {
    let is_key = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"authorized_keys"));
    is_key && path.parent().is_some_and(Path::is_dir)
}

/// Carries what was changed of it since a rollback back into the trees from before: whoever may log in now may do so after a
/// cancel. Where the machine still runs on those, they have it. What we remember of syncs has rules of its own.
pub(super) fn carry_back(state: &RollbackState, tops: &[Top]) -> Result<(), AgentError> {
    let other = |path: &Path| BACK.place_there(state, tops, path);
    let mut paths = paths(&other)?;
    paths.retain(|path| path != Path::new(STATE_PATH));
    BACK.carry(state, tops, paths)
}

impl Way {
    /// Finds the member that holds a path, and the way there.
    fn member_of(&self, state: &RollbackState, path: &Path) -> Option<(usize, BytePath)> {
        let (uuid, inside) = place_of(path).ok().flatten()?;
        let at = state.members.iter().position(|member| (self.mounted)(member) == uuid)?;
        Some((at, inside))
    }

    fn place_there(&self, state: &RollbackState, tops: &[Top], path: &Path) -> Option<PathBuf> {
        let (at, inside) = self.member_of(state, path)?;
        Some(tops[at].path(&self.to_of(state, at)).join(inside.as_path()))
    }

    fn to_of(&self, state: &RollbackState, at: usize) -> String {
        (self.to)(Names::of(state, &state.members[at]))
    }

    /// As [`Way::carry`], of trees that do not start any more: what is missing there, or cannot be carried, stays as it is in the new
    /// ones, but for what says where the journal is.
    fn carry_from_a_ruin(
        &self,
        state: &RollbackState,
        tops: &[Top],
        other: &dyn Fn(&Path) -> Option<PathBuf>,
    ) -> Result<(), AgentError> {
        let known = || OF_THE_MACHINE.iter().map(PathBuf::from).collect();
        for path in paths(other).unwrap_or_else(|_| known()) {
            if fs::symlink_metadata(&path).is_err() && !was_taken_away(&path) {
                continue;
            }
            let needed = path == Path::new(STATE_PATH);
            match self.carry(state, tops, vec![path]) {
                Err(error) if needed => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn carry(&self, state: &RollbackState, tops: &[Top], paths: Vec<PathBuf>) -> Result<(), AgentError> {
        for path in paths {
            let Some((at, inside)) = self.member_of(state, &path) else { continue };
            let failed = |error: io::Error| {
                let text = format!("cannot carry `{}` over into the other tree", path.display());
                AgentError::io(text, &error)
            };
            let from = (self.from)(Names::of(state, &state.members[at]));
            let from = tops[at].open(&from).map_err(failed)?;
            let to = tops[at].open(&self.to_of(state, at)).map_err(failed)?;
            carry(&from, &to, &inside).map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }
}

/// Writes a file of the machine's own state into the new trees of a rollback that is prepared, if that state lies in one of them: whoever
/// starts with them finds it so, and whoever does not finds what is there now.
///
/// # Errors
/// If no rollback is prepared, or the file cannot be written.
pub(crate) fn tell_new_trees(state: &StateDir, key: &str, value: Option<&[u8]>) -> Result<(), AgentError> {
    let now = under_way(&Journal::of(state), RollbackPhase::Prepared)?;
    let tops = now.members.iter().map(top_of).collect::<Result<Vec<Top>, _>>()?;
    match FORTH.place_there(&now, &tops, state.root()) {
        Some(place) => StateDir::new(place).put(key, value),
        None => Ok(()),
    }
}

/// Returns where the machine's own state lies in the new tree that somebody has put away, if it lies in one.
pub(super) fn state_put_away(state: &RollbackState, tops: &[Top], root: &Path) -> Option<PathBuf> {
    let away =
        Way { mounted: |member| &member.old_uuid, from: |names| names.live, to: |names| names.cancelled };
    away.place_there(state, tops, root)
}

/// As [`carry_back`], of one path; for tests, which have no machine of their own.
#[cfg(test)]
pub(super) fn carry_one_back(state: &RollbackState, tops: &[Top], path: PathBuf) -> Result<(), AgentError> {
    BACK.carry(state, tops, vec![path])
}
