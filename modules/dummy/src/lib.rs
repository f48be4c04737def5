//! Modules that only exercise the host: tests and template.
//!
//! They are registered behind a test switch alone. `docs/writing-a-module.md` walks through
//! [`success::DummySuccess`].

pub mod config;
pub mod fail;
pub mod spec;
pub mod success;

#[cfg(test)]
mod tests;
