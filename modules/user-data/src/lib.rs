//! Mirrors the configured folders from a snapshot.
//!
//! The plan is made by pure functions of the listings of both machines ([`change`], [`compare`], [`links`], [`steps`]); the
//! source is always the read-only pre set. How changes are found is behind [`survey`]: today a full walk of both sides.

mod attempts;
mod batches;
pub mod builtin;
pub mod change;
pub mod compare;
pub mod config;
mod digested;
mod fill;
mod full;
pub mod guards;
mod lacking;
pub mod links;
pub mod module;
mod mounts;
pub mod moves;
mod moving;
pub mod need;
mod nested;
mod notes;
mod parts;
mod patches;
pub mod pattern;
pub mod people;
pub mod proven;
mod roots;
pub mod rough;
mod ruled;
pub mod rules;
mod said;
mod scope;
pub mod shares;
mod silent;
pub mod spec;
pub mod steps;
pub mod survey;
mod told;
pub mod transfer;
mod vital;
mod written;
