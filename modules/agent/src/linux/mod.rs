//! The machine itself.

mod atomic;
pub mod btrfs;
pub mod exec;
pub mod finder;
pub mod layout;
pub mod lock;
pub mod machine;
pub mod mounts;
pub mod put_file;
pub mod signals;
pub mod snapshots;
pub mod state;
pub mod stdin;
