//! Sets of read-only snapshots: taking, checking and dropping them.
//!
//! A set is born writable in directories of its own, which lets its members share one transaction, then moved to the
//! flat names and made read-only (facts/btrfs.md B20, B62, B67). A set is whole or not there: whatever fails removes what
//! was made, and what a crash leaves behind is named by the nursery and removed by the next set.

mod nursery;
mod set;

use std::io;

use pc_switcher_contract::{SnapshotMember, SnapshotSet};

use super::btrfs::{Btrfs, KernelBtrfs, SubvolumeInfo};
use super::machine;
use super::mounts::Mounts;
use crate::data::apply::list_of;
use crate::proto::{AgentError, TakeSet};

/// Takes one read-only snapshot of each subvolume, at one instant if the kernel lets us.
///
/// # Errors
/// If a subvolume is not mounted, lies on another file system than the snapshot directory, holds a running swap file,
/// or the disk is full. Nothing of the set is left then.
pub fn take_set(request: &TakeSet) -> Result<SnapshotSet, AgentError> {
    set::take(&KernelBtrfs, &Mounts::read()?, machine::hostname()?, request)
}

/// Whether every member is there, read-only, the same and never changed; the text names the first that is not.
pub fn check_set(set: &SnapshotSet) -> Result<(), String> {
    set.members.iter().try_for_each(|member| check_member(&KernelBtrfs, member))
}

/// Removes the members of a set. One that is gone already is fine; one that is not ours any more stays.
///
/// # Errors
/// Names every member that stays, and why.
pub fn drop_set(set: &SnapshotSet) -> Result<(), AgentError> {
    drop_members(&KernelBtrfs, &set.members)?;
    // An undo without the set has nothing to take contents from.
    match list_of(set).map(|dir| std::fs::remove_dir_all(dir.as_path())) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            Err(AgentError::io("cannot remove what belongs to the set", &error))
        }
        _ => Ok(()),
    }
}

fn check_member(btrfs: &dyn Btrfs, member: &SnapshotMember) -> Result<(), String> {
    let info = btrfs
        .subvolume(member.path.as_path())
        .map_err(|error| format!("snapshot `{}` cannot be read: {error}", member.path))?;
    if info.uuid.hex() != member.uuid {
        return Err(format!("`{}` is not the snapshot that was taken", member.path));
    }
    untouched(&info).map_err(|why| format!("snapshot `{}` {why}", member.path))?;
    match info.otransid == member.otransid && info.source_uuid.hex() == member.source_uuid {
        true => Ok(()),
        false => Err(format!("snapshot `{}` does not match its record", member.path)),
    }
}

/// The tamper check (facts/btrfs.md B29).
fn untouched(info: &SubvolumeInfo) -> Result<(), String> {
    if !info.readonly {
        return Err("is writable".into());
    }
    if info.ctransid > info.otransid {
        return Err("was changed after it was taken".into());
    }
    Ok(())
}

fn drop_members(btrfs: &dyn Btrfs, members: &[SnapshotMember]) -> Result<(), AgentError> {
    let mut kept = Vec::new();
    let mut dropped_in = None;
    for member in members {
        let path = member.path.as_path();
        let Some((parent, name)) = path.parent().zip(path.file_name()) else {
            kept.push(format!("`{}` is no snapshot's path", member.path));
            continue;
        };
        match btrfs.subvolume(path) {
            Ok(info) if info.uuid.hex() == member.uuid => match btrfs.destroy(parent, name) {
                Ok(()) => dropped_in = Some(parent),
                Err(error) => kept.push(format!("`{}`: {}", member.path, stays(&error))),
            },
            Ok(_) => kept.push(format!("`{}` is another subvolume by now", member.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => kept.push(format!("`{}`: {error}", member.path)),
        }
    }
    // Deleting is durable only after a commit; a crash before it merely brings a snapshot back.
    if let Some(parent) = dropped_in {
        let _ = btrfs.sync(parent);
    }
    match kept.is_empty() {
        true => Ok(()),
        false => Err(AgentError::failed(format!("cannot remove {}", kept.join("; ")))),
    }
}

fn stays(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "it is pinned, being sent, or root is needed".into(),
        Some(libc::ENOTEMPTY) => "a subvolume lies inside it".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
