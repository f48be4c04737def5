//! A working directory that belongs to one thread alone.
//!
//! Extended attributes have no calls relative to a directory in most kernels; the way through `/proc/self/fd` doubles the time
//! of a walk. A thread with a working directory of its own asks for the bare name.
#![expect(
    unsafe_code,
    reason = "leaving the shared working directory is marked unsafe for the sake of other flags"
)]

use std::marker::PhantomData;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::fchdir;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The right of this thread to change its directory; it cannot be handed to another.
pub(super) struct OwnDirectory(PhantomData<*const ()>);

impl OwnDirectory {
    /// Parts this thread's directory from that of the process; `None` where that is forbidden.
    pub(super) fn take() -> Option<OwnDirectory> {
        // SAFETY: only `UnshareFlags::FILES` can do harm, to threads that share descriptors. This parts the working directory,
        // the root and the umask, which no other thread sees then.
        let parted = unsafe { unshare_unsafe(UnshareFlags::FS) };
        parted.is_ok().then_some(OwnDirectory(PhantomData))
    }

    /// Goes to an open directory.
    pub(super) fn enter(&self, dir: impl AsFd) -> Result<(), Errno> {
        fchdir(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_stays_where_it_is() {
        let before = std::env::current_dir().unwrap();
        let inside = std::thread::spawn(|| {
            let dir = std::fs::File::open("/proc").unwrap();
            OwnDirectory::take().map(|own| own.enter(&dir).map(|()| std::env::current_dir().unwrap()))
        });
        if let Some(went) = inside.join().unwrap() {
            assert_eq!(went.unwrap(), std::path::Path::new("/proc"));
        }
        assert_eq!(std::env::current_dir().unwrap(), before);
    }
}
