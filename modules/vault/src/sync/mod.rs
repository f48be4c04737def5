//! The module `vault-backup`: a backup of what is tracked within a sync, from the snapshots that it took before it began.

mod changes;
mod config;
mod listen;
mod module;
mod spec;
mod view;

#[cfg(test)]
mod tests;

pub use changes::{readings, sets_of};
pub use config::VaultBackupConfig;
pub use module::{Given, VaultBackup};
pub use spec::spec;
pub use view::view_of;
