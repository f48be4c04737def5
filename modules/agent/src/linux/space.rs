//! Free space, judged the way btrfs runs out of it: data, unallocated and metadata apart (facts/btrfs.md B35, B36).

use std::os::unix::fs::MetadataExt;

use pc_switcher_contract::BytePath;

use super::btrfs::{Btrfs, DeviceSpace, SpaceSlot};
use super::mounts::Mounts;
use crate::proto::{AgentError, SpaceReport};

const DATA: u64 = 1;
const METADATA: u64 = 4;
const RAID1: u64 = 1 << 4;
const DUP: u64 = 1 << 5;
const RAID10: u64 = 1 << 6;
const RAID1C3: u64 = 1 << 9;
const RAID1C4: u64 = 1 << 10;
const GLOBAL_RESERVE: u64 = 1 << 49;

/// Below this much free metadata btrfs will want a new chunk for it soon.
const METADATA_LOW: u64 = 32 << 20;
/// What such a chunk takes, one copy.
const METADATA_CHUNK: u64 = 256 << 20;

/// Returns a report per file system of these paths, each once.
///
/// # Errors
/// If a path cannot be asked.
pub fn space(btrfs: &dyn Btrfs, mounts: &Mounts, paths: &[BytePath]) -> Result<Vec<SpaceReport>, AgentError> {
    let mut reports: Vec<SpaceReport> = Vec::new();
    for path in paths {
        let report = report(btrfs, mounts, path)?;
        if !reports.iter().any(|other| other.fs_uuid == report.fs_uuid) {
            reports.push(report);
        }
    }
    Ok(reports)
}

fn report(btrfs: &dyn Btrfs, mounts: &Mounts, path: &BytePath) -> Result<SpaceReport, AgentError> {
    let failed =
        |error: &std::io::Error| AgentError::io(format!("cannot read the free space of `{path}`"), error);
    if mounts.holding(path).is_some_and(super::mounts::Mount::is_btrfs) {
        let at = path.as_path();
        let uuid = btrfs.fs_uuid(at).map_err(|error| failed(&error))?;
        let slots = btrfs.space(at).map_err(|error| failed(&error))?;
        let devices = btrfs.devices(at).map_err(|error| failed(&error))?;
        return Ok(SpaceReport { path: path.clone(), fs_uuid: uuid.dashed(), ..judge(&slots, devices) });
    }
    let stat = rustix::fs::statvfs(path.as_path()).map_err(|error| failed(&error.into()))?;
    let device = std::fs::metadata(path.as_path()).map_err(|error| failed(&error))?.dev();
    let free = stat.f_bavail * stat.f_frsize;
    Ok(SpaceReport {
        path: path.clone(),
        fs_uuid: format!("device {device}"),
        fs_type: mounts.holding(path).map_or_else(String::new, |mount| mount.fs_type.clone()),
        size_bytes: stat.f_blocks * stat.f_frsize,
        data_free_bytes: free,
        unallocated_bytes: 0,
        metadata_free_bytes: free,
        available_bytes: free,
    })
}

/// How many copies a profile keeps.
fn copies(flags: u64) -> u64 {
    match flags {
        flags if flags & RAID1C4 != 0 => 4,
        flags if flags & RAID1C3 != 0 => 3,
        flags if flags & (RAID1 | DUP | RAID10) != 0 => 2,
        _ => 1,
    }
}

/// Judges one btrfs: pure.
fn judge(slots: &[SpaceSlot], devices: DeviceSpace) -> SpaceReport {
    let of = |use_of: u64| {
        slots.iter().filter(move |slot| slot.flags & GLOBAL_RESERVE == 0 && slot.flags & use_of != 0)
    };
    let free =
        |use_of: u64| of(use_of).map(|slot| slot.total_bytes.saturating_sub(slot.used_bytes)).sum::<u64>();
    let ratio = |use_of: u64| of(use_of).map(|slot| copies(slot.flags)).max().unwrap_or(1);
    let reserve: u64 =
        slots.iter().filter(|slot| slot.flags & GLOBAL_RESERVE != 0).map(|slot| slot.total_bytes).sum();
    let data_free = free(DATA);
    let metadata_free = free(METADATA).saturating_sub(reserve);
    let unallocated = devices.total_bytes.saturating_sub(devices.allocated_bytes);
    // Metadata that is nearly full takes its next chunk before data does; without room for one, nothing can be written.
    let wanted = if metadata_free < METADATA_LOW { METADATA_CHUNK * ratio(METADATA) } else { 0 };
    let stuck = metadata_free == 0 && unallocated < (1 << 20) * ratio(METADATA);
    let available = if stuck { 0 } else { data_free + unallocated.saturating_sub(wanted) / ratio(DATA) };
    SpaceReport {
        path: BytePath::default(),
        fs_uuid: String::new(),
        fs_type: "btrfs".into(),
        size_bytes: devices.total_bytes / ratio(DATA),
        data_free_bytes: data_free,
        unallocated_bytes: unallocated,
        metadata_free_bytes: metadata_free,
        available_bytes: available,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn slots(data: (u64, u64), metadata: (u64, u64)) -> Vec<SpaceSlot> {
        let slot = |flags, (total_bytes, used_bytes)| SpaceSlot { flags, total_bytes, used_bytes };
        vec![slot(DATA, data), slot(METADATA | DUP, metadata), slot(METADATA | GLOBAL_RESERVE, (16 << 20, 0))]
    }

    fn devices(total_bytes: u64, allocated_bytes: u64) -> DeviceSpace {
        DeviceSpace { devices: 1, total_bytes, allocated_bytes }
    }

    #[test]
    fn data_free_and_unallocated_count_when_metadata_has_room() {
        let report = judge(&slots((8 * GIB, 7 * GIB), (GIB, GIB / 2)), devices(100 * GIB, 10 * GIB));
        assert_eq!((report.available_bytes, report.unallocated_bytes), (91 * GIB, 90 * GIB));
    }

    #[test]
    fn full_metadata_without_room_for_a_chunk_means_nothing_is_free() {
        let report = judge(&slots((8 * GIB, 7 * GIB), (GIB, GIB)), devices(10 * GIB, 10 * GIB));
        assert_eq!((report.available_bytes, report.data_free_bytes), (0, GIB));
    }

    #[test]
    fn two_copies_of_data_halve_what_is_unallocated() {
        let mut slots = slots((GIB, GIB), (GIB, 0));
        slots[0].flags |= RAID1;
        assert_eq!(judge(&slots, devices(20 * GIB, 10 * GIB)).available_bytes, 5 * GIB);
    }
}
