//! The front's end of a modelled agent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use async_trait::async_trait;
use pc_switcher_agent::frame::{self, FrameKind, WINDOW};
use pc_switcher_agent::proto::{AgentError, FrontHello, Listings, PROTOCOL, Request, decode, encode};
use pc_switcher_agent::server::{Services, serve};
use pc_switcher_contract::{
    AgentCall, AgentLink, AgentSink, AgentStream, BytePath, ExecError, Hostname, Reply,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::faulty::Cut;
use super::lock;
use super::pipe::{Inlet, Outlet};
use super::services::ModelServices;

/// A call until the agent has ended it, though its caller may have given it up.
struct Pending {
    replies: mpsc::UnboundedSender<Result<Reply, ExecError>>,
    credit: Arc<Semaphore>,
    /// A paused clock stands still until this is dropped.
    _time: Sender<()>,
}

pub(super) struct Shared {
    hostname: Hostname,
    to_agent: Mutex<Option<Sender<Vec<u8>>>>,
    calls: Mutex<HashMap<u32, Pending>>,
    lost: CancellationToken,
}

impl Shared {
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    fn error(&self) -> ExecError {
        ExecError::Transport { hostname: self.hostname.to_string(), why: "the agent ended".into() }
    }

    fn send(&self, call: u32, kind: FrameKind, body: &[u8]) -> Result<(), ExecError> {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, call, kind, body).map_err(|error| ExecError::Protocol {
            hostname: self.hostname.to_string(),
            why: error.to_string(),
        })?;
        let sent = lock(&self.to_agent).as_ref().is_some_and(|pipe| pipe.send(bytes).is_ok());
        if sent { Ok(()) } else { Err(self.error()) }
    }

    fn close(&self) {
        // The agent's last words must not come before the loss.
        let mut calls = lock(&self.calls);
        lock(&self.to_agent).take();
        self.lost.cancel();
        for (_, pending) in calls.drain() {
            let _ = pending.replies.send(Err(self.error()));
            pending.credit.close();
        }
    }

    pub(super) fn deliver(&self, call: u32, kind: FrameKind, body: Vec<u8>) {
        let mut calls = lock(&self.calls);
        let last = match kind {
            FrameKind::Done => Ok(Reply::Done(body)),
            FrameKind::Error => {
                let error = decode::<AgentError>(&body).unwrap_or_else(AgentError::protocol);
                Err(error.into_exec(&self.hostname, "agent"))
            }
            FrameKind::Item => {
                if let Some(pending) = calls.get(&call) {
                    let _ = pending.replies.send(Ok(Reply::Item(body)));
                }
                return;
            }
            FrameKind::Credit => {
                if let (Some(pending), Ok(bytes)) = (calls.get(&call), <[u8; 4]>::try_from(body.as_slice())) {
                    pending.credit.add_permits(u32::from_le_bytes(bytes) as usize);
                }
                return;
            }
            _ => return,
        };
        if let Some(pending) = calls.remove(&call) {
            let _ = pending.replies.send(last);
            pending.credit.close();
        }
    }
}

/// A running agent and the way to it.
pub struct ModelLink {
    shared: Arc<Shared>,
    next: AtomicU32,
    disk: Option<Arc<Disk>>,
    agent: Mutex<Option<JoinHandle<Result<(), String>>>>,
    /// Closed when nothing of the agent is left.
    gone: Mutex<Option<Receiver<()>>>,
}

impl ModelLink {
    /// Starts the agent of a machine.
    pub fn start(disk: &Arc<Disk>) -> ModelLink {
        let (alive, gone) = std::sync::mpsc::channel();
        let services = Arc::new(ModelServices::new(Arc::clone(disk), alive));
        ModelLink { disk: Some(Arc::clone(disk)), gone: Mutex::new(Some(gone)), ..Self::with(services) }
    }

    /// Starts an agent that answers what `services` answers.
    pub fn with(services: Arc<dyn Services>) -> ModelLink {
        let (to_agent, chunks) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared {
            hostname: services.hello().hostname,
            to_agent: Mutex::new(Some(to_agent)),
            calls: Mutex::default(),
            lost: CancellationToken::new(),
        });
        let hello =
            FrontHello { protocol: PROTOCOL, version: "0".into(), silence_seconds: 20, is_elsewhere: false };
        // The agent has just been started: the pipe takes it.
        let _ = shared.send(0, FrameKind::Hello, &encode(&hello));
        let outlet = Box::new(Outlet::new(Arc::clone(&shared)));
        let agent = std::thread::spawn(move || serve(services, Inlet::new(chunks), outlet));
        ModelLink {
            shared,
            next: AtomicU32::new(1),
            disk: None,
            agent: Mutex::new(Some(agent)),
            gone: Mutex::default(),
        }
    }

    /// Resolves when the agent is gone.
    pub async fn lost(&self) -> ExecError {
        self.shared.lost.cancelled().await;
        self.shared.error()
    }

    /// Waits until the agent's process would be gone; call it after [`Cut::cut`].
    pub async fn ended(&self) {
        let Some(agent) = lock(&self.agent).take() else { return };
        let gone = lock(&self.gone).take();
        let end = move || {
            let _ = agent.join();
            // A process takes its threads with it; these end a moment after they have answered.
            let _ = gone.map(|gone| gone.recv());
        };
        let _ = tokio::task::spawn_blocking(end).await;
    }
}

impl Cut for ModelLink {
    fn cut(&self) {
        self.shared.close();
    }
}

/// Keeps a paused clock from running on until the answer is dropped.
fn stop_time() -> Sender<()> {
    let (held, until) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || {
        let _ = until.recv();
    });
    held
}

#[async_trait]
impl AgentLink for ModelLink {
    fn hostname(&self) -> &Hostname {
        &self.shared.hostname
    }

    async fn open(&self, request: Vec<u8>) -> Result<AgentCall, ExecError> {
        let snapshot = match (decode(&request), &self.disk) {
            (Ok(Request::Walk(walk) | Request::List(walk)), Some(disk)) => {
                Some((Arc::clone(disk), walk.tree.root))
            }
            _ => None,
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, replies) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(WINDOW as usize));
        let pending = Pending { replies: send, credit: Arc::clone(&credit), _time: stop_time() };
        lock(&self.shared.calls).insert(id, pending);
        if let Err(lost) = self.shared.send(id, FrameKind::Open, &request) {
            lock(&self.shared.calls).remove(&id);
            return Err(lost);
        }
        let stream = Stream { id, replies, shared: Arc::clone(&self.shared), is_over: false, snapshot };
        let sink = Sink { id, credit, shared: Arc::clone(&self.shared) };
        Ok(AgentCall { sink: Box::new(sink), stream: Box::new(stream) })
    }
}

struct Sink {
    id: u32,
    credit: Arc<Semaphore>,
    shared: Arc<Shared>,
}

#[async_trait]
impl AgentSink for Sink {
    async fn send(&mut self, body: Vec<u8>) -> Result<(), ExecError> {
        let permits = self.credit.acquire_many(body.len() as u32).await.map_err(|_| ExecError::Cancelled)?;
        permits.forget();
        self.shared.send(self.id, FrameKind::Up, &body)
    }

    async fn finish(&mut self) -> Result<(), ExecError> {
        self.shared.send(self.id, FrameKind::UpEnd, &[])
    }
}

struct Stream {
    id: u32,
    replies: mpsc::UnboundedReceiver<Result<Reply, ExecError>>,
    shared: Arc<Shared>,
    is_over: bool,
    snapshot: Option<(Arc<Disk>, BytePath)>,
}

#[async_trait]
impl AgentStream for Stream {
    async fn next(&mut self) -> Result<Reply, ExecError> {
        let reply = self.replies.recv().await.unwrap_or_else(|| Err(self.shared.error()));
        self.is_over = !matches!(reply, Ok(Reply::Item(_)));
        let Ok(Reply::Item(mut body)) = reply else { return reply };
        let grant = (body.len() as u32).to_le_bytes();
        // Whoever is lost grants nothing; the next reply says so.
        let _ = self.shared.send(self.id, FrameKind::Credit, &grant);
        if let Some((disk, root)) = &self.snapshot
            && let Ok(Listings(listings)) = decode(&body)
        {
            body = encode(&listings.into_iter().map(|one| disk.as_taken(root, one)).collect::<Vec<_>>());
        }
        Ok(Reply::Item(body))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.shared.send(self.id, FrameKind::Cancel, &[]);
        }
    }
}
