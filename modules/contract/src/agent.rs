//! Talking to an agent without knowing how it is reached.
//!
//! Bodies are opaque here; the agent crate gives them types. A call is one request, then any number of upload
//! frames and reply items, then one final answer. Dropping a call cancels it on the other side.

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::error::ExecError;
use crate::ids::Hostname;

/// What an agent sends for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// One of many.
    Item(Vec<u8>),
    /// The answer; nothing follows.
    Done(Vec<u8>),
}

/// The way up: frames for the agent, under flow control.
#[async_trait]
pub trait AgentSink: Send {
    /// Sends one upload frame; waits while the agent is behind.
    async fn send(&mut self, body: Vec<u8>) -> Result<(), ExecError>;
    /// Says that nothing more will come.
    async fn finish(&mut self) -> Result<(), ExecError>;
}

/// The way down: replies until [`Reply::Done`] or an error.
pub struct AgentStream {
    /// Replies in order.
    pub replies: mpsc::Receiver<Result<Reply, ExecError>>,
    /// Cancels the call when dropped, if it is not over.
    pub guard: Box<dyn std::any::Any + Send>,
}

impl AgentStream {
    /// Returns the next reply; an error if the agent went away without an answer.
    pub async fn next(&mut self, hostname: &Hostname) -> Result<Reply, ExecError> {
        self.replies.recv().await.unwrap_or_else(|| {
            Err(ExecError::Transport {
                hostname: hostname.to_string(),
                why: "the agent ended without an answer".into(),
            })
        })
    }
}

/// One call in progress.
pub struct AgentCall {
    /// The way up.
    pub sink: Box<dyn AgentSink>,
    /// The way down.
    pub stream: AgentStream,
}

/// A connection to the agent of one machine.
#[async_trait]
pub trait AgentLink: Send + Sync {
    /// Returns the name of the agent's machine.
    fn hostname(&self) -> &Hostname;
    /// Opens a call with its encoded request.
    async fn open(&self, request: Vec<u8>) -> Result<AgentCall, ExecError>;
}
