//! Signals of the agent, and of the commands it starts.
//!
//! The terminal's signals belong to the front, so the agent ignores them. SIGTERM ends the input instead of the process:
//! a commit that is past its record goes on to its end.
#![expect(unsafe_code, reason = "signal dispositions and `pre_exec` have no safe interface")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::EventfdFlags;
use rustix::process::{Pid, Signal};

/// Where the handler of SIGTERM writes; -1 before it is installed.
static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_term(_signal: libc::c_int) {
    let one = 1_u64;
    // SAFETY: `write` is allowed in a handler; the descriptor is an eventfd that is never closed, or -1.
    unsafe { libc::write(WAKE.load(Ordering::SeqCst), std::ptr::from_ref(&one).cast(), size_of::<u64>()) };
}

fn set(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: zero is a valid `sigaction`; the handler is ignored, default, or one that only writes.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the process an agent as far as signals go. The returned file becomes readable with SIGTERM.
///
/// # Errors
/// If the kernel refuses, which it does not.
pub fn guard() -> io::Result<OwnedFd> {
    let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let kept = rustix::io::dup(&wake)?;
    // The handler's own descriptor lives as long as the process.
    WAKE.store(kept.as_raw_fd(), Ordering::SeqCst);
    std::mem::forget(kept);
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        set(signal, libc::SIG_IGN)?;
    }
    set(libc::SIGTERM, on_term as *const () as libc::sighandler_t)?;
    Ok(wake)
}

/// Puts a command into a session of its own, with default signals and a usual umask, that dies with the agent.
pub fn isolate(command: &mut Command) {
    let agent = rustix::process::getpid();
    let prepare = move || -> io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE] {
            set(signal, libc::SIG_DFL)?;
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The agent may have died before the line above.
        match rustix::process::getppid() {
            Some(parent) if parent == agent => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    // SAFETY: between fork and exec only system calls are made; nothing allocates and no lock is taken.
    unsafe { command.pre_exec(prepare) };
}

/// Makes orphans of our commands our children, so that they can be found and ended.
///
/// # Errors
/// On kernels without the feature.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(Pid::INIT))?)
}
