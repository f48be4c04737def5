//! Starting an agent with the rights it needs: directly as root, with `sudo -n`, or with a password that a person types.
//!
//! Invariants: a password is asked for only when sudo wants one, travels only on stdin, and is overwritten after use;
//! not a byte of the protocol is sent before the agent has said its magic word (rulings.md 13).

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_agent::proto::MAGIC;
use pc_switcher_contract::{ExecError, LogLevel};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::channel::{Channel, open_local};
use super::channels::Channels;
use super::env::Log;
use super::error::ReachError;
use super::running::LineSplitter;
use super::sudo_words::{Refusal, refusal};
use super::{launch, watchdog};

/// What sudo prints on stderr when it wants a password: ours, so that no translation can hide it.
const QUESTION: &str = "pc-switcher-wants-a-password:";

/// How often a person may try.
const TRIES: u32 = 3;

/// How long an agent may take to greet while nobody types.
const GREETING: Duration = Duration::from_secs(30);

/// Asks a person for a password. The answer never reaches a log.
#[async_trait]
pub trait PasswordPrompt: Send + Sync {
    /// Asks; the future can be dropped at any time.
    ///
    /// # Errors
    /// [`ExecError::Cancelled`] if the person gave up.
    async fn ask(&self, prompt: String) -> Result<String, ExecError>;
}

/// Where an agent is started.
#[derive(Clone)]
pub(super) enum Place {
    /// On this machine, in a session of its own.
    Here,
    /// On the other one.
    There(Channels),
}

/// Who starts an agent, of which program, on which machine.
#[derive(Clone)]
pub(super) struct Starter {
    pub(super) place: Place,
    pub(super) hostname: String,
    pub(super) user: String,
    pub(super) is_root: bool,
    pub(super) program: OsString,
    /// What to call for more rights.
    pub(super) sudo: OsString,
    pub(super) log: Log,
}

/// An agent that has said its magic word; its output begins with it.
pub(super) struct Greeted {
    pub(super) channel: Channel,
    pub(super) pid: Option<u32>,
}

/// What is heard on stderr.
enum Heard {
    Question,
    Line(String),
}

/// Why an attempt came to nothing.
enum Failure {
    /// The program ended before it said its magic word.
    Ended(Vec<String>),
    /// Anything that another attempt does not help.
    Final(ReachError),
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Self {
        Failure::Final(error.into())
    }
}

impl Starter {
    /// Starts the agent.
    ///
    /// # Errors
    /// If it may not or cannot be started; [`ExecError::Cancelled`] if `cancel` was first.
    pub(super) async fn start(
        &self,
        prompt: Option<&dyn PasswordPrompt>,
        cancel: &CancellationToken,
    ) -> Result<Greeted, ReachError> {
        if self.is_root {
            return self.finish(self.attempt(None, None, cancel).await, false);
        }
        let silent = self.attempt(Some(&["-n", "--"]), None, cancel).await;
        let wants_password = match &silent {
            Err(Failure::Ended(lines)) => refusal(lines) == Refusal::PasswordWanted,
            _ => false,
        };
        match prompt {
            Some(prompt) if wants_password => {
                let asking = ["-S", "-p", QUESTION, "--"];
                self.finish(self.attempt(Some(&asking), Some(prompt), cancel).await, true)
            }
            _ => self.finish(silent, false),
        }
    }

    fn finish(&self, result: Result<Greeted, Failure>, asked: bool) -> Result<Greeted, ReachError> {
        match result {
            Ok(greeted) => Ok(greeted),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Ended(lines)) => {
                let program = self.program.to_string_lossy().into_owned();
                Err(refusal(&lines).into_error(&self.hostname, &self.user, &program, asked, &lines))
            }
        }
    }

    fn open_local(&self, argv: &[OsString]) -> Result<(Channel, Option<u32>), ExecError> {
        let mut command = Command::new(&argv[0]);
        // A home in which we work ourselves could not go back without a restart.
        command.args(&argv[1..]).env("LC_ALL", "C.UTF-8").current_dir("/");
        launch::own_session(&mut command);
        open_local(command, &self.hostname)
    }

    async fn open(&self, elevate: Option<&[&str]>) -> Result<(Channel, Option<u32>), ExecError> {
        let mut argv = Vec::new();
        if let Some(options) = elevate {
            argv.push(self.sudo.clone());
            argv.extend(options.iter().map(OsString::from));
        }
        argv.extend([self.program.clone(), "agent".into()]);
        match &self.place {
            Place::Here => self.open_local(&argv),
            Place::There(channels) => {
                let mut line = "cd /; exec env LC_ALL=C.UTF-8".to_owned();
                for word in &argv {
                    line.push(' ');
                    line.push_str(&String::from_utf8_lossy(&watchdog::quote(word)));
                }
                channels.open(line).await.map(|channel| (channel, None))
            }
        }
    }

    /// Starts the program once and waits for the magic word, answering sudo meanwhile.
    async fn attempt(
        &self,
        elevate: Option<&[&str]>,
        prompt: Option<&dyn PasswordPrompt>,
        cancel: &CancellationToken,
    ) -> Result<Greeted, Failure> {
        let (mut channel, pid) = tokio::select! {
            opened = self.open(elevate) => opened?,
            () = cancel.cancelled() => return Err(ExecError::Cancelled.into()),
        };
        let stderr = std::mem::replace(&mut channel.stderr, Box::new(tokio::io::empty()));
        let mut heard = self.listen(stderr);
        let mut lines = Vec::new();
        let mut seen = Vec::new();
        let mut asked = 0;
        let mut deadline = Instant::now() + GREETING;
        let mut chunk = vec![0; 4096];
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(ExecError::Cancelled.into()),
                Some(word) = heard.recv() => match (word, prompt) {
                    (Heard::Line(line), _) => lines.push(line),
                    (Heard::Question, Some(prompt)) if asked < TRIES => {
                        asked += 1;
                        let answer = self.ask(prompt, asked, cancel).await?;
                        send_secret(&mut channel, answer).await;
                        deadline = Instant::now() + GREETING;
                    }
                    // Without an answer sudo gives up by itself at the end of its stdin.
                    (Heard::Question, _) => channel.stdin = Box::new(tokio::io::sink()),
                },
                count = channel.stdout.read(&mut chunk) => match count {
                    Ok(count) if count > 0 => seen.extend_from_slice(&chunk[..count]),
                    _ => break,
                },
                () = sleep_until(deadline) => {
                    return Err(ExecError::Timeout {
                        hostname: self.hostname.clone(),
                        what: "the start of the agent".into(),
                        seconds: GREETING.as_secs(),
                    }
                    .into());
                }
            }
            if let Some(at) = seen.windows(MAGIC.len()).position(|window| window == MAGIC) {
                let rest = std::io::Cursor::new(seen.split_off(at));
                let stdout = std::mem::replace(&mut channel.stdout, Box::new(tokio::io::empty()));
                channel.stdout = Box::new(AsyncReadExt::chain(rest, stdout));
                self.forward(heard);
                return Ok(Greeted { channel, pid });
            }
            if seen.len() > 1 << 20 {
                break;
            }
        }
        self.last_words(channel, heard, lines).await
    }

    /// Collects what was said before the program ended, and tells a broken connection from it.
    async fn last_words(
        &self,
        channel: Channel,
        mut heard: mpsc::UnboundedReceiver<Heard>,
        mut lines: Vec<String>,
    ) -> Result<Greeted, Failure> {
        let Channel { stdin, stdout, stderr: _, exit } = channel;
        drop(stdin);
        let limit = Instant::now() + Duration::from_secs(2);
        while let Ok(Some(word)) = tokio::time::timeout_at(limit, heard.recv()).await {
            if let Heard::Line(line) = word {
                lines.push(line);
            }
        }
        drop(stdout);
        match tokio::time::timeout_at(limit, exit).await {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(_)) | Err(_) => Err(Failure::Ended(lines)),
        }
    }

    async fn ask(
        &self,
        prompt: &dyn PasswordPrompt,
        attempt: u32,
        cancel: &CancellationToken,
    ) -> Result<String, Failure> {
        let again = if attempt > 1 { "sorry, try again; " } else { "" };
        let question = format!("{again}sudo password of {} on {}: ", self.user, self.hostname);
        tokio::select! {
            answer = prompt.ask(question) => Ok(answer?),
            () = cancel.cancelled() => Err(ExecError::Cancelled.into()),
        }
    }

    /// Reads stderr in the background: lines, and sudo's question, which has no line end.
    fn listen(&self, mut stderr: Box<dyn AsyncRead + Send + Unpin>) -> mpsc::UnboundedReceiver<Heard> {
        let (send, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut splitter = LineSplitter::default();
            let mut chunk = vec![0; 4096];
            let mut recent = Vec::new();
            while let Ok(count) = stderr.read(&mut chunk).await {
                if count == 0 {
                    break;
                }
                recent.extend_from_slice(&chunk[..count]);
                let question = QUESTION.as_bytes();
                while let Some(at) = recent.windows(question.len()).position(|window| window == question) {
                    recent.drain(..at + question.len());
                    let _ = send.send(Heard::Question);
                }
                let excess = recent.len().saturating_sub(question.len());
                recent.drain(..excess);
                for line in splitter.push(&chunk[..count]) {
                    let _ = send.send(Heard::Line(printable(&line)));
                }
            }
            if let Some(line) = splitter.finish() {
                let _ = send.send(Heard::Line(printable(&line)));
            }
        });
        heard
    }

    /// Passes the agent's words on to the log for as long as it lives.
    fn forward(&self, mut heard: mpsc::UnboundedReceiver<Heard>) {
        let (log, hostname) = (Arc::clone(&self.log), self.hostname.clone());
        tokio::spawn(async move {
            while let Some(word) = heard.recv().await {
                if let Heard::Line(line) = word
                    && !line.trim().is_empty()
                {
                    log(LogLevel::Full, format!("{hostname}: agent: {line}"));
                }
            }
        });
    }
}

/// Sends a password and overwrites it.
async fn send_secret(channel: &mut Channel, answer: String) {
    let mut secret = answer.into_bytes();
    // One write: a line that arrives in pieces is a line all the same, but why leave copies in more buffers.
    secret.push(b'\n');
    let _ = channel.stdin.write_all(&secret).await;
    let _ = channel.stdin.flush().await;
    secret.fill(0);
    std::hint::black_box(&secret);
}

fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line).replace(QUESTION, "");
    text.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

/// Whether a path can stand in a line of a login shell as it is.
pub(super) fn is_plain(path: &OsStr) -> bool {
    use std::os::unix::ffi::OsStrExt;
    path.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"/_.-".contains(byte))
}

#[cfg(test)]
mod tests;
