//! The machine itself.

pub mod btrfs;
pub(crate) mod caller;
mod clock;
pub mod connection;
pub mod deadman;
mod diagnose;
pub mod exec;
pub mod finder;
pub mod install;
pub mod layout;
pub mod lock;
pub mod machine;
pub mod mounts;
pub mod nested;
pub mod orphans;
mod processes;
pub mod put_file;
pub mod rollback;
pub mod services;
pub mod signals;
pub mod snapshots;
pub mod space;
pub mod state;
pub mod stdin;
pub(crate) mod trees;
pub mod unchanged;
pub(crate) mod writers;
