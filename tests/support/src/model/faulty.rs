//! What stands before a machine's agent and executor: it numbers their calls and lets one go wrong.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_agent::proto::{Request, StreamFrame, decode};
use pc_switcher_contract::{
    Action, AgentCall, AgentLink, AgentSink, AgentStream, ExecError, Executor, Hostname, Output,
    RemoteExecutor, Reply, SendFile, Spawned, WriteLicence,
};
use tokio_util::sync::CancellationToken;

use super::script::{At, How, Script};
use super::{ModelExecutor, lock};

/// A connection that can be lost.
pub trait Cut: Send + Sync {
    /// Loses it at once, for both ends.
    fn cut(&self);
}

/// What goes wrong in one call, shared by its two ways.
struct Armed {
    script: Arc<Script>,
    number: usize,
    fault: Option<(How, At)>,
    machine: Arc<dyn Cut>,
    hostname: Hostname,
    /// Set when the fault happened on the way up.
    fired: CancellationToken,
    uploads: Mutex<usize>,
}

impl Armed {
    fn is(&self, at: At) -> Option<How> {
        self.fault.filter(|(_, wanted)| *wanted == at).map(|(how, _)| how)
    }

    /// Lets it happen; returns what the caller hears, which for a hang is nothing.
    async fn happen(&self, how: How) -> ExecError {
        // A caller that did not wait for the end of a reply asks again; it went wrong once.
        if !self.fired.is_cancelled() {
            self.fired.cancel();
            self.script.fire(how);
        }
        self.heard(how).await
    }

    async fn heard(&self, how: How) -> ExecError {
        match how {
            How::Fail => refused(&self.hostname),
            How::Hang => pending().await,
            How::Cut => {
                self.machine.cut();
                lost(&self.hostname)
            }
        }
    }
}

fn refused(hostname: &Hostname) -> ExecError {
    let (what, why) = ("agent".to_owned(), "input/output error".to_owned());
    ExecError::Failed { hostname: hostname.to_string(), what, why }
}

fn lost(hostname: &Hostname) -> ExecError {
    ExecError::Transport { hostname: hostname.to_string(), why: "the agent ended".into() }
}

/// An agent whose calls are numbered.
pub struct FaultyLink {
    inner: Arc<dyn AgentLink>,
    machine: Arc<dyn Cut>,
    script: Arc<Script>,
}

impl FaultyLink {
    /// Stands before `inner`, whose machine is lost with `machine`.
    pub fn new(inner: Arc<dyn AgentLink>, machine: Arc<dyn Cut>, script: Arc<Script>) -> Self {
        Self { inner, machine, script }
    }
}

#[async_trait]
impl AgentLink for FaultyLink {
    fn hostname(&self) -> &Hostname {
        self.inner.hostname()
    }

    async fn open(&self, request: Vec<u8>) -> Result<AgentCall, ExecError> {
        // Whatever was started beside gets its turn first, so that the order of calls is not left to chance.
        tokio::task::yield_now().await;
        let name = decode::<Request>(&request).map_or("unknown", |request| request.name());
        let (number, fault) = self.script.enter(self.hostname().as_str(), name);
        let armed = Arc::new(Armed {
            script: Arc::clone(&self.script),
            number,
            fault,
            machine: Arc::clone(&self.machine),
            hostname: self.hostname().clone(),
            fired: CancellationToken::new(),
            uploads: Mutex::default(),
        });
        if armed.is(At::Open) == Some(How::Cut) {
            return Err(armed.happen(How::Cut).await);
        }
        if armed.is(At::Open).is_some() {
            let (sink, stream) = (Deaf(Arc::clone(&armed)), Mute(armed));
            return Ok(AgentCall { sink: Box::new(sink), stream: Box::new(stream) });
        }
        let AgentCall { sink, stream } = self.inner.open(request).await?;
        let sink = Sink { inner: sink, armed: Arc::clone(&armed) };
        let stream = Stream { inner: Some(stream), wrong: None, items: 0, armed };
        Ok(AgentCall { sink: Box::new(sink), stream: Box::new(stream) })
    }
}

/// The way up of a call that the machine never hears of.
struct Deaf(Arc<Armed>);

#[async_trait]
impl AgentSink for Deaf {
    async fn send(&mut self, _: Vec<u8>) -> Result<(), ExecError> {
        if self.0.is(At::Open) == Some(How::Fail) { Err(ExecError::Cancelled) } else { Ok(()) }
    }

    async fn finish(&mut self) -> Result<(), ExecError> {
        Ok(())
    }
}

/// The way down of such a call.
struct Mute(Arc<Armed>);

#[async_trait]
impl AgentStream for Mute {
    async fn next(&mut self) -> Result<Reply, ExecError> {
        match self.0.is(At::Open) {
            Some(how) => Err(self.0.happen(how).await),
            None => pending().await,
        }
    }
}

struct Sink {
    inner: Box<dyn AgentSink>,
    armed: Arc<Armed>,
}

#[async_trait]
impl AgentSink for Sink {
    async fn send(&mut self, body: Vec<u8>) -> Result<(), ExecError> {
        if self.armed.fired.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        let is_commit = matches!(decode(&body), Ok(StreamFrame::Commit { .. }));
        self.inner.send(body).await?;
        self.armed.script.note_upload(self.armed.number, is_commit);
        let sent = {
            let mut uploads = lock(&self.armed.uploads);
            *uploads += 1;
            *uploads
        };
        let at = if is_commit { At::Commit } else { At::Upload(sent) };
        match self.armed.is(at) {
            // The agent says why on the way down.
            Some(How::Fail) => {
                let _ = self.armed.happen(How::Fail).await;
                Err(ExecError::Cancelled)
            }
            Some(how) => Err(self.armed.happen(how).await),
            None => Ok(()),
        }
    }

    async fn finish(&mut self) -> Result<(), ExecError> {
        self.inner.finish().await
    }
}

struct Stream {
    /// Gone once the call has gone wrong, which gives it up on the machine.
    inner: Option<Box<dyn AgentStream>>,
    /// How it went wrong: a caller that did not wait for the end of a reply asks again.
    wrong: Option<How>,
    items: usize,
    armed: Arc<Armed>,
}

impl Stream {
    async fn go_wrong(&mut self, how: How) -> ExecError {
        (self.inner, self.wrong) = (None, Some(how));
        self.armed.happen(how).await
    }
}

#[async_trait]
impl AgentStream for Stream {
    async fn next(&mut self) -> Result<Reply, ExecError> {
        if let Some(how) = self.wrong {
            return Err(self.armed.heard(how).await);
        }
        if self.items == 1
            && let Some(how) = self.armed.is(At::FirstItem)
        {
            return Err(self.go_wrong(how).await);
        }
        let Some(inner) = &mut self.inner else { return Err(lost(&self.armed.hostname)) };
        let reply = tokio::select! {
            biased;
            () = self.armed.fired.cancelled() => None,
            reply = inner.next() => Some(reply),
        };
        match reply {
            None => {
                let how = self.armed.fault.map_or(How::Hang, |(how, _)| how);
                (self.inner, self.wrong) = (None, Some(how));
                Err(self.armed.heard(how).await)
            }
            Some(Ok(Reply::Item(body))) => {
                self.items += 1;
                self.armed.script.note_item(self.armed.number);
                Ok(Reply::Item(body))
            }
            Some(Ok(Reply::Done(body))) => match self.armed.is(At::Answer) {
                Some(how) => Err(self.go_wrong(how).await),
                None => Ok(Reply::Done(body)),
            },
            Some(Err(error)) => Err(error),
        }
    }
}

/// An executor whose calls are numbered.
pub struct FaultyExecutor {
    inner: Arc<ModelExecutor>,
    machine: Arc<dyn Cut>,
    script: Arc<Script>,
}

impl FaultyExecutor {
    /// Stands before `inner`.
    pub fn new(inner: Arc<ModelExecutor>, machine: Arc<dyn Cut>, script: Arc<Script>) -> Self {
        Self { inner, machine, script }
    }

    async fn enter(&self, call: &str) -> Result<(), ExecError> {
        let hostname = self.inner.hostname();
        let (_, fault) = self.script.enter(hostname.as_str(), call);
        let Some((how, _)) = fault else { return Ok(()) };
        self.script.fire(how);
        match how {
            How::Fail => Err(refused(hostname)),
            How::Hang => pending().await,
            How::Cut => {
                self.machine.cut();
                Err(lost(hostname))
            }
        }
    }
}

#[async_trait]
impl Executor for FaultyExecutor {
    fn hostname(&self) -> &Hostname {
        self.inner.hostname()
    }

    async fn run(&self, action: Action) -> Result<Output, ExecError> {
        self.enter("run").await?;
        self.inner.run(action).await
    }

    async fn spawn(&self, action: Action) -> Result<Spawned, ExecError> {
        self.enter("spawn").await?;
        self.inner.spawn(action).await
    }

    async fn terminate_all(&self, grace: Duration) -> usize {
        match self.enter("terminate-all").await {
            Ok(()) => self.inner.terminate_all(grace).await,
            Err(_) => 0,
        }
    }
}

#[async_trait]
impl RemoteExecutor for FaultyExecutor {
    async fn send_file(&self, file: &SendFile, licence: &WriteLicence) -> Result<(), ExecError> {
        self.enter("send-file").await?;
        self.inner.send_file(file, licence).await
    }
}
