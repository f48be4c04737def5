//! The agent's input, watched: silence and SIGTERM end it.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Reads a stream until it ends, until nothing comes for a while, or until the agent is told to go.
pub struct WatchedStdin<F> {
    input: F,
    stop: OwnedFd,
    silence: Duration,
}

impl WatchedStdin<std::os::fd::BorrowedFd<'static>> {
    /// Watches standard input. `stop` ends it when it becomes readable.
    pub fn new(stop: OwnedFd, silence: Duration) -> Self {
        Self { input: rustix::stdio::stdin(), stop, silence }
    }
}

impl<F: AsFd> Read for WatchedStdin<F> {
    /// Returns 0 at the end and after a stop.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after `silence` without a byte.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = Timespec {
            tv_sec: self.silence.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: self.silence.subsec_nanos().into(),
        };
        loop {
            let mut fds = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.input, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if !fds[0].revents().is_empty() {
                return Ok(0);
            }
            match rustix::io::read(&self.input, &mut *buffer) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Ok(count) => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn watched(silence_ms: u64) -> (WatchedStdin<std::io::PipeReader>, std::io::PipeWriter, OwnedFd) {
        let (input, out) = std::io::pipe().unwrap();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let kept = rustix::io::dup(&stop).unwrap();
        (WatchedStdin { input, stop, silence: Duration::from_millis(silence_ms) }, out, kept)
    }

    #[test]
    fn bytes_come_through_and_the_end_is_an_end() {
        let (mut watched, mut out, _stop) = watched(5000);
        out.write_all(b"hello").unwrap();
        drop(out);
        let mut text = String::new();
        watched.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn silence_is_an_error_of_its_own() {
        let (mut watched, _out, _stop) = watched(50);
        let since = Instant::now();
        let error = watched.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(since.elapsed() >= Duration::from_millis(50) && since.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_stop_ends_the_input_though_bytes_are_waiting() {
        let (mut watched, mut out, stop) = watched(5000);
        out.write_all(b"more").unwrap();
        rustix::io::write(&stop, &1_u64.to_ne_bytes()).unwrap();
        assert_eq!(watched.read(&mut [0; 4]).unwrap(), 0);
    }
}
