//! Openings for fuzzers into what reads items of a tree. Nothing else may use them.

use super::{changed, inline};

/// Reads the names of an inode; `parent` is the directory if the key of the item has it. `None` if they are cut.
pub fn names(parent: Option<u64>, data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    changed::names(parent, data, &mut found)?;
    Some(found.into_iter().map(|(_, name)| name).collect())
}

/// Reads the content that an item holds, if it holds it as it is.
pub fn inline_content(data: &[u8]) -> Option<&[u8]> {
    inline::content(0, data)
}
