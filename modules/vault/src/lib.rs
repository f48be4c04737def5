//! The vault: versions of files in repositories of the restic format, with a catalogue beside them.
//!
//! [`format`] knows bytes, [`store`] keeps objects, [`repo`] is one repository over a store.

pub mod catalogue;
pub mod engine;
pub mod error;
pub mod format;
pub mod repo;
pub mod store;
