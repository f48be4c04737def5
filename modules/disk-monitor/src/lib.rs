//! Watches free space on both machines during a sync.
