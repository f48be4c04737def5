//! The bracket of read-only snapshots around a sync.
