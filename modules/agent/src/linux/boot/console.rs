//! A question to whoever sits before the machine while it starts: bounded, and asked only where a console answers.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, tcflush, tcgetattr, tcsetattr,
};

/// A console; it is as before when this goes.
#[derive(Debug)]
pub(super) struct Console {
    file: File,
    before: Termios,
}

impl Console {
    /// Opens it; `None` if it is no terminal or nobody can type there. What was typed before is forgotten.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = File::options().read(true).write(true).custom_flags(flags).open(path).ok()?;
        let before = tcgetattr(&file).ok()?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&file, OptionalActions::Now, &raw).ok()?;
        let this = Self { file, before };
        tcflush(&this.file, QueueSelector::IFlush).ok()?;
        Some(this)
    }

    /// Waits for Enter; whether it came.
    pub(super) fn is_entered(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut typed = [0; 64];
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&time)) {
                Ok(0) => return false,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return false,
                Ok(_) => {}
            }
            match self.file.read(&mut typed) {
                // It is gone.
                Ok(0) | Err(_) => return false,
                Ok(count) if typed[..count].iter().any(|byte| b"\r\n".contains(byte)) => return true,
                Ok(_) => {}
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Whatever it is like now, the start goes on.
        let _ = tcsetattr(&self.file, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    #[test]
    fn whoever_presses_enter_is_heard_and_nobody_else() {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let path = Path::new(OsStr::from_bytes(name.as_bytes()));
        let mut keyboard = File::from(keyboard);

        let mut console = Console::open(path).unwrap();
        let long = Duration::from_secs(60);
        assert!(!console.is_entered(Duration::from_millis(20)), "nobody is there");
        keyboard.write_all(b"noise").unwrap();
        assert!(!console.is_entered(Duration::from_millis(20)));
        keyboard.write_all(b"x\r").unwrap();
        assert!(console.is_entered(long));
        keyboard.write_all(b"\r").unwrap();
        drop(console);
        let mut again = Console::open(path).unwrap();
        assert!(!again.is_entered(Duration::from_millis(20)), "what was typed before is no answer");
        let after = tcgetattr(&again.file).unwrap();
        assert!(!after.local_modes.contains(LocalModes::ICANON));
        let before = again.before.clone();
        drop(again);
        assert!(before.local_modes.contains(LocalModes::ICANON), "it was put back");
    }

    #[test]
    fn what_is_no_console_is_not_waited_for() {
        assert!(Console::open(Path::new("/dev/null")).is_none());
        assert!(Console::open(Path::new("/nowhere")).is_none());
    }
}
