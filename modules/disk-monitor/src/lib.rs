//! Watches free space on both machines during a sync.

pub mod config;
pub mod forecast;
pub mod module;
pub mod parts;
pub mod seen;
pub mod spec;
