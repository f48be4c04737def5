//! Runs the command on the user's terminal.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::CliError;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this exit code.
    With(i32),
    /// By this signal.
    By(i32),
}

impl Ended {
    pub(super) fn is_ok(self) -> bool {
        self == Ended::With(0)
    }

    fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Ended::With(code),
            None => Ended::By(status.signal().unwrap_or_default()),
        }
    }

    /// Returns its exit code as a shell tells it.
    pub(super) fn code(self) -> i32 {
        match self {
            Ended::With(code) => code,
            Ended::By(signal) => 128 + signal,
        }
    }
}

/// Runs a command to its end. A Ctrl+C is the command's; a request to end goes on to it. With `aside` what it says goes to
/// standard error.
///
/// # Errors
/// If it cannot be run.
pub(super) fn run(words: &[OsString], aside: bool) -> Result<Ended, CliError> {
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot wait for the command: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let [mut int, mut quit, mut term, mut hup] = [
            signal(SignalKind::interrupt()).map_err(failed)?,
            signal(SignalKind::quit()).map_err(failed)?,
            signal(SignalKind::terminate()).map_err(failed)?,
            signal(SignalKind::hangup()).map_err(failed)?,
        ];
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if aside {
            command.stdout(Stdio::from(std::io::stderr()));
        }
        let mut child = command.spawn().map_err(|error| {
            CliError::Failed(format!("cannot run `{}`: {error}", words[0].to_string_lossy()))
        })?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pass = |which| pid.map(|pid| kill_process(pid, which));
        loop {
            tokio::select! {
                status = child.wait() => return Ok(Ended::of(status.map_err(failed)?)),
                _ = int.recv() => {}
                _ = quit.recv() => {}
                _ = term.recv() => drop(pass(Signal::TERM)),
                _ = hup.recv() => drop(pass(Signal::HUP)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Ended, CliError> {
        run(&["sh".into(), "-c".into(), script.into()], true)
    }

    #[test]
    fn it_is_told_how_the_command_ended() {
        assert_eq!(sh("exit 0").unwrap(), Ended::With(0));
        assert_eq!((sh("exit 7").unwrap(), sh("exit 7").unwrap().code()), (Ended::With(7), 7));
        let killed = sh("kill -9 $$").unwrap();
        assert_eq!((killed, killed.code(), killed.is_ok()), (Ended::By(9), 137, false));
        assert!(run(&["/no/such/program".into()], true).unwrap_err().to_string().contains("cannot run"));
    }
}
