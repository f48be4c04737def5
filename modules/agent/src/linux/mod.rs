//! The machine itself.

pub mod btrfs;
pub mod exec;
pub mod finder;
pub mod install;
pub mod layout;
pub mod lock;
pub mod machine;
pub mod mounts;
pub mod put_file;
