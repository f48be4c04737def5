//! The data plane as a whole: what one side reads, the other side has afterwards.

mod applying;
mod changed;
mod cuts;
mod deaths;
pub(super) mod drive;
mod faults;
mod inline;
mod links;
mod measure;
mod nasty;
mod patching;
mod plan;
mod redo;
mod undo;
mod walking;
mod wire;
