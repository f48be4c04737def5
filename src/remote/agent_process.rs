//! A started agent: its link, its greeting, its process.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pc_switcher_agent::client::{AgentConn, ConnOptions};
use pc_switcher_agent::proto::AgentHello;
use pc_switcher_contract::ExecError;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::time::timeout;

use super::elevate::Greeted;

/// An agent may finish a commit for five minutes after its pipe was closed (rulings.md 10); only then it hangs.
const LONGEST: Duration = Duration::from_secs(310);

/// How long it has between TERM and KILL.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// A running agent.
pub struct StartedAgent {
    /// Its link.
    pub link: Arc<AgentConn>,
    /// What it said first.
    pub hello: AgentHello,
    /// Its process.
    pub process: AgentProcessGuard,
}

/// Closes the agent's pipe when dropped; the agent ends itself, and is ended if it does not.
pub struct AgentProcessGuard {
    link: Arc<AgentConn>,
    gone: watch::Receiver<bool>,
}

impl AgentProcessGuard {
    /// Closes the pipe and waits for the end of the process, at most `limit`. Returns whether it is gone.
    pub async fn close(self, limit: Duration) -> bool {
        self.link.close();
        let mut gone = self.gone.clone();
        timeout(limit, gone.wait_for(|gone| *gone)).await.is_ok()
    }
}

impl Drop for AgentProcessGuard {
    fn drop(&mut self) {
        self.link.close();
    }
}

/// Greets an agent and starts to watch its process; `called` is its machine, and whether that is another one.
///
/// # Errors
/// If it does not answer as it should.
pub(super) async fn adopt(
    greeted: Greeted,
    (called, is_elsewhere): (&str, bool),
    version: &str,
) -> Result<StartedAgent, ExecError> {
    let Greeted { channel, pid } = greeted;
    let options = ConnOptions { is_elsewhere, ..ConnOptions::new(called, version) };
    let (link, hello) = AgentConn::start(channel.stdout, channel.stdin, options).await?;
    let (send, gone) = watch::channel(false);
    tokio::spawn(reap(Arc::downgrade(&link), channel.exit, pid, send));
    let process = AgentProcessGuard { link: Arc::clone(&link), gone };
    Ok(StartedAgent { link, hello, process })
}

/// Waits for the agent's end; after its pipe was closed only for so long.
async fn reap(
    link: std::sync::Weak<AgentConn>,
    mut exit: BoxFuture<'static, Result<i32, ExecError>>,
    pid: Option<u32>,
    gone: watch::Sender<bool>,
) {
    // The exit of a channel may be awaited only when its output was read to the end: that is when the link is lost.
    if let Some(link) = link.upgrade() {
        link.lost().await;
    }
    if timeout(LONGEST, &mut exit).await.is_err() {
        for signal in [Signal::TERM, Signal::KILL] {
            if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid as i32)) {
                let _ = kill_process(pid, signal);
            }
            if timeout(TERM_GRACE, &mut exit).await.is_ok() {
                break;
            }
        }
    }
    gone.send_replace(true);
}
