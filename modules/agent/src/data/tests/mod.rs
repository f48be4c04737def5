//! The data plane as a whole: what one side reads, the other side has afterwards.

mod applying;
mod blocks;
mod changed;
mod coded;
mod cuts;
pub(crate) mod deaths;
pub(crate) mod drive;
mod faults;
mod inline;
mod links;
mod measure;
mod moving;
mod nasty;
mod patching;
mod plan;
mod proving;
mod redo;
mod sharing;
mod undo;
mod walking;
mod wire;
