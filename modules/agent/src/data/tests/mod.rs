//! The data plane as a whole: what one side reads, the other side has afterwards.

mod drive;
mod walking;
