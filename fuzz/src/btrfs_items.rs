//! Search results as the kernel hands them over; the first byte chooses the reader, the next two the count of results.

use pc_switcher_agent::data::fuzzing::{entries, inline_content, names, ranges, written};
use pc_switcher_agent::data::walk::fuzzing::inodes;
use pc_switcher_agent::linux::btrfs::fuzzing::items;

/// Reads the bytes as results of a search.
pub fn run(data: &[u8]) {
    let [kind, low, high, buffer @ ..] = data else { return };
    let count = u32::from(u16::from_le_bytes([*low, *high]));
    match kind % 7 {
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
        3 => assert!(inline_content(buffer).is_none_or(|content| content.len() < buffer.len())),
        4 => {
            let ([low, high, buffer @ ..], size) = (buffer, u64::from(count) << 12) else { return };
            let (new, old) = halves(buffer, u16::from_le_bytes([*low, *high]));
            let Some(found) = ranges(new, old, size) else { return };
            assert!(found.iter().all(|(at, end, _)| at < end && *end <= size), "{found:?} in {size}");
            assert!(found.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{found:?}");
            assert_eq!(ranges(new, new, size), Some(Vec::new()));
        }
        6 => {
            let Some(written) = written(buffer, count, 6) else { return };
            assert!(written.len() <= count as usize);
            let names: usize = written.iter().filter_map(|(.., names)| *names).sum();
            assert!(names <= buffer.len(), "{names} bytes of names in {}", buffer.len());
        }
        _ => {
            let (now, base) = halves(buffer, count as u16);
            let Some(names) = entries(now, base) else { return };
            assert!(names.iter().map(Vec::len).sum::<usize>() <= buffer.len());
            assert_eq!(entries(now, now), Some(Vec::new()));
        }
    }
}

/// Results of a search and how many they are.
type Found<'a> = (&'a [u8], u32);

/// Splits results of two searches: the lower half of `at` says where, in parts of 256; the rest how many results each has.
fn halves(bytes: &[u8], at: u16) -> (Found<'_>, Found<'_>) {
    let [parts, count] = at.to_le_bytes();
    let (one, other) = bytes.split_at(bytes.len() * usize::from(parts) / 256);
    ((one, u32::from(count >> 4)), (other, u32::from(count & 15)))
}
