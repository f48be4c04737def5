//! Search results as the kernel hands them over; the first byte chooses the reader, the next two the count of results.

use pc_switcher_agent::data::walk::fuzzing::inodes;
use pc_switcher_agent::linux::btrfs::fuzzing::items;

/// Reads the bytes as results of a search.
pub fn run(data: &[u8]) {
    let [kind, low, high, buffer @ ..] = data else { return };
    let count = u32::from(u16::from_le_bytes([*low, *high]));
    if kind % 2 == 0 {
        if let Ok((inodes, used)) = inodes(buffer, count) {
            assert!(used <= buffer.len() && inodes.len() <= count as usize);
            let attributes: usize = inodes.iter().map(|(_, bytes)| bytes).sum();
            assert!(attributes <= used, "{attributes} bytes of attributes in {used}");
        }
    } else {
        let (bytes, names) = items(buffer, count);
        assert!(bytes <= buffer.len() && names.len() <= count as usize);
        assert!(names.iter().all(|name| name.len() <= usize::from(u16::MAX)));
    }
}
