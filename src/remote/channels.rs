//! Channels of one connection, never more than the server takes.
//!
//! Invariant: a permit lives as long as its channel (ssh.md S3). A server that refuses a channel earlier than expected
//! (`MaxSessions 2`) lowers the limit for the rest of the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openssh::{Session, Stdio};
use pc_switcher_contract::{ExecError, LogLevel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::channel::{Channel, shell_code};
use super::env::Log;

/// Channels at a time. sshd takes ten by default (ssh.md S1); closing lags behind, so two are left.
pub const CHANNELS: usize = 8;

/// How often a refused channel is tried again while others are open: about two minutes.
const TRIES: u64 = 600;

/// How often it is tried again when no other is open: closing may lag behind, but not for long.
const TRIES_ALONE: u64 = 20;

/// The channels of one connection.
#[derive(Clone)]
pub(super) struct Channels {
    session: Arc<Session>,
    permits: Arc<Semaphore>,
    live: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
    called: String,
    log: Log,
}

impl Channels {
    /// Makes the channels of a connection; `called` names the machine in errors.
    pub(super) fn new(session: Arc<Session>, limit: usize, called: String, log: Log) -> Self {
        let permits = Arc::new(Semaphore::new(limit.max(1)));
        let limit = Arc::new(AtomicUsize::new(limit.max(1)));
        Self { session, permits, live: Arc::default(), limit, called, log }
    }

    /// Returns the same channels under the name that the machine gives itself.
    pub(super) fn renamed(self, hostname: &pc_switcher_contract::Hostname) -> Self {
        Self { called: hostname.to_string(), ..self }
    }

    fn lost(&self, why: impl Into<String>) -> ExecError {
        ExecError::Transport { hostname: self.called.clone(), why: why.into() }
    }

    /// Runs a line of the login shell on a channel of its own; waits while all are taken.
    ///
    /// # Errors
    /// If the connection is gone or the server takes no channel at all.
    pub(super) async fn open(&self, line: String) -> Result<Channel, ExecError> {
        let mut permit = self.permit().await?;
        let (mut refused, mut alone) = (0, 0);
        loop {
            let others = self.live.load(Ordering::SeqCst);
            match self.start(&line).await {
                Ok(child) => return Ok(self.channel(child, permit)),
                Err(error) if !is_refusal(&error) => return Err(self.lost(text(&error))),
                Err(error) if refused == TRIES || alone == TRIES_ALONE => {
                    return Err(self.lost(format!("{}; is `MaxSessions` too low there?", text(&error))));
                }
                Err(_) => refused += 1,
            }
            alone = if others == 0 { alone + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(50 * refused.min(4))).await;
            // Closing lags behind, so the first refusals say little about the server's limit.
            if refused % 3 == 0 && self.lower(others) {
                permit.forget();
                permit = self.permit().await?;
            }
        }
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, ExecError> {
        Arc::clone(&self.permits).acquire_owned().await.map_err(|_| self.lost("it was closed"))
    }

    /// Lowers the limit by one, down to one above what is open: so few wait at the server's door, and the rest in order.
    fn lower(&self, others: usize) -> bool {
        let lowered = self.limit.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |limit| {
            (limit > (others + 1).max(2)).then(|| limit - 1)
        });
        if let Ok(limit) = lowered {
            let message =
                format!("{}: the server refused a channel; at most {} from now on", self.called, limit - 1);
            (self.log)(LogLevel::Debug, message);
        }
        lowered.is_ok()
    }

    async fn start(&self, line: &str) -> Result<openssh::Child<Arc<Session>>, openssh::Error> {
        let session = Arc::clone(&self.session);
        let mut command = session.arc_raw_command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().await
    }

    fn channel(&self, mut child: openssh::Child<Arc<Session>>, permit: OwnedSemaphorePermit) -> Channel {
        let (stdin, stdout, stderr) = (child.stdin().take(), child.stdout().take(), child.stderr().take());
        let channels = self.clone();
        let held = Held::new(permit, &self.live);
        let exit = Box::pin(async move {
            let _held = held;
            match child.wait().await {
                Ok(status) => Ok(shell_code(status)),
                Err(openssh::Error::Remote(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(127),
                Err(error) => Err(channels.lost(text(&error))),
            }
        });
        Channel {
            stdin: stdin.map_or_else(|| Box::new(tokio::io::sink()) as _, |pipe| Box::new(pipe) as _),
            stdout: stdout.map_or_else(|| Box::new(tokio::io::empty()) as _, |pipe| Box::new(pipe) as _),
            stderr: stderr.map_or_else(|| Box::new(tokio::io::empty()) as _, |pipe| Box::new(pipe) as _),
            exit,
        }
    }
}

/// A channel's place among the others.
struct Held {
    live: Arc<AtomicUsize>,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    fn new(permit: OwnedSemaphorePermit, live: &Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Ordering::SeqCst);
        Self { live: Arc::clone(live), _permit: permit }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

fn is_refusal(error: &openssh::Error) -> bool {
    matches!(error, openssh::Error::SshMux(_)) && text(error).contains("refused by peer")
}

/// Returns an error with its causes in one line.
pub(super) fn text(error: &openssh::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        words = format!("{words}: {next}");
        cause = next.source();
    }
    words
}
