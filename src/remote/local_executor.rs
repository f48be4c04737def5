//! Commands on this machine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{Action, AgentLink, ExecError, Executor, Hostname, Output, Spawned};
use tokio::process::Command;

use super::channel::open_local;
use super::jobs::{Jobs, Opener};
use super::{launch, watchdog};

/// Runs commands on this machine, each under the same watchdog as on the other one: if we are killed, they end.
#[derive(Clone)]
pub struct LocalExecutor {
    jobs: Jobs,
}

impl LocalExecutor {
    /// Makes an executor for the machine that calls itself `hostname`.
    pub fn new(hostname: Hostname) -> Self {
        let name = hostname.to_string();
        let opener: Opener = Arc::new(move |spec| {
            let name = name.clone();
            Box::pin(async move {
                let mut command = Command::new("sh");
                command.args(watchdog::launcher_args(&spec));
                launch::own_session(&mut command);
                open_local(command, &name).map(|(channel, _)| channel)
            })
        });
        Self { jobs: Jobs::new(hostname, opener) }
    }

    /// Hands over the agent that runs commands with `sudo`.
    pub fn set_agent(&self, agent: Arc<dyn AgentLink>) {
        self.jobs.set_agent(agent);
    }
}

#[async_trait]
impl Executor for LocalExecutor {
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
