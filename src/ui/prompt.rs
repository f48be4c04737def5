//! Questions, asked off the event loop and always interruptible (facts/ssh.md S48–S56).
//!
//! Each question runs on a thread of its own. Cancelling the token, or dropping the future, wakes that thread; it gives
//! the terminal back and ends. The screen is paused from the question to its answer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use pc_switcher_contract::{ErrorKind, ModuleError};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use super::console::{Asked, Console};
use super::screen::ScreenHandle;
use super::secret::Secret;
use crate::events::{clean, redact};

/// Asks the person at the terminal.
pub struct Prompter {
    console: Arc<dyn Console>,
    cancel: CancellationToken,
    screen: OnceLock<ScreenHandle>,
    turn: Mutex<()>,
}

impl Prompter {
    /// Makes one; questions end when `cancel` is set.
    pub fn new(console: Arc<dyn Console>, cancel: CancellationToken) -> Self {
        Self { console, cancel, screen: OnceLock::new(), turn: Mutex::new(()) }
    }

    /// Tells which screen to pause; the first call counts.
    pub fn attach(&self, screen: ScreenHandle) {
        self.screen.set(screen).ok();
    }

    /// Whether someone is there to answer.
    pub fn can_ask(&self) -> bool {
        self.console.can_ask()
    }

    /// Gives the terminal back at once; for the third Ctrl+C.
    pub fn restore_terminal(&self) {
        self.console.restore();
    }

    /// Asks a yes-or-no question; anything but `y` or `yes` is no, end of input included.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] if the run was stopped meanwhile, [`ErrorKind::Failed`] if the terminal fails.
    pub async fn confirm(&self, text: &str) -> Result<bool, ModuleError> {
        let shown = format!("{} [y/N] ", redact::text(&clean(text)));
        Ok(match self.ask(shown, true).await? {
            Some(line) => {
                let word = String::from_utf8_lossy(&line).trim().to_ascii_lowercase();
                word == "y" || word == "yes"
            }
            None => false,
        })
    }

    /// Asks for a password without showing what is typed.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] at Ctrl+C and end of input, [`ErrorKind::Invalid`] without a terminal.
    pub async fn password(&self, prompt: &str) -> Result<Secret, ModuleError> {
        if !self.can_ask() {
            return Err(ModuleError::new(ErrorKind::Invalid, "no terminal to ask for a password on"));
        }
        let line = self.ask(clean(prompt).into_owned(), false).await?;
        line.map(Secret::new).ok_or_else(ModuleError::cancelled)
    }

    async fn ask(&self, prompt: String, echo: bool) -> Result<Option<Vec<u8>>, ModuleError> {
        let _turn = self.turn.lock().await;
        if self.cancel.is_cancelled() {
            return Err(ModuleError::cancelled());
        }
        let broken = |error: io::Error| ModuleError::failed("cannot ask on the terminal").caused_by(error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| broken(errno.into()))?;
        let wake = Arc::new(wake);
        let (answer, mut answered) = oneshot::channel();
        let (console, screen, waked) = (self.console.clone(), self.screen.get().cloned(), wake.clone());
        std::thread::Builder::new()
            .name("question".into())
            .spawn(move || {
                let pause = screen.map(|screen| screen.pause());
                let asked = console.ask(&prompt, echo, waked.as_fd());
                drop(pause);
                // Nobody listens any more if the future was dropped.
                answer.send(asked).ok();
            })
            .map_err(broken)?;
        let waker = Waker(wake);
        let asked = tokio::select! {
            biased;
            () = self.cancel.cancelled() => {
                drop(waker);
                // The terminal is given back before anyone goes on.
                drop(answered.await);
                return Err(ModuleError::cancelled());
            }
            asked = &mut answered => asked,
        };
        match asked {
            Ok(Ok(Asked::Line(line))) => Ok(Some(line)),
            Ok(Ok(Asked::End)) => Ok(None),
            Ok(Ok(Asked::Woken)) => Err(ModuleError::cancelled()),
            Ok(Err(error)) => Err(broken(error)),
            Err(_) => Err(ModuleError::failed("the question broke off")),
        }
    }
}

/// Wakes the asking thread when dropped.
struct Waker(Arc<OwnedFd>);

impl Drop for Waker {
    fn drop(&mut self) {
        // Only a full counter could refuse, and then the thread is awake anyway.
        rustix::io::write(&*self.0, &1_u64.to_ne_bytes()).ok();
    }
}

#[cfg(test)]
mod tests;
