//! Copies of directories, for machines without btrfs: what a set holds there.
//!
//! A copy is a plain tree. A file that did not change since the former copy is another name of that copy's inode, so it
//! takes no space; **no inode is ever shared with the live tree**, so nothing that is done there reaches a copy (facts
//! G18). Directories and files of a copy are immutable as soon as they are whole, where the file system knows that: an
//! edit would change every set that has the file. A list beside the copy says of each name what it was and what its content
//! is, by digest: it tells the next copy what changed, and a look at the copy what was damaged.
//!
//! In an archive each file's content is a zstd frame of its own; all else is the same. docs/adr/0020.

mod build;
mod check;
mod copied;
mod former;
mod freeze;
mod grow;
mod held;
mod item;
mod label;
mod roll;
mod stream;
mod unpack;

pub(crate) use check::check;
pub(crate) use copied::Copied;
pub(crate) use former::Former;
pub(crate) use freeze::{freeze_root, is_frozen, remove, seal};
pub(crate) use grow::{Growth, grow};
pub(crate) use held::only_held;
pub(crate) use item::Form;
pub(crate) use label::{InVolume, Label, NAME as LABEL};
pub(crate) use roll::{Damaged, Inventory, RollReader, RollWriter};
pub(crate) use stream::{Came, read_tree, send_tree};
pub(crate) use unpack::{Other, is_file, unpack};

#[cfg(test)]
mod tests;
