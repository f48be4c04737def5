//! Watches free space on both machines during a sync.

pub mod config;
pub mod module;
pub mod spec;
