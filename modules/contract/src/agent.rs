//! Talking to an agent without knowing how it is reached.
//!
//! Bodies are opaque here; the agent crate gives them types. A call is one request, then any number of upload
//! frames and reply items, then one final answer. Dropping a call cancels it on the other side.

use std::time::Duration;

use async_trait::async_trait;

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

/// The way down. Dropping it before [`Reply::Done`] or an error cancels the call.
#[async_trait]
pub trait AgentStream: Send {
    /// Returns the next reply; waits as long as the agent is alive.
    ///
    /// # Errors
    /// What the agent said, or [`ExecError::Transport`] if it went away without an answer.
    async fn next(&mut self) -> Result<Reply, ExecError>;
}

/// One call in progress.
pub struct AgentCall {
    /// The way up.
    pub sink: Box<dyn AgentSink>,
    /// The way down.
    pub stream: Box<dyn AgentStream>,
}

/// What has gone up to an agent so far, and how long that took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Bytes that the pipe to the agent has taken.
    pub bytes: u64,
    /// How long they were waited for. An agent that is behind does not count: nothing is written then.
    pub busy: Duration,
}

/// A connection to the agent of one machine.
#[async_trait]
pub trait AgentLink: Send + Sync {
    /// Returns the name of the agent's machine.
    fn hostname(&self) -> &Hostname;
    /// Opens a call with its encoded request.
    async fn open(&self, request: Vec<u8>) -> Result<AgentCall, ExecError>;

    /// Returns what has gone up so far; `None` if that is not measured.
    fn uplink(&self) -> Option<Uplink> {
        None
    }

    /// Waits until little of what was sent has yet to be written, or the agent is gone.
    async fn written(&self) {}
}
