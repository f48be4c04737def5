//! The memory of a program that ran, as the kernel counted it.
#![expect(unsafe_code, reason = "the standard library does not hand over what a child used")]

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};

/// Waits for a program, whose output nobody reads, and returns how it ended and the most that it had in memory, in bytes.
///
/// # Errors
/// If it is not there to be waited for.
pub fn wait(child: Child) -> io::Result<(ExitStatus, u64)> {
    let (mut status, pid) = (0, child.id() as libc::pid_t);
    loop {
        // SAFETY: all bytes zero are a valid `rusage`, and both places outlive the call.
        let (ended, used) = unsafe {
            let mut used: libc::rusage = std::mem::zeroed();
            (libc::wait4(pid, &raw mut status, 0, &raw mut used), used)
        };
        if ended == pid {
            return Ok((ExitStatus::from_raw(status), used.ru_maxrss as u64 * 1024));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_program_had_in_memory_is_told_with_how_it_ended() {
        let child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let (status, peak) = wait(child).unwrap();
        assert_eq!(status.code(), Some(3));
        assert!((64 << 10..1 << 30).contains(&peak), "{peak}");
    }
}
