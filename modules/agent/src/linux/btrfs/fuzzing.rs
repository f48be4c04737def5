//! Openings for fuzzers into what reads the kernel's search results. Nothing else may use them.

use super::raw;

/// Reads a search buffer. Returns the sum of the items' lengths, and the names of subvolumes that stand in them.
pub fn items(buffer: &[u8], count: u32) -> (usize, Vec<Vec<u8>>) {
    let items = raw::items(buffer, count);
    let names = items.iter().filter_map(|item| raw::root_ref(item.data)).map(|(_, name)| name.to_vec());
    (items.iter().map(|item| item.data.len()).sum(), names.collect())
}
