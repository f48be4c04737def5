//! Runs a sync: decides in pure functions ([`plan`], [`topology`], [`ending`]), acts in one loop ([`watch`]).
//!
//! The orchestrator stores nothing itself (the session does), runs no commands (agents and executors do) and knows no
//! module by name: brackets, background modules and sequential ones are told apart by their spec.

pub mod asked;
pub mod cleanup;
pub mod deadman;
pub mod dry_run;
pub mod ending;
mod login;
pub mod met;
pub mod phases;
pub mod plan;
pub mod reach;
pub mod real_reach;
pub mod records;
mod room;
pub mod run;
pub mod topology;
pub mod watch;

pub use run::{Chronicle, Deps, Finished, run};
