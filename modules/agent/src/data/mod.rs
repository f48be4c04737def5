//! The data plane on one machine: rules, walking, reading, digests, staging and committing.
//!
//! Every handler is a blocking function that gets its request and its [`crate::server::Call`]. Invariants: no symbolic
//! link is ever followed below a root, no mount and no subvolume border is crossed, reading leaves no trace (not even
//! an access time), and nothing here prints, reads the environment or asks the time.

pub(crate) mod along;
pub mod apply;
pub mod blocks;
pub(crate) mod carry;
pub mod changed;
pub mod delta;
pub(crate) mod diff;
pub mod digest;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod gains;
pub mod manifest;
pub mod moved;
pub mod read;
pub(crate) mod read_through;
pub(crate) mod restore;
pub mod rules;
pub mod sent;
pub mod shares;
pub mod since;
pub(crate) mod trees;
pub mod undo;
pub(crate) mod versions;
pub mod walk;
pub mod younger;

mod btrfs;
mod content;
mod cwd;
mod encoded;
mod entries;
mod extents;
mod inline;
mod meta;
mod open;
mod ranges;
mod search;
pub(crate) mod seen;
mod wants;
mod xattr;

/// Our directory at the root of every part on a target: staging, and displaced versions. A walk names it as skipped whatever
/// the rules say, and no step may touch it.
pub(crate) const HOME: &str = ".pc-switcher";

#[cfg(test)]
pub(crate) mod tests;
