//! The front's end of an agent's pipe: calls side by side, heartbeat, flow control.
//!
//! Invariant: the reading task never waits for a consumer, so a slow transfer cannot hide a heartbeat.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{
    AgentCall, AgentLink, AgentSink, AgentStream, ExecError, Hostname, Reply, Uplink,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::frame::{Frame, FrameKind, HEAD, Head, Packer, WINDOW};
use crate::pipe::Pipe;
use crate::proto::{AgentError, AgentHello, FrontHello, MAGIC, PROTOCOL, StreamFrame, decode, encode};

/// How an agent's pipe is watched.
#[derive(Debug, Clone)]
pub struct ConnOptions {
    /// What to call the machine until it has said its name.
    pub called: String,
    /// The front's version.
    pub version: String,
    /// How long the greeting may take; a person may be typing a password meanwhile.
    pub greeting: Duration,
    /// How often the front asks whether the agent is there.
    pub heartbeat: Duration,
    /// After how long without a byte the agent counts as gone.
    pub silence: Duration,
    /// Whether the agent runs on another machine.
    pub is_elsewhere: bool,
}

impl ConnOptions {
    /// Makes the options for this machine: 5 s heartbeat, 20 s of silence, 60 s for the greeting.
    pub fn new(called: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            called: called.into(),
            version: version.into(),
            greeting: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
            silence: Duration::from_secs(20),
            is_elsewhere: false,
        }
    }
}

type Out = mpsc::UnboundedSender<(u32, FrameKind, Vec<u8>)>;

struct Pending {
    replies: mpsc::UnboundedSender<Result<Reply, ExecError>>,
    credit: Arc<Semaphore>,
}

struct Shared {
    hostname: Hostname,
    out: Out,
    calls: Mutex<HashMap<u32, Pending>>,
    next: AtomicU32,
    pipe: Pipe,
    gone: CancellationToken,
    why: Mutex<Option<String>>,
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, HashMap<u32, Pending>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> ExecError {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ExecError::Transport {
            hostname: self.hostname.to_string(),
            why: why.unwrap_or_else(|| "it was closed".into()),
        }
    }

    fn fail(&self, why: String) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.gone.cancel();
        self.pipe.close();
        for (_, pending) in self.calls().drain() {
            let _ = pending.replies.send(Err(self.lost()));
            pending.credit.close();
        }
    }
}

/// A live connection to one agent. Dropping it closes the pipe, which ends the agent.
pub struct AgentConn {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl AgentConn {
    /// Greets the agent behind the pipe and starts watching it. Whatever a login shell prints first is skipped.
    ///
    /// # Errors
    /// If the stream ends, stays silent, or the agent speaks another protocol.
    pub async fn start(
        mut reader: impl AsyncRead + Send + Unpin + 'static,
        mut writer: impl AsyncWrite + Send + Unpin + 'static,
        options: ConnOptions,
    ) -> Result<(Arc<AgentConn>, AgentHello), ExecError> {
        let lost = |why: String| ExecError::Transport { hostname: options.called.clone(), why };
        let hello = tokio::time::timeout(options.greeting, read_hello(&mut reader)).await;
        let hello = hello.map_err(|_| lost("the agent did not greet".into()))?.map_err(lost)?;
        let machine = hello.hostname.to_string();
        if hello.protocol != PROTOCOL {
            let why = format!("the agent speaks protocol {}, this program {PROTOCOL}", hello.protocol);
            return Err(ExecError::Protocol { hostname: machine, why });
        }
        let silence_seconds = options.silence.as_secs().max(1) as u32;
        let (version, is_elsewhere) = (options.version.clone(), options.is_elsewhere);
        let front = encode(&FrontHello { protocol: PROTOCOL, version, silence_seconds, is_elsewhere });
        let greet = async {
            Outgoing::of(0, FrameKind::Hello, &front, None).write(&mut writer).await?;
            writer.flush().await
        };
        greet.await.map_err(|error| lost(error.to_string()))?;

        let (out, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            hostname: hello.hostname.clone(),
            out,
            calls: Mutex::default(),
            next: AtomicU32::new(1),
            pipe: Pipe::default(),
            gone: CancellationToken::new(),
            why: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let packer = if is_elsewhere { Packer::new() } else { None };
        let watched = (Arc::clone(&shared), stop.clone());
        tokio::spawn(write_loop(writer, queue, watched, options.heartbeat, packer));
        tokio::spawn(read_loop(reader, Arc::clone(&shared), stop.clone(), options.silence));
        Ok((Arc::new(AgentConn { shared, stop }), hello))
    }

    /// Resolves when the agent is gone, to the reason.
    pub async fn lost(&self) -> ExecError {
        self.shared.gone.cancelled().await;
        self.shared.lost()
    }

    /// Closes the pipe; the agent ends.
    pub fn close(&self) {
        self.stop.cancel();
    }
}

impl Drop for AgentConn {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Skips to the magic bytes and reads the agent's first frame.
async fn read_hello(reader: &mut (impl AsyncRead + Unpin)) -> Result<AgentHello, String> {
    let mut window = Vec::new();
    while !window.ends_with(MAGIC) {
        if window.len() > 1 << 20 {
            return Err("the other side talks, but it is no agent".into());
        }
        window.push(reader.read_u8().await.map_err(|_| "the agent ended before it greeted".to_owned())?);
    }
    let frame = read_frame(reader).await.map_err(|error| error.to_string())?;
    match frame {
        Some(Frame { kind: FrameKind::Hello, body, .. }) => decode(&body),
        _ => Err("the agent did not greet".into()),
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Frame>> {
    let mut head = [0; HEAD];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let invalid = |why| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    let head = Head::parse(&head).map_err(invalid)?;
    let mut body = vec![0; head.len];
    reader.read_exact(&mut body).await?;
    head.frame(body).map(Some).map_err(invalid)
}

/// A frame as it goes over.
struct Outgoing<'a> {
    head: Head,
    body: Cow<'a, [u8]>,
}

impl<'a> Outgoing<'a> {
    /// Makes the frame of a body. Content is packed by whoever sends it, or not at all.
    fn of(call: u32, kind: FrameKind, body: &'a [u8], packer: Option<&mut Packer>) -> Self {
        let packer = packer.filter(|_| kind == FrameKind::Open || !StreamFrame::is_bulk(body));
        let packed = packer.and_then(|packer| packer.pack(body));
        let is_packed = packed.is_some();
        let body = packed.map_or(Cow::Borrowed(body), Cow::Owned);
        Self { head: Head { len: body.len(), call, kind, is_packed }, body }
    }

    /// Writes it; returns the bytes of its body.
    async fn write(&self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<usize> {
        writer.write_all(&self.head.encode()).await?;
        writer.write_all(&self.body).await?;
        Ok(self.body.len())
    }
}

async fn write_loop(
    writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::UnboundedReceiver<(u32, FrameKind, Vec<u8>)>,
    (shared, stop): (Arc<Shared>, CancellationToken),
    heartbeat: Duration,
    mut packer: Option<Packer>,
) {
    let mut writer = tokio::io::BufWriter::with_capacity(64 << 10, writer);
    let mut beat = tokio::time::interval(heartbeat);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = shared.gone.cancelled() => break,
            next = queue.recv() => match next { Some(next) => next, None => break },
            _ = beat.tick() => (0, FrameKind::Ping, Vec::new()),
        };
        let (call, kind, body) = next;
        // Before the time counts that the pipe takes.
        let frame = Outgoing::of(call, kind, &body, packer.as_mut());
        let begun = shared.pipe.begin();
        let write = async {
            let went = frame.write(&mut writer).await?;
            if queue.is_empty() {
                writer.flush().await?;
            }
            Ok::<_, std::io::Error>(went)
        };
        let written = tokio::select! {
            // A frame may be cut now: what came after it would be read as the rest of it.
            () = stop.cancelled() => return,
            () = shared.gone.cancelled() => return,
            written = write => written,
        };
        match written {
            Ok(went) => shared.pipe.end(begun, went, (kind == FrameKind::Up).then_some(body.len())),
            Err(error) => {
                shared.fail(format!("cannot write to the agent: {error}"));
                return;
            }
        }
    }
    // What was queued before the stop (a cancel, say) still goes out if the pipe takes it at once.
    let rest = async {
        while let Ok((call, kind, body)) = queue.try_recv() {
            Outgoing::of(call, kind, &body, None).write(&mut writer).await?;
        }
        writer.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_millis(200), rest).await;
}

async fn read_loop(
    reader: impl AsyncRead + Unpin,
    shared: Arc<Shared>,
    stop: CancellationToken,
    silence: Duration,
) {
    let mut reader = tokio::io::BufReader::with_capacity(256 << 10, reader);
    let why = loop {
        let frame = tokio::select! {
            () = stop.cancelled() => break "it was closed".to_owned(),
            () = shared.gone.cancelled() => return,
            frame = tokio::time::timeout(silence, read_frame(&mut reader)) => frame,
        };
        match frame {
            Err(_) => break format!("the agent was silent for {} s", silence.as_secs()),
            Ok(Err(error)) => break format!("the agent's stream broke: {error}"),
            Ok(Ok(None)) => break "the agent ended".to_owned(),
            Ok(Ok(Some(Frame { call, kind, body }))) => deliver(&shared, call, kind, body),
        }
    };
    shared.fail(why);
}

fn deliver(shared: &Shared, call: u32, kind: FrameKind, body: Vec<u8>) {
    let mut calls = shared.calls();
    match kind {
        FrameKind::Item => {
            if let Some(pending) = calls.get(&call) {
                let _ = pending.replies.send(Ok(Reply::Item(body)));
            }
        }
        FrameKind::Credit => {
            if let (Some(pending), Ok(bytes)) = (calls.get(&call), <[u8; 4]>::try_from(body.as_slice())) {
                pending.credit.add_permits(u32::from_le_bytes(bytes) as usize);
            }
        }
        FrameKind::Done => {
            if let Some(pending) = calls.remove(&call) {
                let _ = pending.replies.send(Ok(Reply::Done(body)));
                pending.credit.close();
            }
        }
        FrameKind::Error => {
            if let Some(pending) = calls.remove(&call) {
                let error = decode::<AgentError>(&body).unwrap_or_else(AgentError::protocol);
                let _ = pending.replies.send(Err(error.into_exec(&shared.hostname, "agent")));
                pending.credit.close();
            }
        }
        _ => {}
    }
}

#[async_trait]
impl AgentLink for AgentConn {
    fn hostname(&self) -> &Hostname {
        &self.shared.hostname
    }

    async fn open(&self, request: Vec<u8>) -> Result<AgentCall, ExecError> {
        if self.shared.gone.is_cancelled() {
            return Err(self.shared.lost());
        }
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (send, replies) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(WINDOW as usize));
        self.shared.calls().insert(id, Pending { replies: send, credit: Arc::clone(&credit) });
        let stream = Stream { id, replies, shared: Arc::clone(&self.shared), consumed: 0, over: false };
        self.shared.out.send((id, FrameKind::Open, request)).map_err(|_| self.shared.lost())?;
        if self.shared.gone.is_cancelled() {
            return Err(self.shared.lost());
        }
        let sink = Sink { id, credit, shared: Arc::clone(&self.shared) };
        Ok(AgentCall { sink: Box::new(sink), stream: Box::new(stream) })
    }

    fn uplink(&self) -> Option<Uplink> {
        Some(self.shared.pipe.uplink())
    }

    async fn written(&self) {
        self.shared.pipe.written().await;
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
        // A closed semaphore means that the agent has answered already: its stream says what.
        let permits = self.credit.acquire_many(body.len() as u32).await.map_err(|_| ExecError::Cancelled)?;
        permits.forget();
        self.shared.pipe.queue(body.len());
        self.shared.out.send((self.id, FrameKind::Up, body)).map_err(|_| self.shared.lost())
    }

    async fn finish(&mut self) -> Result<(), ExecError> {
        self.shared.out.send((self.id, FrameKind::UpEnd, Vec::new())).map_err(|_| self.shared.lost())
    }
}

struct Stream {
    id: u32,
    replies: mpsc::UnboundedReceiver<Result<Reply, ExecError>>,
    shared: Arc<Shared>,
    consumed: usize,
    over: bool,
}

#[async_trait]
impl AgentStream for Stream {
    async fn next(&mut self) -> Result<Reply, ExecError> {
        let reply = self.replies.recv().await.unwrap_or_else(|| Err(self.shared.lost()));
        match &reply {
            Ok(Reply::Item(body)) => {
                self.consumed += body.len();
                if self.consumed as i64 >= WINDOW / 8 {
                    let grant = (self.consumed as u32).to_le_bytes().to_vec();
                    let _ = self.shared.out.send((self.id, FrameKind::Credit, grant));
                    self.consumed = 0;
                }
            }
            Ok(Reply::Done(_)) | Err(_) => self.over = true,
        }
        reply
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.over && self.shared.calls().remove(&self.id).is_some() {
            let _ = self.shared.out.send((self.id, FrameKind::Cancel, Vec::new()));
        }
    }
}
