//! Btrfs's structures as the kernel lays them out, and the reading of search results.

/// Longest name of a subvolume.
pub(super) const NAME_MAX: usize = 255;

pub(super) const ROOT_TREE: u64 = 1;
pub(super) const FIRST_FREE: u64 = 256;
pub(super) const LAST_FREE: u64 = u64::MAX - 255;
pub(super) const ROOT_REF_KEY: u32 = 156;
/// What lists subvolumes that are being cleared away.
pub(super) const ORPHANS: u64 = u64::MAX - 4;
pub(super) const ORPHAN_KEY: u32 = 48;
pub(super) const READONLY: u64 = 1 << 1;
pub(super) const SPEC_BY_ID: u64 = 1 << 4;

const MAGIC: u64 = 0x94;

/// Numbers as `_IO`, `_IOW`, `_IOR` and `_IOWR` make them.
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | MAGIC << 8 | number
}

pub(super) const SYNC: u64 = request(0, 8, 0);
pub(super) const SNAP_DESTROY: u64 = request(1, 15, size_of::<VolArgs>());
pub(super) const TREE_SEARCH: u64 = request(3, 17, size_of::<SearchArgs>());
pub(super) const INO_LOOKUP: u64 = request(3, 18, size_of::<LookupArgs>());
pub(super) const SPACE_INFO: u64 = request(3, 20, 16);
pub(super) const SNAP_CREATE_V2: u64 = request(1, 23, size_of::<VolArgsV2>());
pub(super) const START_SYNC: u64 = request(2, 24, size_of::<u64>());
pub(super) const GET_FLAGS: u64 = request(2, 25, size_of::<u64>());
pub(super) const SET_FLAGS: u64 = request(1, 26, size_of::<u64>());
pub(super) const DEV_INFO: u64 = request(3, 30, size_of::<DevInfo>());
pub(super) const FS_INFO: u64 = request(2, 31, size_of::<FsInfo>());
pub(super) const SNAP_DESTROY_V2: u64 = request(1, 63, size_of::<VolArgsV2>());
pub(super) const GET_SUBVOL_INFO: u64 = request(2, 60, size_of::<SubvolInfo>());

#[repr(C)]
pub(super) struct VolArgs {
    pub fd: i64,
    pub name: [u8; 4088],
}

#[repr(C)]
pub(super) struct VolArgsV2 {
    pub fd: i64,
    pub transid: u64,
    pub flags: u64,
    pub unused: [u64; 4],
    pub name: [u8; 4040],
}

#[repr(C)]
pub(super) struct LookupArgs {
    pub tree: u64,
    pub object: u64,
    pub name: [u8; 4080],
}

#[repr(C)]
pub(super) struct SearchArgs {
    pub tree: u64,
    pub min_object: u64,
    pub max_object: u64,
    pub min_offset: u64,
    pub max_offset: u64,
    pub min_transid: u64,
    pub max_transid: u64,
    pub min_type: u32,
    pub max_type: u32,
    pub items: u32,
    pub unused: u32,
    pub unused_words: [u64; 4],
    pub buffer: [u8; 3992],
}

#[repr(C)]
pub(super) struct SpaceArgs {
    pub slots: u64,
    pub total: u64,
    pub spaces: [RawSpace; MAX_SPACES],
}

/// Data, metadata, system and the global reserve, each in several profiles while a conversion runs.
pub(super) const MAX_SPACES: usize = 64;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawSpace {
    pub flags: u64,
    pub total_bytes: u64,
    pub used_bytes: u64,
}

#[repr(C)]
pub(super) struct DevInfo {
    pub devid: u64,
    pub uuid: [u8; 16],
    pub bytes_used: u64,
    pub total_bytes: u64,
    pub unused: [u64; 379],
    pub path: [u8; 1024],
}

#[repr(C)]
pub(super) struct FsInfo {
    pub max_id: u64,
    pub num_devices: u64,
    pub fsid: [u8; 16],
    pub rest: [u8; 992],
}

#[repr(C)]
pub(super) struct Time {
    pub seconds: u64,
    pub nanos: u32,
}

#[repr(C)]
pub(super) struct SubvolInfo {
    pub treeid: u64,
    pub name: [u8; NAME_MAX + 1],
    pub parent_id: u64,
    pub dirid: u64,
    pub generation: u64,
    pub flags: u64,
    pub uuid: [u8; 16],
    pub parent_uuid: [u8; 16],
    pub received_uuid: [u8; 16],
    pub ctransid: u64,
    pub otransid: u64,
    pub stransid: u64,
    pub rtransid: u64,
    pub times: [Time; 4],
    pub reserved: [u64; 8],
}

const _: () = assert!(size_of::<VolArgs>() == 4096);
const _: () = assert!(size_of::<VolArgsV2>() == 4096);
const _: () = assert!(size_of::<LookupArgs>() == 4096);
const _: () = assert!(size_of::<SearchArgs>() == 4096);
const _: () = assert!(size_of::<DevInfo>() == 4096);
const _: () = assert!(size_of::<FsInfo>() == 1024);
const _: () = assert!(size_of::<SubvolInfo>() == 504);

/// One item of a tree search.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item<'a> {
    pub object: u64,
    pub offset: u64,
    pub kind: u32,
    pub data: &'a [u8],
}

/// Reads the items that the kernel put into a search buffer; stops at the first that does not fit.
pub(super) fn items(buffer: &[u8], count: u32) -> Vec<Item<'_>> {
    let mut found = Vec::new();
    let mut rest = buffer;
    for _ in 0..count {
        let (Some(object), Some(offset), Some(kind), Some(len)) =
            (u64_at(rest, 8), u64_at(rest, 16), u32_at(rest, 24), u32_at(rest, 28))
        else {
            break;
        };
        let Some(data) = rest.get(32..32 + len as usize) else { break };
        found.push(Item { object, offset, kind, data });
        rest = &rest[32 + len as usize..];
    }
    found
}

/// Reads the directory and the name out of a reference from a subvolume to one in it.
pub(super) fn root_ref(data: &[u8]) -> Option<(u64, &[u8])> {
    let dir = u64::from_le_bytes(data.get(..8)?.try_into().ok()?);
    let len = u16::from_le_bytes(data.get(16..18)?.try_into().ok()?);
    Some((dir, data.get(18..18 + usize::from(len))?))
}

// The kernel copies a search's head in its own byte order, unlike the item's data, which is little endian.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_kernels_header() {
        assert_eq!(SNAP_CREATE_V2, 0x5000_9417);
        assert_eq!(SNAP_DESTROY, 0x5000_940f);
        assert_eq!(SNAP_DESTROY_V2, 0x5000_943f);
        assert_eq!(GET_SUBVOL_INFO, 0x81f8_943c);
        assert_eq!(TREE_SEARCH, 0xd000_9411);
        assert_eq!(SPACE_INFO, 0xc010_9414);
    }

    #[test]
    fn a_torn_search_buffer_yields_whole_items_only() {
        let mut buffer = Vec::new();
        for word in [9_u64, 5, 257] {
            buffer.extend_from_slice(&word.to_ne_bytes());
        }
        buffer.extend_from_slice(&ROOT_REF_KEY.to_ne_bytes());
        buffer.extend_from_slice(&23_u32.to_ne_bytes());
        buffer.extend_from_slice(&256_u64.to_le_bytes());
        buffer.extend_from_slice(&1_u64.to_le_bytes());
        buffer.extend_from_slice(&5_u16.to_le_bytes());
        buffer.extend_from_slice(b"@home");
        let found = items(&buffer, 2);
        assert_eq!((found.len(), found[0].object, found[0].offset), (1, 5, 257));
        assert_eq!(root_ref(found[0].data), Some((256, b"@home".as_slice())));
        for cut in 0..buffer.len() {
            assert!(items(&buffer[..cut], 1).is_empty());
        }
    }
}
