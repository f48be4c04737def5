//! What the fuzzers do with random bytes, and what must hold whatever these are.
//!
//! Each target is one function of bytes that panics if a promise is broken. The fuzzers in `fuzz_targets/` call it with
//! what they invent; `tests/fuzz.rs` calls it with every file of the corpora, and with seeded mutations of them.

pub mod btrfs_items;
pub mod config;
pub mod frames;
pub mod journal;
pub mod memory;
pub mod replies;
pub mod rules;
pub mod vault;

/// One target: its name, which is its corpus's too, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("frames", frames::run),
    ("replies", replies::run),
    ("config", config::run),
    ("journal", journal::run),
    ("btrfs_items", btrfs_items::run),
    ("rules", rules::run),
    ("vault", vault::run),
];
