//! The terminal as something that can be asked; the blocking half of every question.
//!
//! Signals stay on (`ISIG`): Ctrl+C reaches the process, which cancels and wakes the question through a descriptor.
//! So nothing stays blocked on the terminal after a cancel, and its settings are given back in every ending.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::mode::TerminalFacts;
use crate::events::lock;

/// How a question ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A line was typed; without its line end.
    Line(Vec<u8>),
    /// End of input, or the terminal is gone.
    End,
    /// Someone woke us: the answer is no longer wanted.
    Woken,
}

/// A terminal that can be asked.
pub trait Console: Send + Sync {
    /// Whether someone is there to see the question and to answer.
    fn can_ask(&self) -> bool;

    /// Throws away what was typed ahead, shows `prompt` and waits for a line or for `wake` to become readable.
    ///
    /// # Errors
    /// What the terminal says.
    fn ask(&self, prompt: &str, echo: bool, wake: BorrowedFd<'_>) -> io::Result<Asked>;

    /// Gives the terminal back as it was; for an exit that cannot wait for a question to end.
    fn restore(&self);
}

/// The real terminal.
pub struct FdConsole {
    input: OwnedFd,
    output: OwnedFd,
    can_ask: bool,
    saved: Mutex<Option<Termios>>,
}

impl FdConsole {
    /// Makes one of the given descriptors.
    pub fn new(input: OwnedFd, output: OwnedFd, can_ask: bool) -> Self {
        Self { input, output, can_ask, saved: Mutex::new(None) }
    }

    /// Makes the one of this process: asks on stderr if that is a terminal, else on stdout, and reads stdin.
    ///
    /// # Errors
    /// If the standard streams are closed.
    pub fn standard(facts: TerminalFacts) -> io::Result<Self> {
        let output = if facts.stderr {
            io::stderr().as_fd().try_clone_to_owned()
        } else {
            io::stdout().as_fd().try_clone_to_owned()
        };
        Ok(Self::new(io::stdin().as_fd().try_clone_to_owned()?, output?, facts.can_ask()))
    }

    fn say(&self, text: &str) -> io::Result<()> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&self.output, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_line(&self, wake: BorrowedFd<'_>) -> io::Result<Asked> {
        let mut line = zeroed_buffer();
        loop {
            let mut ready = [PollFd::new(&wake, PollFlags::IN), PollFd::new(&self.input, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // A cancel wins over an answer that came at the same time.
            if !ready[0].revents().is_empty() {
                return Ok(Asked::Woken);
            }
            if ready[1].revents().is_empty() {
                continue;
            }
            let mut part = [0_u8; 1024];
            let count = match rustix::io::read(&self.input, &mut part) {
                Ok(0) | Err(Errno::IO) => return Ok(Asked::End),
                Ok(count) => count,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(error) => return Err(error.into()),
            };
            let end = part[..count].iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&part[..end.unwrap_or(count)]);
            part.fill(0);
            std::hint::black_box(&part);
            if end.is_some() {
                return Ok(Asked::Line(line));
            }
        }
    }
}

/// Large enough never to be moved: a moved password would leave a copy behind.
fn zeroed_buffer() -> Vec<u8> {
    Vec::with_capacity(4096)
}

impl Console for FdConsole {
    fn can_ask(&self) -> bool {
        self.can_ask
    }

    fn ask(&self, prompt: &str, echo: bool, wake: BorrowedFd<'_>) -> io::Result<Asked> {
        let original = tcgetattr(&self.input)?;
        let mut wanted = original.clone();
        wanted.input_modes.insert(InputModes::ICRNL);
        wanted.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO);
        if !echo {
            wanted.local_modes.remove(LocalModes::ECHO);
            wanted.local_modes.insert(LocalModes::ECHONL);
            // Ctrl+\ and Ctrl+Z would leave a terminal without echo behind; 0 is "no such key".
            wanted.special_codes[SpecialCodeIndex::VQUIT] = 0;
            wanted.special_codes[SpecialCodeIndex::VSUSP] = 0;
        }
        *lock(&self.saved) = Some(original);
        let given_back = GiveBack(self);
        tcsetattr(&self.input, OptionalActions::Flush, &wanted)?;
        self.say(prompt)?;
        let asked = self.read_line(wake);
        drop(given_back);
        if !matches!(asked, Ok(Asked::Line(_))) {
            self.say("\n")?;
        }
        asked
    }

    fn restore(&self) {
        if let Some(original) = lock(&self.saved).take() {
            // Nobody is left to be told.
            tcsetattr(&self.input, OptionalActions::Flush, &original).ok();
        }
    }
}

struct GiveBack<'a>(&'a FdConsole);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.0.restore();
    }
}
