//! Extended attributes that are mirrored, read by name and without following links.
//!
//! Mirrored classes: `user.*`, `trusted.*`, the two POSIX ACLs and file capabilities. Labels and signatures of a security
//! module (`security.selinux`, `security.ima`, `security.evm`, …) belong to the machine, and file-system properties
//! (`btrfs.*`) to its file system.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{getxattr, lgetxattr, listxattr, llistxattr};
use rustix::io::Errno;

/// Room for a list or a value; the kernel gives no more than this.
const ROOM: usize = 64 << 10;

/// Attributes as in [`crate::proto::Meta`].
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Whether an attribute of this name is mirrored.
pub(super) fn is_mirrored(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name.starts_with(b"system.posix_acl_")
        || name == b"security.capability"
}

/// Buffers for reading attributes, kept from one entry to the next.
pub(super) struct Reader {
    path: Vec<u8>,
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { path: Vec::new(), names: Vec::with_capacity(ROOM), value: Vec::with_capacity(ROOM) }
    }

    /// Reads those of `name` in `dir`, sorted.
    pub(super) fn at(&mut self, dir: impl AsFd, name: &CStr) -> Result<Xattrs, Errno> {
        self.path.clear();
        let _ = write!(self.path, "/proc/self/fd/{}/", dir.as_fd().as_raw_fd());
        self.path.extend_from_slice(name.to_bytes_with_nul());
        self.read(false)
    }

    /// Reads those of what is open, which may be open for its path only.
    pub(super) fn of(&mut self, fd: impl AsFd) -> Result<Xattrs, Errno> {
        self.path.clear();
        let _ = write!(self.path, "/proc/self/fd/{}\0", fd.as_fd().as_raw_fd());
        self.read(true)
    }

    /// `through` follows the last name, which then is the kernel's own link to the open inode.
    fn read(&mut self, through: bool) -> Result<Xattrs, Errno> {
        let path = CStr::from_bytes_with_nul(&self.path).map_err(|_| Errno::INVAL)?;
        self.names.clear();
        let room = spare_capacity(&mut self.names);
        match if through { listxattr(path, room) } else { llistxattr(path, room) } {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let mut found = Vec::new();
        for name in self.names.split(|b| *b == 0).filter(|name| is_mirrored(name)) {
            self.value.clear();
            let room = spare_capacity(&mut self.value);
            match if through { getxattr(path, name, room) } else { lgetxattr(path, name, room) } {
                Ok(_) => found.push((name.to_vec(), self.value.clone())),
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}
