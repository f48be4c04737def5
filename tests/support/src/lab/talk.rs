//! A program inside a machine whose input and output the caller holds: for protocols, where [`super::Running`] would
//! collect everything.
//!
//! Invariant: dropping it kills the program.

use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use super::{
    cmd::Cmd,
    error::{LabError, Result},
    held::Held,
    machine::Machine,
};

/// A program that is spoken with; see [`Machine::talk`].
#[derive(Debug)]
pub struct Talk {
    /// The program's standard input.
    pub input: ChildStdin,
    /// The program's standard output.
    pub output: ChildStdout,
    _process: Held,
}

impl Machine {
    /// Starts a command to speak with; what it writes to standard error is lost.
    pub fn talk(&self, cmd: &Cmd) -> Result<Talk> {
        let door = self.door()?;
        let mut command = Command::new(&cmd.words[0]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let who = self.prepare(&mut command, cmd, &door)?;
        let inside = door.spawn(command, &who, false)?;
        match (inside.stdin, inside.stdout) {
            (Some(input), Some(output)) => Ok(Talk { input, output, _process: inside.process }),
            _ => Err(LabError::Invalid { what: format!("`{}` has no pipes", cmd.line()) }),
        }
    }
}
