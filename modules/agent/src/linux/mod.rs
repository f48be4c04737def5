//! The machine itself.

pub mod btrfs;
