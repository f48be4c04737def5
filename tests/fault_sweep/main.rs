//! Whole syncs between two modelled machines, in which one call goes wrong: every call in turn, in every way.
//!
//! The orchestrator and the modules are the real ones; what is modelled is told in `pc_switcher_testkit::model`.

mod endings;
mod plain;
mod reach;
mod run;
mod sweep;
mod table;
mod world;
