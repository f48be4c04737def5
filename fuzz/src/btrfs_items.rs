//! Search results as the kernel hands them over; the first byte chooses the reader, the next two the count of results.

use pc_switcher_agent::data::fuzzing::{inline_content, names};
use pc_switcher_agent::data::walk::fuzzing::inodes;
use pc_switcher_agent::linux::btrfs::fuzzing::items;

/// Reads the bytes as results of a search.
pub fn run(data: &[u8]) {
    let [kind, low, high, buffer @ ..] = data else { return };
    let count = u32::from(u16::from_le_bytes([*low, *high]));
    match kind % 4 {
        0 => {
            if let Ok(inodes) = inodes(buffer, count) {
                assert!(inodes.len() <= count as usize);
                let attributes: usize = inodes.iter().map(|(_, bytes)| bytes).sum();
                assert!(attributes <= buffer.len(), "{attributes} bytes of attributes in {}", buffer.len());
            }
        }
        1 => {
            let (bytes, names) = items(buffer, count);
            assert!(bytes <= buffer.len() && names.len() <= count as usize);
            assert!(names.iter().all(|name| name.len() <= usize::from(u16::MAX)));
        }
        2 => {
            let names = names((count > 0).then_some(u64::from(count)), buffer).unwrap_or_default();
            assert!(names.iter().map(Vec::len).sum::<usize>() <= buffer.len());
        }
        _ => assert!(inline_content(buffer).is_none_or(|content| content.len() < buffer.len())),
    }
}
