//! The vault: versions of files in repositories of the restic format, with a catalogue beside them.
//!
//! [`format`] knows bytes, [`store`] keeps objects, [`repo`] is one repository over a store, [`engine`] does the work
//! with it, [`catalogue`] remembers, [`service`] is what the commands call, [`sync`] what a sync calls. `docs/vault.md` is the page for people,
//! `docs/adr/0013-*.md` says why.

pub mod catalogue;
pub mod engine;
pub mod error;
pub mod format;
pub mod repo;
pub mod secret;
pub mod service;
pub mod store;
pub mod sync;
