//! The agent's process: reads frames, runs each call on a thread of its own, ends when the front is gone.

mod call;
mod serve;

pub use call::{Call, Shield};
pub use serve::{SILENT, Services, serve};
