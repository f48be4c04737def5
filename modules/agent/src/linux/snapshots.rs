//! Takes, checks and removes sets of read-only snapshots.
//!
//! Members are born writable, each in a directory of its own, so that they share a transaction; then they are moved to
//! their flat names and made read-only, which commits (facts/btrfs.md B19, B20, B62, B67). A set that fails leaves nothing.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{BytePath, Hostname, SnapshotMember, SnapshotName, SnapshotSet, SubvolumeName};

use super::btrfs::{Btrfs, SubvolumeInfo, Uuid};
use crate::proto::{AgentError, TakeSet};

/// How often a set is tried until its members share a transaction.
const TRIES: usize = 5;
/// Below the snapshot directory: ours.
const OURS: &str = ".pc-switcher";

/// One subvolume to snapshot.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its flat name.
    pub name: SubvolumeName,
    /// Where its root is mounted.
    pub mount_point: PathBuf,
}

/// A member on its way to its final name.
struct Born {
    name: SnapshotName,
    /// The directory that holds it now.
    parent: PathBuf,
    info: SubvolumeInfo,
}

/// Takes a set of `sources`.
///
/// # Errors
/// Whatever the file system refuses; then nothing of the set is left.
pub fn take(
    btrfs: &dyn Btrfs,
    hostname: &Hostname,
    request: &TakeSet,
    sources: &[Source],
) -> Result<SnapshotSet, AgentError> {
    let dir = request.snapshot_dir.as_path();
    private_dir(dir)?;
    let nursery = dir.join(OURS).join("tmp");
    sweep(btrfs, &nursery);
    let mut born: Vec<Born> = Vec::new();
    let taken = take_all(btrfs, request, sources, &nursery, &mut born)
        .and_then(|consistent| publish(btrfs, dir, &mut born).map(|()| consistent));
    let consistent = match taken {
        Ok(consistent) => consistent,
        Err(error) => {
            destroy_all(btrfs, &born);
            sweep(btrfs, &nursery);
            return Err(error);
        }
    };
    sweep(btrfs, &nursery);
    let member = |born: Born| SnapshotMember {
        path: BytePath::from(dir).join(born.name.to_string().as_bytes()),
        uuid: born.info.uuid.hex(),
        source_uuid: born.info.source_uuid.hex(),
        id: born.info.id,
        otransid: born.info.otransid,
        ctransid: born.info.ctransid,
        name: born.name,
    };
    Ok(SnapshotSet {
        hostname: hostname.clone(),
        kind: request.kind,
        stamp: request.stamp,
        session: request.session.clone(),
        consistent,
        members: born.into_iter().map(member).collect(),
    })
}

/// Takes the members file system by file system; whether each system's share one transaction.
fn take_all(
    btrfs: &dyn Btrfs,
    request: &TakeSet,
    sources: &[Source],
    nursery: &Path,
    born: &mut Vec<Born>,
) -> Result<bool, AgentError> {
    let mut systems: Vec<(Uuid, Vec<&Source>)> = Vec::new();
    for source in sources {
        let uuid = btrfs
            .fs_uuid(&source.mount_point)
            .map_err(|error| refused("read the file system of", &source.name, &error))?;
        match systems.iter_mut().find(|(other, _)| *other == uuid) {
            Some((_, members)) => members.push(source),
            None => systems.push((uuid, vec![source])),
        }
    }
    let mut consistent = true;
    for (_, members) in systems {
        for attempt in 1..=TRIES {
            let first = born.len();
            take_once(btrfs, request, &members, nursery, born)?;
            let one = born[first..].iter().all(|other| other.info.otransid == born[first].info.otransid);
            if one || attempt == TRIES {
                consistent &= one;
                break;
            }
            destroy_all(btrfs, &born[first..]);
            born.truncate(first);
        }
    }
    Ok(consistent)
}

/// Asks for all snapshots at once, each from a thread of its own into a directory of its own.
fn take_once(
    btrfs: &dyn Btrfs,
    request: &TakeSet,
    members: &[&Source],
    nursery: &Path,
    born: &mut Vec<Born>,
) -> Result<(), AgentError> {
    let mut places = Vec::new();
    for source in members {
        let name = SnapshotName {
            subvolume: source.name.clone(),
            kind: request.kind,
            stamp: request.stamp,
            session: request.session.clone(),
        };
        let parent = nursery.join(request.session.as_str()).join(places.len().to_string());
        private_dir(&parent)?;
        places.push((*source, name, parent));
    }
    if let Some((source, _, _)) = places.first() {
        btrfs.start_sync(&source.mount_point).map_err(|error| refused("commit", &source.name, &error))?;
    }
    let results: Vec<io::Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = places
            .iter()
            .map(|(source, name, parent)| {
                scope
                    .spawn(move || btrfs.snapshot(&source.mount_point, parent, OsStr::new(&name.to_string())))
            })
            .collect();
        let panicked = || Err(io::Error::other("the thread panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    let mut failed = None;
    for ((source, name, parent), result) in places.into_iter().zip(results) {
        let path = parent.join(name.to_string());
        match result.and_then(|()| btrfs.subvolume(&path)) {
            Ok(info) => born.push(Born { name, parent, info }),
            Err(error) => failed = failed.or_else(|| Some(refused("snapshot", &source.name, &error))),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Moves the members to their flat names, makes them read-only and checks them.
fn publish(btrfs: &dyn Btrfs, dir: &Path, born: &mut [Born]) -> Result<(), AgentError> {
    for member in born.iter_mut() {
        let name = member.name.to_string();
        let to = dir.join(&name);
        if to.symlink_metadata().is_ok() {
            return Err(AgentError::failed(format!("`{}` is there already", to.display())));
        }
        let moved = btrfs.rename(&member.parent.join(&name), &to);
        moved.map_err(|error| refused("move the snapshot of", &member.name.subvolume, &error))?;
        member.parent = dir.to_owned();
    }
    for member in born.iter_mut() {
        let path = dir.join(member.name.to_string());
        let frozen = btrfs.set_readonly(&path, true).and_then(|()| btrfs.subvolume(&path));
        let info =
            frozen.map_err(|error| refused("freeze the snapshot of", &member.name.subvolume, &error))?;
        if !info.readonly || info.ctransid > info.otransid {
            let text =
                format!("the snapshot of `{}` was written to while it was made", member.name.subvolume);
            return Err(AgentError::failed(text));
        }
        member.info = info;
    }
    sync_dir(dir)
}

fn destroy_all(btrfs: &dyn Btrfs, born: &[Born]) {
    for member in born {
        let _ = btrfs.destroy(&member.parent, OsStr::new(&member.name.to_string()));
    }
}

/// Removes what dead runs left in the nursery: only snapshots that carry our kind of name, in our directory.
fn sweep(btrfs: &dyn Btrfs, nursery: &Path) {
    for session in entries(nursery) {
        for place in entries(&session) {
            for left in entries(&place) {
                let ours = left
                    .file_name()
                    .and_then(OsStr::to_str)
                    .is_some_and(|name| name.parse::<SnapshotName>().is_ok());
                if let (true, Some(name)) = (ours, left.file_name()) {
                    let _ = btrfs.destroy(&place, name);
                }
            }
            let _ = fs::remove_dir(&place);
        }
        let _ = fs::remove_dir(&session);
    }
    let _ = fs::remove_dir(nursery);
    if let Some(ours) = nursery.parent() {
        let _ = fs::remove_dir(ours);
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// Whether every member is there, read-only, the same subvolume and never changed.
pub fn check(btrfs: &dyn Btrfs, set: &SnapshotSet) -> Result<(), String> {
    for member in &set.members {
        let path = &member.path;
        let info = btrfs
            .subvolume(path.as_path())
            .map_err(|error| format!("the snapshot `{path}` is gone: {error}"))?;
        if info.uuid.hex() != member.uuid {
            return Err(format!("`{path}` is another subvolume than the snapshot that was taken"));
        }
        if !info.readonly {
            return Err(format!("the snapshot `{path}` is writable"));
        }
        if info.ctransid != member.ctransid {
            return Err(format!("the snapshot `{path}` was changed after it was taken"));
        }
    }
    Ok(())
}

/// Removes the members of a set that are still the subvolumes that were taken.
///
/// # Errors
/// If one of them cannot be removed; the others are gone.
pub fn remove(btrfs: &dyn Btrfs, set: &SnapshotSet) -> Result<(), AgentError> {
    let mut failed = None;
    for member in &set.members {
        let path = member.path.as_path();
        let same = btrfs.subvolume(path).is_ok_and(|info| info.uuid.hex() == member.uuid);
        let (true, Some(parent), Some(name)) = (same, path.parent(), path.file_name()) else { continue };
        if let Err(error) = btrfs.destroy(parent, name) {
            failed = Some(AgentError::io(format!("cannot remove `{}`", member.path), &error));
        }
    }
    if let Some(parent) = set.members.first().and_then(|member| member.path.as_path().parent()) {
        let _ = btrfs.sync(parent);
    }
    failed.map_or(Ok(()), Err)
}

/// Makes a directory that only root can enter, with those above it.
fn private_dir(path: &Path) -> Result<(), AgentError> {
    if path.is_dir() {
        return Ok(());
    }
    let failed = |error: &io::Error| AgentError::io(format!("cannot make `{}`", path.display()), error);
    DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(|error| failed(&error))?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), AgentError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| AgentError::io(format!("cannot sync `{}`", dir.display()), &error))
}

/// Puts the kernel's refusal into words.
fn refused(what: &str, name: &SubvolumeName, error: &io::Error) -> AgentError {
    let mut refusal = AgentError::io(format!("cannot {what} `{name}`"), error);
    let hint = match error.raw_os_error() {
        Some(libc::ETXTBSY) => "it holds an active swap file: move that to a subvolume of its own",
        Some(libc::EXDEV) => "the snapshot directory lies on another file system",
        _ => return refusal,
    };
    refusal.message = format!("{}; {hint}", refusal.message);
    refusal
}

#[cfg(test)]
mod tests;
