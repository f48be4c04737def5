//! Commands and files that need more rights: through the agent of the machine.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use pc_switcher_agent::proto::{ExecItem, ExecRequest, PutFile, Request, decode, encode};
use pc_switcher_contract::{AgentLink, BytePath, Cmd, ExecError, Reply, SendFile};
use tokio::io::AsyncReadExt;

use super::running::{Stop, Taker, Verdict, stop_requested};

/// Bytes of one upload frame.
const PIECE: usize = 256 << 10;

fn broken(agent: &dyn AgentLink, why: String) -> ExecError {
    ExecError::Protocol { hostname: agent.hostname().to_string(), why }
}

/// Runs a command through the agent; ends it there when it is late or unwanted.
///
/// # Errors
/// What the agent said, or that it is gone.
pub(super) async fn drive(
    agent: &dyn AgentLink,
    cmd: Cmd,
    mut stop: Stop,
    stdout: &mut Taker,
    stderr: &mut Taker,
) -> Result<Verdict, ExecError> {
    let bytes = |word: &OsString| BytePath::new(word.as_bytes());
    let what = cmd.display();
    let request = Request::Exec(ExecRequest {
        program: bytes(&cmd.program),
        args: cmd.args.iter().map(bytes).collect(),
        timeout_ms: u64::try_from(cmd.timeout.as_millis()).unwrap_or(u64::MAX),
        stdin: cmd.stdin.unwrap_or_default(),
    });
    let mut call = agent.open(encode(&request)).await?;
    call.sink.finish().await?;
    let failed =
        |why: String| ExecError::Failed { hostname: agent.hostname().to_string(), what: what.clone(), why };
    // The agent keeps the limit itself; ours is for an agent that does not.
    let late = tokio::time::sleep(cmd.timeout + std::time::Duration::from_secs(10));
    tokio::pin!(late);
    loop {
        let reply = tokio::select! {
            reply = call.stream.next() => reply?,
            () = &mut late => return Ok(Verdict::TimedOut),
            _ = stop_requested(&mut stop) => return Ok(Verdict::Stopped),
        };
        match reply {
            Reply::Item(body) => match decode(&body).map_err(|why| broken(agent, why))? {
                ExecItem::Stdout(bytes) => stdout.take(&bytes).await.map_err(failed)?,
                ExecItem::Stderr(bytes) => stderr.take(&bytes).await.map_err(failed)?,
            },
            Reply::Done(body) => {
                stdout.end().await;
                stderr.end().await;
                return decode(&body).map(Verdict::Exited).map_err(|why| broken(agent, why));
            }
        }
    }
}

/// Writes a file through the agent.
///
/// # Errors
/// What the agent said, or that the local file cannot be read.
pub(super) async fn put_file(agent: &dyn AgentLink, file: &SendFile) -> Result<(), ExecError> {
    let unreadable = |error: std::io::Error| ExecError::Failed {
        hostname: agent.hostname().to_string(),
        what: format!("send `{}`", file.local.display()),
        why: error.to_string(),
    };
    let mut local = tokio::fs::File::open(&file.local).await.map_err(unreadable)?;
    let request = Request::PutFile(PutFile { path: file.remote.clone(), mode: file.mode, owner: file.owner });
    let mut call = agent.open(encode(&request)).await?;
    let mut piece = vec![0; PIECE];
    loop {
        let count = local.read(&mut piece).await.map_err(unreadable)?;
        // A refusal ends the way up; the answer says why.
        if count == 0 || call.sink.send(piece[..count].to_vec()).await.is_err() {
            break;
        }
    }
    let _ = call.sink.finish().await;
    match call.stream.next().await? {
        Reply::Done(body) => decode(&body).map_err(|why| broken(agent, why)),
        Reply::Item(_) => Err(broken(agent, "`put-file` sends no items".into())),
    }
}
