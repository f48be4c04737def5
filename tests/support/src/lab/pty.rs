//! A command on a terminal of its own inside a machine: prompts are answered, keys are pressed, Ctrl+C is Ctrl+C.
//!
//! Invariant: the terminal belongs to the machine's own devpts, so that programs find it under its name.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::{
    cmd::Cmd,
    enter::Inside,
    error::{LabError, Result},
    held::Held,
    machine::Machine,
    running::Collected,
};

const STEP: Duration = Duration::from_millis(3);
const TRAILING_LIMIT: Duration = Duration::from_millis(500);

/// The character that a terminal turns into SIGINT.
pub const CTRL_C: &[u8] = b"\x03";
/// The character that a terminal turns into SIGQUIT.
pub const CTRL_BACKSLASH: &[u8] = b"\x1c";
/// The character that a terminal turns into the end of input.
pub const CTRL_D: &[u8] = b"\x04";

/// A command on a terminal; see [`Machine::spawn_pty`]. Dropping it kills the command and hangs the terminal up.
#[derive(Debug)]
pub struct Terminal {
    line: String,
    machine: String,
    process: Held,
    keyboard: File,
    screen: Collected,
    /// How much of the screen was consumed by `expect`.
    seen: usize,
    timeout: Duration,
}

impl Machine {
    /// Starts a command on a new terminal of 120 columns and 40 rows; [`Cmd::stdin`] is not used.
    pub fn spawn_pty(&self, cmd: &Cmd) -> Result<Terminal> {
        let what = || format!("make a terminal on `{}`", self.hostname());
        let os = |error: rustix::io::Errno| LabError::io(what())(error.into());
        let door = self.door()?;
        // Not through /dev/ptmx, whose link would lead to the host's own terminals.
        let path = door.root().join("dev/pts/ptmx");
        let main =
            File::options().read(true).write(true).open(&path).map_err(LabError::path("open", &path))?;
        unlockpt(&main).map_err(os)?;
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&main, size).map_err(os)?;
        let side = ioctl_tiocgptpeer(&main, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .map_err(os)?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(LabError::io(what()));
        let mut command = Command::new(&cmd.words[0]);
        command.stdin(copy(&side)?).stdout(copy(&side)?).stderr(side);
        let who = self.prepare(&mut command, cmd, &door)?;
        if !cmd.environment.iter().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm-256color");
        }
        let Inside { process, .. } = door.spawn(command, &who, true)?;
        let screen = Collected::from(Some(main.try_clone().map_err(LabError::io(what()))?));
        Ok(Terminal {
            line: cmd.line(),
            machine: self.hostname().to_owned(),
            process,
            keyboard: main,
            screen,
            seen: 0,
            timeout: cmd.timeout,
        })
    }
}

impl Terminal {
    /// Types bytes as they are; Enter is `\r`.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let what = format!("type into `{}`", self.line);
        self.keyboard.write_all(bytes).map_err(LabError::io(what))
    }

    /// Types a line and Enter.
    pub fn send_line(&mut self, text: &str) -> Result<()> {
        self.send(format!("{text}\r").as_bytes())
    }

    /// Waits until `text` appears in what was written since the last `expect`, and returns all up to its end.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            let is_closed = self.screen.is_closed();
            let bytes = self.screen.bytes();
            let fresh = &bytes[self.seen..];
            if let Some(at) = fresh.windows(text.len().max(1)).position(|window| window == text.as_bytes()) {
                let end = at + text.len();
                let found = String::from_utf8_lossy(&fresh[..end]).into_owned();
                self.seen += end;
                return Ok(found);
            }
            if is_closed || start.elapsed() > limit {
                let what = format!("text `{text}` on the terminal of `{}` on `{}`", self.line, self.machine);
                let detail = format!("; the screen has: {}", String::from_utf8_lossy(fresh));
                return Err(LabError::NotReady { what, waited: start.elapsed(), detail });
            }
            thread::sleep(STEP);
        }
    }

    /// Returns all that was written so far, control sequences included.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.bytes()).into_owned()
    }

    /// Changes the terminal's size.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.keyboard.as_fd(), size)
            .map_err(|error| LabError::io(format!("resize the terminal of `{}`", self.line))(error.into()))
    }

    /// Waits for the end of the command (at most its timeout, then kills it) and returns how it ended and all that
    /// was written.
    pub fn wait(self) -> Result<(ExitStatus, String)> {
        let ended = self.process.wait_timeout(self.timeout);
        let Some(status) = ended.map_err(LabError::io(format!("wait for `{}`", self.line)))? else {
            self.process.kill();
            return Err(LabError::TimedOut {
                machine: self.machine.clone(),
                command: self.line.clone(),
                after: self.timeout,
                said: self.screen(),
            });
        };
        self.screen.wait_closed(TRAILING_LIMIT);
        Ok((status, self.screen()))
    }

    /// Returns how the command ended, if it has.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().map_err(LabError::io(format!("wait for `{}`", self.line)))
    }

    /// Connects the terminal with this process's own until the command ends: for people.
    pub fn relay(self) -> Result<ExitStatus> {
        let mut keyboard = self.keyboard.try_clone().map_err(LabError::io("copy a terminal"))?;
        thread::spawn(move || {
            let mut buffer = [0; 1 << 10];
            // Ends with the process, or when either side is closed.
            while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
                if keyboard.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
        let mut shown = 0;
        loop {
            let has_ended = self.try_wait()?;
            let bytes = self.screen.bytes();
            let mut out = std::io::stdout().lock();
            out.write_all(&bytes[shown..])
                .and_then(|()| out.flush())
                .map_err(LabError::io("write to the terminal"))?;
            shown = bytes.len();
            if let Some(status) = has_ended {
                return Ok(status);
            }
            thread::sleep(STEP);
        }
    }
}
