//! The bracket of read-only snapshots around a sync.

pub mod automatic;
pub mod components;
pub mod config;
#[cfg(test)]
mod fake;
pub mod module;
pub mod order;
pub mod prune;
pub mod retention;
pub mod spec;
pub mod take;
pub mod thin;

pub use pc_switcher_contract::keep;
