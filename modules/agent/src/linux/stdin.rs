//! Standard input with a watchdog: it ends at SIGTERM and times out in silence.

use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The front's end of the pipe.
pub struct WatchedStdin {
    stop: OwnedFd,
    silence: Duration,
}

impl WatchedStdin {
    /// Watches standard input; `stop` becomes readable when it should end.
    pub fn new(stop: OwnedFd, silence: Duration) -> Self {
        Self { stop, silence }
    }
}

impl Read for WatchedStdin {
    /// Returns 0 at the end of input or at SIGTERM, [`io::ErrorKind::TimedOut`] after too long a silence.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin: BorrowedFd<'_> = rustix::stdio::stdin();
        let limit =
            Timespec { tv_sec: self.silence.as_secs() as i64, tv_nsec: self.silence.subsec_nanos().into() };
        let mut watched = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        let ready = match poll(&mut watched, Some(&limit)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => return Err(io::ErrorKind::Interrupted.into()),
            Err(error) => return Err(error.into()),
        };
        if ready == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !watched[1].revents().is_empty() {
            return Ok(0);
        }
        Ok(rustix::io::read(stdin, buffer)?)
    }
}
