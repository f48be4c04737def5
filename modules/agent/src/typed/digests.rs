//! What directories can be compared by, as it comes.

use std::vec;

use pc_switcher_contract::{AgentStream, ExecError, Reply};

use super::Agent;
use crate::proto::{DirDigest, DirDigests, WalkSummary, decode};

/// Digests of a running walk. Dropping it ends the walk.
pub struct DirDigestStream {
    agent: Agent,
    stream: Box<dyn AgentStream>,
    ready: vec::IntoIter<DirDigest>,
    summary: Option<WalkSummary>,
}

impl DirDigestStream {
    pub(super) fn new(agent: &Agent, stream: Box<dyn AgentStream>) -> Self {
        Self { agent: agent.clone(), stream, ready: Vec::new().into_iter(), summary: None }
    }

    /// Returns the next digest, `None` after the last.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn next(&mut self) -> Result<Option<DirDigest>, ExecError> {
        loop {
            if let Some(digest) = self.ready.next() {
                return Ok(Some(digest));
            }
            if self.summary.is_some() {
                return Ok(None);
            }
            match self.stream.next().await? {
                Reply::Item(body) => {
                    let DirDigests(digests) = decode(&body).map_err(|why| self.agent.broken(why))?;
                    self.ready = digests.into_iter();
                }
                Reply::Done(body) => {
                    self.summary = Some(decode(&body).map_err(|why| self.agent.broken(why))?);
                }
            }
        }
    }

    /// Returns the summary, once the walk is over.
    pub fn summary(&self) -> Option<WalkSummary> {
        self.summary
    }
}
