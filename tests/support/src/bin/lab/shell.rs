//! An interactive shell: the user's terminal in raw mode, connected to one inside the machine.

use std::process::ExitStatus;

use pc_switcher_testkit::lab::{Cmd, LabError, Machine};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Runs a login shell of `user` until it ends.
pub(super) fn run(machine: &Machine, user: &str) -> Result<ExitStatus, LabError> {
    let cmd = Cmd::new("bash").arg("--login").user(user);
    if !isatty(std::io::stdin()) {
        return machine.exec_inherited(&cmd);
    }
    let terminal = machine.spawn_pty(&cmd)?;
    if let Ok(size) = tcgetwinsize(std::io::stdin()) {
        terminal.resize(size.ws_row, size.ws_col)?;
    }
    let _raw = RawMode::enter();
    terminal.relay()
}

/// Gives the terminal back as it was when dropped.
struct RawMode(Option<Termios>);

impl RawMode {
    fn enter() -> Self {
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // A terminal that stays in line mode is a nuisance, no reason to stop.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}
