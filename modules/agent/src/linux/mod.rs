//! The machine itself.

pub mod btrfs;
pub mod finder;
pub mod layout;
pub mod lock;
pub mod machine;
pub mod mounts;
pub mod signals;
pub mod snapshots;
pub mod space;
pub mod state;
pub mod stdin;
