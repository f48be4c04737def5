//! Opening below a root without ever leaving it: no symbolic link, no mount, no `..` on the way.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Advice, CWD, Mode, OFlags, ResolveFlags, fadvise, openat, openat2};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

/// Longest path given to the kernel at once; `PATH_MAX` is 4096 with the end mark.
const STRETCH: usize = 4000;

/// How often an open is repeated when a rename elsewhere made the kernel unsure whether the path stays below.
const RETRIES: usize = 64;

/// Opens the root of a tree for reading; a symbolic link as its last name is refused.
pub(super) fn root(path: &BytePath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, path.as_path(), flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(CWD, path.as_path(), flags, Mode::empty()),
        opened => opened,
    }
}

/// Opens `path` below `dir`; the empty path is `dir` itself. Paths may be longer than the kernel takes at once.
pub(super) fn beneath(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > STRETCH {
        let cut = rest[..STRETCH].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
        let step = OFlags::PATH | OFlags::DIRECTORY;
        held = Some(match &held {
            Some(held) => once(held, &rest[..cut], step)?,
            None => once(&dir, &rest[..cut], step)?,
        });
        rest = &rest[cut + 1..];
    }
    match &held {
        Some(held) => once(held, rest, flags),
        None => once(dir, rest, flags),
    }
}

/// As [`beneath`], for reading and without touching the access time where the kernel lets us.
pub(super) fn beneath_for_reading(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK;
    match beneath(&dir, path, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => beneath(&dir, path, flags),
        opened => opened,
    }
}

fn once(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let path = if path.is_empty() { b"." } else { path };
    let mut left = RETRIES;
    loop {
        match openat2(&dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if left > 0 => left -= 1,
            opened => return opened,
        }
    }
}

/// Drops a file's pages from memory: nobody else reads a snapshot that was just made, and its pages would push out those of
/// files in use.
pub(super) fn forget(fd: &OwnedFd) {
    // Advice: what stays is only memory.
    let _ = fadvise(fd, 0, None, Advice::DontNeed);
}
