//! The way to two modelled machines.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher::orchestrator::reach::Reach;
use pc_switcher_contract::{AgentLink, ErrorKind, ExecError, Hostname, Machine, ModuleError, TargetMachine};
use pc_switcher_testkit::model::{
    Cut, Disk, FaultyExecutor, FaultyLink, How, ModelExecutor, ModelLink, Script,
};
use tokio_util::sync::CancellationToken;

/// An agent and what runs beside it; both are lost together.
pub struct Host {
    pub disk: Arc<Disk>,
    pub executor: Arc<ModelExecutor>,
    link: Mutex<Option<Arc<ModelLink>>>,
}

impl Host {
    fn new(disk: &Arc<Disk>) -> Arc<Host> {
        let executor = Arc::new(ModelExecutor::new(disk));
        Arc::new(Host { disk: Arc::clone(disk), executor, link: Mutex::default() })
    }

    fn start(&self) -> Arc<ModelLink> {
        let link = Arc::new(ModelLink::start(&self.disk));
        *self.link.lock().unwrap() = Some(Arc::clone(&link));
        link
    }

    fn link(&self) -> Option<Arc<ModelLink>> {
        self.link.lock().unwrap().clone()
    }

    async fn lost(&self) -> ExecError {
        match self.link() {
            Some(link) => link.lost().await,
            None => pending().await,
        }
    }

    /// Ends the agent and waits until nothing of it is left.
    pub async fn end(&self) {
        self.cut();
        if let Some(link) = self.link() {
            link.ended().await;
        }
    }
}

impl Cut for Host {
    fn cut(&self) {
        self.executor.cut();
        if let Some(link) = self.link() {
            link.cut();
        }
    }
}

/// Reaches both machines; its own calls are numbered too.
pub struct ModelReach {
    pub source: Arc<Host>,
    pub target: Arc<Host>,
    script: Arc<Script>,
}

impl ModelReach {
    pub fn new(source: &Arc<Disk>, target: &Arc<Disk>, script: Arc<Script>) -> Self {
        Self { source: Host::new(source), target: Host::new(target), script }
    }

    async fn enter(&self, host: &Host, call: &str, refusal: ErrorKind) -> Result<(), ModuleError> {
        let name = host.disk.hostname();
        let (_, fault) = self.script.enter(name.as_str(), call);
        let Some((how, _)) = fault else { return Ok(()) };
        self.script.fire(how);
        match how {
            How::Fail => Err(ModuleError::new(refusal, format!("{name}: `{call}` was refused"))),
            How::Hang => pending().await,
            How::Cut => {
                host.cut();
                Err(ModuleError::new(ErrorKind::Unreachable, format!("{name}: the connection is lost")))
            }
        }
    }

    fn link(&self, host: &Arc<Host>) -> Arc<dyn AgentLink> {
        let cut: Arc<dyn Cut> = Arc::clone(host) as _;
        Arc::new(FaultyLink::new(host.start(), cut, Arc::clone(&self.script)))
    }

    fn executor(&self, host: &Arc<Host>) -> Arc<FaultyExecutor> {
        let cut: Arc<dyn Cut> = Arc::clone(host) as _;
        Arc::new(FaultyExecutor::new(Arc::clone(&host.executor), cut, Arc::clone(&self.script)))
    }
}

#[async_trait]
impl Reach for ModelReach {
    async fn source(&self, cancel: &CancellationToken) -> Result<Machine, ModuleError> {
        tokio::select! {
            () = cancel.cancelled() => return Err(ModuleError::cancelled()),
            entered = self.enter(&self.source, "start", ErrorKind::Invalid) => entered?,
        }
        let agent = self.link(&self.source);
        let executor = self.executor(&self.source);
        Ok(Machine { hostname: self.source.disk.hostname().clone(), executor, agent })
    }

    async fn target(&self, cancel: &CancellationToken) -> Result<TargetMachine, ModuleError> {
        tokio::select! {
            () = cancel.cancelled() => return Err(ModuleError::cancelled()),
            entered = self.enter(&self.target, "connect", ErrorKind::Unreachable) => entered?,
        }
        let agent = self.link(&self.target);
        let executor = self.executor(&self.target);
        Ok(TargetMachine { hostname: self.target.disk.hostname().clone(), executor, agent })
    }

    async fn activate(&self) -> Result<Vec<String>, ModuleError> {
        self.enter(&self.target, "activate", ErrorKind::Failed).await?;
        Ok(Vec::new())
    }

    async fn lost(&self) -> ModuleError {
        tokio::select! {
            lost = self.source.lost() => lost.into(),
            lost = self.target.lost() => lost.into(),
        }
    }

    async fn close(&self, _: Duration) {
        // A failure here has no voice: agents end with their pipes.
        let _ = self.enter(&self.target, "close", ErrorKind::Failed).await;
        tokio::join!(self.source.end(), self.target.end());
    }

    fn user(&self) -> String {
        "alice".into()
    }

    fn own_name(&self) -> Hostname {
        self.source.disk.hostname().clone()
    }
}
