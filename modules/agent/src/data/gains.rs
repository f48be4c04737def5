//! How much data only certain snapshots hold: asked of the extents, so exact, compressed or shared as they may be.
//!
//! An extent is freed when nobody refers to it any more. Those that came since the snapshot before and that the next one does not
//! hold are few (facts/btrfs.md B34); of these the file system is asked who refers to them, so a copy that shares extents, in
//! whatever subvolume, counts as well.
#![expect(unsafe_code, reason = "btrfs speaks through ioctl")]

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use super::search::{Item, LAST, Search, u32_at, u64_at};

/// `_IOWR(0x94, 59, struct btrfs_ioctl_logical_ino_args)`.
const LOGICAL_INO_V2: u64 = 0xc038_943b;
/// All that refer to any part of an extent.
const IGNORE_OFFSET: u64 = 1;
/// Room for those who refer to one extent. One with more is not ours alone.
const ROOM: usize = 64 << 10;
/// Room for the scan of a tree.
const SCAN_ROOM: usize = 1 << 20;

/// Files have these inode numbers.
const FIRST: u64 = 256;
/// The type of an item for a stretch of a file.
const EXTENT_DATA: u32 = 108;
/// Stretches whose data lies inside the item.
const INLINE: u8 = 0;

/// Extents by their address, with their size on the disk.
pub(crate) type Extents = BTreeMap<u64, u64>;

#[repr(C)]
struct LogicalInoArgs {
    logical: u64,
    size: u64,
    reserved: [u64; 3],
    flags: u64,
    inodes: u64,
}

/// Returns the extents of the files in the subvolume of `root` that are named where its tree was written in the transaction
/// `since` or later: all that came since then, and some of their neighbours. An extent that came by reference is older than its
/// place in the tree.
///
/// # Errors
/// What the kernel says, or [`Errno::CANCELED`].
pub(crate) fn extents(root: &OwnedFd, since: u64, stop: &dyn Fn() -> bool) -> Result<Extents, Errno> {
    let mut found = Extents::new();
    let range = ((FIRST, 0, 0), (LAST, u32::from(u8::MAX), u64::MAX));
    Search::with_room(SCAN_ROOM).run(root, range, since, |Item { key: (_, kind, _), data }| {
        if kind == EXTENT_DATA {
            found.extend(extent(data));
            if stop() {
                return Err(Errno::CANCELED);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Reads a `struct btrfs_file_extent_item`; `None` for a hole, and for data in the item.
fn extent(data: &[u8]) -> Option<(u64, u64)> {
    let is_inline = *data.get(20)? == INLINE;
    let (address, size) = (u64_at(data, 21)?, u64_at(data, 29)?);
    (!is_inline && address != 0).then_some((address, size))
}

/// Asks who refers to extents.
pub(crate) struct Owners<'a> {
    root: &'a OwnedFd,
    room: Vec<u64>,
}

impl<'a> Owners<'a> {
    /// Asks the file system of `root`.
    pub(crate) fn of(root: &'a OwnedFd) -> Self {
        Self { root, room: vec![0; ROOM / 8] }
    }

    /// Whether nobody but these subvolumes refers to an extent.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn are_among(&mut self, address: u64, subvolumes: &HashSet<u64>) -> Result<bool, Errno> {
        let (owners, are_all) = self.of_extent(address)?;
        let mut ids = owners.map(|(_, id)| id).peekable();
        Ok(are_all && ids.peek().is_some() && ids.all(|id| subvolumes.contains(&id)))
    }

    /// Returns the inodes that refer to an extent, each with its subvolume, and whether these are all. None refers to one that
    /// was freed.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn of_extent(
        &mut self,
        address: u64,
    ) -> Result<(impl Iterator<Item = (u64, u64)>, bool), Errno> {
        self.room[..2].fill(0);
        let mut args = LogicalInoArgs {
            logical: address,
            size: ROOM as u64,
            reserved: [0; 3],
            flags: IGNORE_OFFSET,
            inodes: self.room.as_mut_ptr() as u64,
        };
        loop {
            // SAFETY: LOGICAL_INO_V2 takes these 56 bytes; `inodes` points to as many bytes as `size` says, which live over the
            // call.
            let done = unsafe {
                libc::ioctl(self.root.as_raw_fd(), LOGICAL_INO_V2 as _, std::ptr::from_mut(&mut args))
            };
            if done >= 0 {
                break;
            }
            match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::INTR) => {}
                // Freed since it was seen.
                Some(Errno::NOENT) => {
                    self.room[..2].fill(0);
                    break;
                }
                error => return Err(error.unwrap_or(Errno::IO)),
            }
        }
        let head: Vec<u8> = self.room[..2].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let (count, missed) = (u32_at(&head, 8).unwrap_or(0) as usize, u32_at(&head, 12).unwrap_or(1));
        // Inode, offset and subvolume of each.
        let referring = self.room[2..].chunks_exact(3).take(count / 3).map(|one| (one[0], one[2]));
        Ok((referring, missed == 0))
    }
}

const _: () = assert!(size_of::<LogicalInoArgs>() == 56);
