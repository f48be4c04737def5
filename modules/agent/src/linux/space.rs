//! Free space, judged the way btrfs runs out of it: data, unallocated and metadata apart (facts/btrfs.md B35, B36).

use std::time::{Duration, Instant};

use pc_switcher_contract::BytePath;

use super::btrfs::{Btrfs, DeviceSpace, SpaceSlot};
use super::mounts::Mounts;
use crate::proto::{AgentError, SpaceReport};
use crate::server::Call;

/// How soon it is looked again whether the kernel has cleared away what was removed.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

const DATA: u64 = 1;
const METADATA: u64 = 4;
const RAID1: u64 = 1 << 4;
const DUP: u64 = 1 << 5;
const RAID10: u64 = 1 << 6;
const RAID1C3: u64 = 1 << 9;
const RAID1C4: u64 = 1 << 10;
const GLOBAL_RESERVE: u64 = 1 << 49;

/// Below this much free metadata, or this part of a small disk, btrfs will want a new chunk for it soon.
const METADATA_LOW: (u64, u64) = (32 << 20, 64);
/// What such a chunk takes, one copy, or this part of a small disk.
const METADATA_CHUNK: (u64, u64) = (256 << 20, 10);

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

/// Waits until removed subvolumes of the file system of a path take no space any more, so that [`space`] tells what they freed
/// (facts/btrfs.md B5, B7); whether that is so.
///
/// # Errors
/// If the file system cannot be asked, or the caller gave up.
pub fn settle(btrfs: &dyn Btrfs, path: &BytePath, limit: Duration, call: &Call) -> Result<bool, AgentError> {
    let failed =
        |error: std::io::Error| AgentError::io(format!("cannot wait for the space of `{path}`"), &error);
    let (begin, path) = (Instant::now(), path.as_path());
    // Without a commit the kernel begins only when the next one is due.
    btrfs.sync(path).map_err(failed)?;
    while btrfs.is_clearing(path).map_err(failed)? {
        if call.is_cancelled() {
            return Err(AgentError::cancelled());
        }
        if begin.elapsed() >= limit {
            return Ok(false);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    btrfs.sync(path).map_err(failed)?;
    Ok(true)
}

fn report(btrfs: &dyn Btrfs, mounts: &Mounts, path: &BytePath) -> Result<SpaceReport, AgentError> {
    let failed =
        |error: std::io::Error| AgentError::io(format!("cannot read the free space of `{path}`"), &error);
    // What is not made yet will lie where its parent lies; the mount table knows no symbolic links.
    let there = path.as_path().ancestors().find(|one| one.exists()).unwrap_or(path.as_path());
    let real = std::fs::canonicalize(there).map_err(failed)?;
    let at = real.as_path();
    let mount =
        mounts.holding(&at.into()).ok_or_else(|| AgentError::failed(format!("no mount shows `{path}`")))?;
    let stat = rustix::fs::statvfs(at).map_err(|error| failed(error.into()))?;
    let free = stat.f_bavail * stat.f_frsize;
    if mount.is_btrfs() {
        let fs_uuid = btrfs.fs_uuid(at).map_err(failed)?.dashed();
        let judged = judge(&btrfs.space(at).map_err(failed)?, btrfs.devices(at).map_err(failed)?);
        // The kernel knows what parity costs; we know what metadata costs. The smaller of the two holds.
        let available_bytes = judged.available_bytes.min(free);
        return Ok(SpaceReport { path: path.clone(), fs_uuid, available_bytes, ..judged });
    }
    Ok(SpaceReport {
        path: path.clone(),
        // As in a layout.
        fs_uuid: mount.device.clone(),
        fs_type: mount.fs_type.clone(),
        size_bytes: stat.f_blocks * stat.f_frsize,
        data_free_bytes: free,
        unallocated_bytes: 0,
        metadata_free_bytes: free,
        metadata_copies: 1,
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
    let scaled = |(most, part): (u64, u64)| most.min(devices.total_bytes / part);
    let is_low = metadata_free < scaled(METADATA_LOW);
    let wanted = if is_low { scaled(METADATA_CHUNK) * ratio(METADATA) } else { 0 };
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
        metadata_copies: ratio(METADATA),
        available_bytes: available,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::btrfs::KernelBtrfs;
    use crate::linux::btrfs::image::Image;

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
        assert_eq!(report.metadata_copies, 2);
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

    #[test]
    fn low_metadata_takes_its_chunk_first_in_proportion_to_the_disk() {
        let low = |gib: u64| {
            let slots = slots((GIB, GIB), (GIB, GIB - (17 << 20)));
            judge(&slots, devices(gib * GIB, gib * GIB - 2 * GIB)).available_bytes
        };
        assert_eq!(low(100), 2 * GIB - (512 << 20));
        assert_eq!(low(3), 2 * GIB - (512 << 20));
    }

    #[test]
    fn a_real_disk_is_judged_empty_and_full() {
        let Some(image) = Image::make(512) else { return };
        let paths: Vec<BytePath> =
            ["", "not/yet/made"].iter().map(|name| image.top().join(name).as_path().into()).collect();
        let look = || space(&KernelBtrfs, &Mounts::read().unwrap(), &paths).unwrap();
        let empty = look();
        assert_eq!(empty.len(), 1, "one file system, one report");
        assert_eq!((empty[0].fs_type.as_str(), empty[0].size_bytes), ("btrfs", 512 << 20));
        assert!(empty[0].available_bytes > 300 << 20, "{empty:?}");
        let mut file = std::fs::File::create(image.top().join("fill")).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 1 << 20]).is_ok() {}
        KernelBtrfs.sync(image.top()).unwrap();
        let full = look();
        assert!(full[0].available_bytes < 32 << 20, "{full:?}");
    }

    #[test]
    fn a_disk_without_btrfs_is_named_as_in_a_layout() {
        let mounts = Mounts::parse(b"20 1 8:1 / / rw - ext4 x rw\n");
        let report = &space(&KernelBtrfs, &mounts, &["/".into(), "/tmp".into()]).unwrap()[0];
        assert_eq!((report.fs_uuid.as_str(), report.fs_type.as_str()), ("8:1", "ext4"));
        assert!(report.available_bytes <= report.size_bytes);
    }
}
