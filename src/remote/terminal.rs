//! The terminal's settings around a question that somebody else asks.

use std::fs::File;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The settings as they were. Dropping it puts them back: a prompt that was killed leaves the echo off.
pub(super) struct TerminalSettings(Option<(File, Termios)>);

impl TerminalSettings {
    /// Remembers the settings of the controlling terminal, if there is one.
    pub(super) fn save() -> Self {
        let saved = File::options().read(true).write(true).open("/dev/tty").ok();
        Self(saved.and_then(|tty| tcgetattr(&tty).ok().map(|settings| (tty, settings))))
    }
}

impl Drop for TerminalSettings {
    fn drop(&mut self) {
        if let Some((tty, settings)) = &self.0 {
            // In the background this would stop us; then the settings are not ours to change.
            let ours = rustix::termios::tcgetpgrp(tty).is_ok_and(|group| group == rustix::process::getpgrp());
            if ours {
                let _ = tcsetattr(tty, OptionalActions::Now, settings);
            }
        }
    }
}
