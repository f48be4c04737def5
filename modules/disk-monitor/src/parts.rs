//! What a disk is taken up by, and how large it should be for snapshots: pure (facts/archive-loop.md A40).
//!
//! While all of the source is written anew a snapshot keeps all that it was. So twice the source has to find room beside all else, and
//! so much as always stays free.

use pc_switcher_agent::proto::{Holdings, SpaceReport};

/// So much is to stay free.
pub const FREE_BYTES: u64 = 10 << 30;

/// What the file system of the snapshots is taken up by; all together are its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// What sets are taken of.
    pub source_bytes: u64,
    /// All else that lies there: other subvolumes, images, metadata.
    pub other_bytes: u64,
    /// What sets alone hold.
    pub snapshot_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

impl Parts {
    /// Takes a file system apart. Where it is not known what sets are taken of, all that is no set counts as that.
    pub fn of(report: &SpaceReport, held: &Holdings) -> Self {
        let used = report.size_bytes.saturating_sub(report.available_bytes);
        let no_set = used.saturating_sub(held.snapshot_bytes);
        let source_bytes = held.source_bytes.unwrap_or(no_set);
        Self {
            source_bytes,
            other_bytes: no_set.saturating_sub(source_bytes),
            snapshot_bytes: held.snapshot_bytes,
            free_bytes: report.available_bytes,
        }
    }

    /// Returns how large the file system should be at least, in bytes.
    pub fn advised_bytes(&self) -> u64 {
        self.source_bytes.saturating_mul(2).saturating_add(self.other_bytes).saturating_add(FREE_BYTES)
    }

    /// Returns by how many bytes a file system is smaller than it should be.
    pub fn lacks(&self, report: &SpaceReport) -> Option<u64> {
        self.advised_bytes().checked_sub(report.size_bytes).filter(|lacks| *lacks > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn report(size_gib: u64, available_gib: u64) -> SpaceReport {
        SpaceReport {
            path: "/".into(),
            fs_uuid: "x".into(),
            fs_type: "btrfs".into(),
            size_bytes: size_gib * GIB,
            data_free_bytes: 0,
            unallocated_bytes: 0,
            metadata_free_bytes: 0,
            metadata_copies: 1,
            available_bytes: available_gib * GIB,
        }
    }

    fn held(source_gib: Option<u64>, snapshot_gib: u64) -> Holdings {
        Holdings { source_bytes: source_gib.map(|gib| gib * GIB), snapshot_bytes: snapshot_gib * GIB }
    }

    #[test]
    fn a_disk_is_source_all_else_sets_and_what_is_free() {
        let parts = Parts::of(&report(100, 30), &held(Some(40), 20));
        assert_eq!((parts.source_bytes, parts.other_bytes), (40 * GIB, 10 * GIB));
        let all = parts.source_bytes + parts.other_bytes + parts.snapshot_bytes + parts.free_bytes;
        assert_eq!(all, 100 * GIB);
        // A file of which two subvolumes share the extents, or numbers of different moments.
        assert_eq!(Parts::of(&report(100, 90), &held(Some(40), 20)).other_bytes, 0);
    }

    #[test]
    fn advised_are_twice_the_source_and_all_else_and_ten_gibibytes() {
        let lacks = |report: &SpaceReport, held: &Holdings| Parts::of(report, held).lacks(report);
        assert_eq!(Parts::of(&report(100, 30), &held(Some(40), 20)).advised_bytes(), 100 * GIB);
        assert_eq!(lacks(&report(100, 30), &held(Some(40), 20)), None, "just enough");
        assert_eq!(lacks(&report(100, 30), &held(Some(41), 20)), Some(GIB), "one of it is no other any more");
        assert_eq!(lacks(&report(50, 48), &held(Some(1), 0)), None);
        // Sets can be removed: they count for nothing.
        assert_eq!(lacks(&report(100, 10), &held(Some(40), 40)), None);
    }

    #[test]
    fn where_nothing_tells_what_sets_are_of_all_that_is_no_set_counts_as_that() {
        let parts = Parts::of(&report(100, 30), &held(None, 20));
        assert_eq!((parts.source_bytes, parts.other_bytes), (50 * GIB, 0));
        assert_eq!(parts.lacks(&report(100, 30)), Some(10 * GIB));
    }
}
