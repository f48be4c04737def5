//! A running program's three streams and its end, wherever it runs.

use std::process::Stdio;

use futures::future::BoxFuture;
use pc_switcher_contract::ExecError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::Command;

use super::launch;

/// Three streams and an end. Both outputs must be read to their end before `exit` is awaited: over ssh, awaiting it
/// gives up what was not read.
pub(super) struct Channel {
    /// What the program reads.
    pub(super) stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes.
    pub(super) stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// What it complains.
    pub(super) stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Resolves to its exit code, 128 + signal if one ended it.
    pub(super) exit: BoxFuture<'static, Result<i32, ExecError>>,
}

/// Returns the exit code as a shell would see it.
pub(super) fn shell_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Starts a program on this machine with three pipes.
///
/// # Errors
/// If it cannot be started.
pub(super) fn open_local(mut command: Command, hostname: &str) -> Result<(Channel, Option<u32>), ExecError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let failed =
        |why: String| ExecError::Spawn { hostname: hostname.to_owned(), program: program.clone(), why };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = launch::spawn(command).map_err(|error| failed(error.to_string()))?;
    let pid = child.id();
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(failed("its pipes are missing".into()));
    };
    let name = hostname.to_owned();
    let exit = Box::pin(async move {
        match child.wait().await {
            Ok(status) => Ok(shell_code(status)),
            Err(error) => Err(ExecError::Transport { hostname: name, why: error.to_string() }),
        }
    });
    Ok((Channel { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), exit }, pid))
}
