//! Commands as values and the executors that run them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::context::WriteLicence;
use crate::error::ExecError;
use crate::ids::Hostname;
use crate::path::BytePath;

/// A command that only reads: program and arguments, never a shell string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmd {
    /// The program, by name or absolute path.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Whether it runs elevated, through the agent of its machine.
    pub sudo: bool,
    /// What it reads; empty when `None`.
    pub stdin: Option<Vec<u8>>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Cmd {
    /// Makes a command with no arguments, no input and a limit of 60 s.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            sudo: false,
            stdin: None,
            timeout: Duration::from_secs(60),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Makes it run elevated.
    #[must_use]
    pub fn sudo(mut self) -> Self {
        self.sudo = true;
        self
    }

    /// Gives it input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets its limit.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Returns the command for people: words that need it are quoted.
    pub fn display(&self) -> String {
        let word = |w: &OsString| {
            let text = w.to_string_lossy();
            let plain = |c: char| c.is_alphanumeric() || "-_./=:@+,%".contains(c);
            if !text.is_empty() && text.chars().all(plain) { text.into_owned() } else { format!("{text:?}") }
        };
        std::iter::once(&self.program).chain(&self.args).map(word).collect::<Vec<_>>().join(" ")
    }
}

/// A command that changes something: it can only be made where changes are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation(Cmd);

impl Mutation {
    /// Makes a mutation; the licence exists in real runs only, so a dry run cannot reach this.
    pub fn new(cmd: Cmd, _licence: &WriteLicence) -> Self {
        Self(cmd)
    }

    /// Returns the command.
    pub fn cmd(&self) -> &Cmd {
        &self.0
    }
}

/// A command of either sort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It only reads.
    Read(Cmd),
    /// It changes something.
    Mutate(Mutation),
}

impl Action {
    /// Returns the command.
    pub fn cmd(&self) -> &Cmd {
        match self {
            Action::Read(cmd) => cmd,
            Action::Mutate(mutation) => mutation.cmd(),
        }
    }
}

impl From<Cmd> for Action {
    fn from(cmd: Cmd) -> Self {
        Action::Read(cmd)
    }
}

impl From<Mutation> for Action {
    fn from(mutation: Mutation) -> Self {
        Action::Mutate(mutation)
    }
}

/// What a finished command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    /// Returns standard output as text, with broken bytes replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns standard error as text, with broken bytes replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A line of a running command, without its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputLine {
    /// From standard output.
    Stdout(Vec<u8>),
    /// From standard error.
    Stderr(Vec<u8>),
}

/// A running command: lines as they come, then the exit code. Dropping it ends its whole process group.
pub struct Spawned {
    /// Lines; closed when the command's output is at its end.
    pub lines: mpsc::Receiver<OutputLine>,
    /// Resolves to the exit code, or to why there is none.
    pub exit: tokio::sync::oneshot::Receiver<Result<i32, ExecError>>,
    /// Ends the process group when dropped.
    pub guard: Box<dyn std::any::Any + Send>,
}

/// A file to put on the other machine.
#[derive(Debug, Clone)]
pub struct SendFile {
    /// The file here.
    pub local: PathBuf,
    /// Where it goes there; it appears whole or not at all.
    pub remote: BytePath,
    /// Its mode.
    pub mode: u32,
    /// Owner and group; the connection's user when `None`. Needs `sudo` to be another.
    pub owner: Option<(u32, u32)>,
    /// Whether it is written elevated.
    pub sudo: bool,
}

/// Runs commands on one machine.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Returns the name the machine gives itself.
    fn hostname(&self) -> &Hostname;

    /// Runs a command to its end, draining both outputs at once.
    ///
    /// # Errors
    /// Only when there is no answer: a non-zero exit is an [`Output`].
    async fn run(&self, action: Action) -> Result<Output, ExecError>;

    /// Starts a command and streams its lines.
    async fn spawn(&self, action: Action) -> Result<Spawned, ExecError>;

    /// Ends every process group this executor started, with TERM and then KILL. Returns how many it ended.
    async fn terminate_all(&self, grace: Duration) -> usize;
}

/// Runs commands on the target, hiding how it is reached.
#[async_trait]
pub trait RemoteExecutor: Executor {
    /// Puts a file there with mode and owner, atomically.
    async fn send_file(&self, file: &SendFile, licence: &WriteLicence) -> Result<(), ExecError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_with_its_odd_words_quoted() {
        let cmd = Cmd::new("stat").args(["-c", "%s", "a b\n"]);
        assert_eq!(cmd.display(), "stat -c %s \"a b\\n\"");
    }
}
