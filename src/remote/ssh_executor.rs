//! Commands on the target, over channels of one connection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{
    Action, AgentLink, ExecError, Executor, Hostname, Output, RemoteExecutor, SendFile, Spawned, WriteLicence,
};

use super::channels::Channels;
use super::jobs::{Jobs, Opener};
use super::running::Input;
use super::{agent_exec, send_file, watchdog};

/// Runs commands on the target. At most [`super::CHANNELS`] run at a time; others wait for their turn.
#[derive(Clone)]
pub struct SshExecutor {
    jobs: Jobs,
}

impl SshExecutor {
    /// Makes the executor of a connection to the machine that calls itself `hostname`.
    pub(super) fn new(hostname: Hostname, channels: Channels) -> Self {
        let opener: Opener = Arc::new(move |spec| {
            let channels = channels.clone();
            Box::pin(async move { channels.open(watchdog::login_line(&spec)).await })
        });
        Self { jobs: Jobs::new(hostname, opener) }
    }

    /// Hands over the agent that runs commands and writes files with `sudo`.
    pub fn set_agent(&self, agent: Arc<dyn AgentLink>) {
        self.jobs.set_agent(agent);
    }
}

#[async_trait]
impl Executor for SshExecutor {
    fn hostname(&self) -> &Hostname {
        self.jobs.hostname()
    }

    async fn run(&self, action: Action) -> Result<Output, ExecError> {
        self.jobs.run(action.cmd().clone(), None).await
    }

    async fn spawn(&self, action: Action) -> Result<Spawned, ExecError> {
        Ok(self.jobs.spawn(&action))
    }

    async fn terminate_all(&self, grace: Duration) -> usize {
        self.jobs.terminate_all(grace).await
    }
}

#[async_trait]
impl RemoteExecutor for SshExecutor {
    async fn send_file(&self, file: &SendFile, _licence: &WriteLicence) -> Result<(), ExecError> {
        let what = format!("send `{}` to `{}`", file.local.display(), file.remote);
        if file.sudo {
            return agent_exec::put_file(self.jobs.agent(&what)?.as_ref(), file).await;
        }
        let failed = |why: String| ExecError::Failed {
            hostname: self.hostname().to_string(),
            what: what.clone(),
            why,
        };
        let local = tokio::fs::File::open(&file.local).await.map_err(|error| failed(error.to_string()))?;
        let len = local.metadata().await.map_err(|error| failed(error.to_string()))?.len();
        let cmd = send_file::command(file, len);
        let output = self.jobs.run(cmd, Some(Input::File(local, len))).await?;
        send_file::judge(&output, self.hostname(), &what)
    }
}
