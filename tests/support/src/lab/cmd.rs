//! A command for a machine as a value: argv, user, environment, input, limit.

use std::{ffi::OsString, path::PathBuf, process::ExitStatus, time::Duration};

/// A command to run inside a machine. The environment is clean: only what the user's login has, plus [`Cmd::env`].
#[derive(Clone, Debug)]
pub struct Cmd {
    pub(super) words: Vec<OsString>,
    pub(super) user: String,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) directory: Option<PathBuf>,
    pub(super) stdin: Vec<u8>,
    pub(super) timeout: Duration,
}

impl Cmd {
    /// Describes `program` run by root in its home, with empty input and a limit of two minutes.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            words: vec![program.into()],
            user: "root".to_owned(),
            environment: Vec::new(),
            directory: None,
            stdin: Vec::new(),
            timeout: Duration::from_secs(120),
        }
    }

    /// Describes a bash script given as text; for what is clearer in shell than in argv.
    pub fn script(text: &str) -> Self {
        Self::new("bash").args(["-euc", text])
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.words.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(args.into_iter().map(Into::into));
        self
    }

    /// Chooses the user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.to_owned();
        self
    }

    /// Chooses alice.
    #[must_use]
    pub fn as_alice(self) -> Self {
        self.user("alice")
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Chooses the working directory instead of the user's home.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Gives the input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Chooses after how long the command is killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns the command line for people.
    pub(super) fn line(&self) -> String {
        self.words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// How a command ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Returns the exit code, or `None` after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns standard output as text, with anything that is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns standard error as text, with anything that is not UTF-8 replaced.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}
