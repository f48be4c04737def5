//! Signals of the agent: only SIGTERM means something, and it means the same as a front that is gone.
#![expect(
    unsafe_code,
    reason = "blocking signals and signalfd have no safe wrapper in the crates that we use"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Blocks SIGINT, SIGHUP, SIGPIPE and SIGTERM in this thread and those it starts later; returns a descriptor that becomes
/// readable at SIGTERM. Children get an empty mask back from the standard library.
///
/// # Errors
/// If the kernel refuses.
pub fn take_over() -> io::Result<OwnedFd> {
    // SAFETY: the sets live on this stack and are initialised by sigemptyset before any other use.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut term: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut all);
        libc::sigemptyset(&raw mut term);
        for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGPIPE, libc::SIGTERM] {
            libc::sigaddset(&raw mut all, signal);
        }
        libc::sigaddset(&raw mut term, libc::SIGTERM);
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let fd = libc::signalfd(-1, &raw const term, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
