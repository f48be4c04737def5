//! Mirrors the configured folders from a snapshot.

pub mod config;
pub mod pattern;
pub mod spec;
