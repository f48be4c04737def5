//! Extended attributes that are mirrored, read by name and without following links.
//!
//! Mirrored classes: `user.*`, `trusted.*`, the two POSIX ACLs and file capabilities. Labels and signatures of a security
//! module (`security.selinux`, `security.ima`, `security.evm`, …) belong to the machine, and file-system properties
//! (`btrfs.*`) to its file system, as do the second names that XFS has for ACLs. What we write on the root of a copy in a set
//! is ours.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

use rustix::buffer::{SpareCapacity, spare_capacity};
use rustix::fs::{getxattr, lgetxattr, listxattr, llistxattr};
use rustix::io::Errno;

use super::cwd::OwnDirectory;
use super::trees::LABEL;

/// Room for a list or a value at first. The kernel sets aside as much as it is offered, for every call: nearly all lists are
/// empty, so a little is offered.
const LITTLE: usize = 512;

/// The kernel never gives more than this.
const MOST: usize = 64 << 10;

/// Attributes as in [`crate::proto::Meta`].
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// XFS shows root the two POSIX ACLs by these names as well.
const XFS_ACL: &[u8] = b"trusted.SGI_ACL_";

/// Whether an attribute of this name is mirrored.
pub(super) fn is_mirrored(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || (name.starts_with(b"trusted.") && !name.starts_with(XFS_ACL) && name != LABEL.as_bytes())
        || name.starts_with(b"system.posix_acl_")
        || name == b"security.capability"
}

/// Buffers for reading attributes, kept from one entry to the next.
pub(super) struct Reader {
    own: Option<OwnDirectory>,
    inside: bool,
    path: Vec<u8>,
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { own: None, inside: false, path: Vec::new(), names: Vec::new(), value: Vec::new() }
    }

    /// For a thread that reads whole directories: it gets a working directory of its own, if that is allowed.
    pub(super) fn for_thread() -> Self {
        Self { own: OwnDirectory::take(), ..Self::new() }
    }

    /// Announces the directory of the next calls of [`Reader::at`].
    pub(super) fn enter(&mut self, dir: impl AsFd) {
        self.inside = self.own.as_ref().is_some_and(|own| own.enter(dir).is_ok());
    }

    /// Reads those of `name` in `dir`, sorted.
    pub(super) fn at(&mut self, dir: impl AsFd, name: &CStr) -> Result<Xattrs, Errno> {
        self.path.clear();
        if !self.inside {
            let _ = write!(self.path, "/proc/self/fd/{}/", dir.as_fd().as_raw_fd());
        }
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
        let listed = offer(&mut self.names, |room| match through {
            true => listxattr(path, room),
            false => llistxattr(path, room),
        });
        match listed {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let mut found = Vec::new();
        for name in self.names.split(|b| *b == 0).filter(|name| is_mirrored(name)) {
            let read = offer(&mut self.value, |room| match through {
                true => getxattr(path, name, room),
                false => lgetxattr(path, name, room),
            });
            match read {
                Ok(_) => found.push((name.to_vec(), self.value.clone())),
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Fills `buffer` by `read`, first with little room and with the most only if that was too little.
fn offer(
    buffer: &mut Vec<u8>,
    read: impl Fn(SpareCapacity<'_, u8>) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    // A value of its own size each time: the spare room of a vector is all that it has.
    for size in [LITTLE, MOST] {
        *buffer = Vec::with_capacity(size);
        match read(spare_capacity(buffer)) {
            Err(Errno::RANGE) if size < MOST => {}
            done => return done,
        }
    }
    Err(Errno::RANGE)
}
