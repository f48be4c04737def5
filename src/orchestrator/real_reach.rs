//! The real way to both machines, over [`crate::remote`].

use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_agent::client::AgentConn;
use pc_switcher_agent::proto::ActivateRequest;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{AgentLink, Hostname, Machine, ModuleError, TargetMachine};
use tokio_util::sync::CancellationToken;

use super::reach::Reach;
use crate::remote::{AgentProcessGuard, LocalExecutor, PreparedTarget, Reach as Remote, TargetConnection};
use crate::ui::ScreenHandle;

/// Agents and connection of one run.
pub struct RealReach {
    remote: Remote,
    target: OsString,
    own_name: Hostname,
    user: String,
    screen: Option<ScreenHandle>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    local: Option<(Arc<AgentConn>, AgentProcessGuard)>,
    connection: Option<Arc<TargetConnection>>,
    prepared: Option<PreparedTarget>,
    links: Vec<Arc<AgentConn>>,
}

impl RealReach {
    /// Makes the way to `target`, as the user typed it. The screen, if there is one, is paused while ssh or
    /// sudo may ask.
    pub fn new(
        remote: Remote,
        target: OsString,
        own_name: Hostname,
        user: String,
        screen: Option<ScreenHandle>,
    ) -> Self {
        Self { remote, target, own_name, user, screen, held: Mutex::default() }
    }

    /// Returns who we are on the target, once it was reached.
    pub fn target_user(&self) -> Option<String> {
        self.held().prepared.as_ref().map(|prepared| prepared.user.clone())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Reach for RealReach {
    async fn source(&self, cancel: &CancellationToken) -> Result<Machine, ModuleError> {
        let executor = LocalExecutor::new(self.own_name.clone());
        let started = self.remote.start_local_agent(&self.own_name, cancel);
        let (started, ()) = tokio::join!(started, self.remote.look_ahead(&self.target));
        let started = started?;
        let agent: Arc<dyn AgentLink> = Arc::clone(&started.link) as _;
        executor.set_agent(Arc::clone(&agent));
        let mut held = self.held();
        held.links.push(Arc::clone(&started.link));
        held.local = Some((started.link, started.process));
        Ok(Machine { hostname: self.own_name.clone(), executor: Arc::new(executor), agent })
    }

    async fn target(&self, cancel: &CancellationToken) -> Result<TargetMachine, ModuleError> {
        let pause = self.screen.as_ref().map(ScreenHandle::pause);
        let connected = self.remote.connect(&self.target, cancel).await;
        drop(pause);
        let connection = Arc::new(connected?);
        self.held().connection = Some(Arc::clone(&connection));
        let prepared = self.remote.prepare_target(&connection, cancel).await?;
        let agent: Arc<dyn AgentLink> = Arc::clone(&prepared.agent.link) as _;
        let machine = TargetMachine {
            hostname: connection.hostname().clone(),
            executor: Arc::new(connection.executor().clone()),
            agent,
        };
        let mut held = self.held();
        held.links.push(Arc::clone(&prepared.agent.link));
        held.prepared = Some(prepared);
        Ok(machine)
    }

    async fn activate(&self) -> Result<Vec<String>, ModuleError> {
        let (link, user) = match &self.held().prepared {
            Some(prepared) if prepared.needs_activation() => {
                (Arc::clone(&prepared.agent.link) as Arc<dyn AgentLink>, prepared.user.clone())
            }
            _ => return Ok(Vec::new()),
        };
        let done = Agent::new(&link).activate(ActivateRequest { user: Some(user) }).await?;
        Ok(done.changes.into_iter().map(|change| format!("{}: {change}", link.hostname())).collect())
    }

    async fn fresh_login(&self) -> Option<Result<(), String>> {
        let connection = self.held().connection.clone()?;
        Some(connection.fresh_login().await)
    }

    async fn lost(&self) -> ModuleError {
        let (links, connection) = {
            let held = self.held();
            (held.links.clone(), held.connection.clone())
        };
        let connection_lost = async {
            match connection {
                Some(connection) => connection.lost().await,
                None => std::future::pending().await,
            }
        };
        let mut agents = tokio::task::JoinSet::new();
        for link in links {
            agents.spawn(async move { link.lost().await });
        }
        tokio::select! {
            lost = connection_lost => lost.into(),
            Some(Ok(lost)) = agents.join_next() => lost.into(),
        }
    }

    async fn close(&self, grace: Duration) {
        let (local, connection, prepared) = {
            let mut held = self.held();
            held.links.clear();
            (held.local.take(), held.connection.take(), held.prepared.take())
        };
        let here = async {
            if let Some((link, process)) = local {
                link.close();
                process.close(grace).await;
            }
        };
        let there = async {
            let Some(connection) = connection else { return };
            if let Some(prepared) = prepared {
                let pushed = prepared.pushed;
                prepared.agent.link.close();
                prepared.agent.process.close(grace).await;
                if let Some(pushed) = pushed {
                    // Installed by now, or a dry run: in both cases the pushed copy has done its work.
                    let _ =
                        tokio::time::timeout(grace, self.remote.remove_pushed(&connection, &pushed)).await;
                }
            }
            let _ = tokio::time::timeout(grace, connection.disconnect()).await;
        };
        tokio::join!(here, there);
    }

    fn user(&self) -> String {
        self.user.clone()
    }

    fn own_name(&self) -> Hostname {
        self.own_name.clone()
    }
}
