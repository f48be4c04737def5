//! The data plane as a whole: what one side reads, the other side has afterwards.

mod applying;
mod drive;
mod faults;
mod nasty;
mod plan;
mod walking;
mod wire;
