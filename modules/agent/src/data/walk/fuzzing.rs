//! Openings for fuzzers into what reads the kernel's search results. Nothing else may use them.

use super::items::take_in;
use crate::data::search::Page;

/// Reads results as a walk does. Returns the inodes with the bytes of their attributes.
///
/// # Errors
/// If a result is cut.
pub fn inodes(bytes: &[u8], count: u32) -> Result<Vec<(u64, usize)>, std::io::Error> {
    let mut found = Vec::new();
    take_in(&Page::of(count, bytes), &mut found)?;
    let size = |(name, value): &(Vec<u8>, Vec<u8>)| name.len() + value.len();
    Ok(found.iter().map(|inode| (inode.ino, inode.xattrs.iter().map(size).sum())).collect())
}
