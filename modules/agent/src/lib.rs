//! The elevated half of pc-switcher: one per machine, framed and versioned on stdin and stdout.
//!
//! The same binary, started as `pc-switcher agent` by sudo. It holds the machine's lock, takes snapshots, reads,
//! stages and commits. It ends when its stdin ends or falls silent, and nothing it started survives it.
//! Linux ioctls live here and nowhere else.

pub mod client;
pub mod data;
pub mod frame;
pub mod linux;
mod pipe;
pub mod proto;
pub mod server;
pub mod typed;
