//! Calls about content that need not be sent.

use pc_switcher_contract::{AgentStream, BytePath, ExecError, Reply};

use super::{Agent, ReadStream, Wants};
use crate::proto::{Blocks, ReadWant, Request, Shares, SharesRequest, decode, encode};

impl Agent {
    /// Returns what files share with one another and with files of an older snapshot; those that share nothing are left out.
    pub async fn shares(&self, request: SharesRequest, wants: &[ReadWant]) -> Result<Vec<Shares>, ExecError> {
        let call = self.link.open(encode(&Request::Shares(request))).await?;
        let mut told = call.stream;
        let mut asking = Wants { sink: call.sink };
        let send = async {
            for batch in wants.chunks(500) {
                asking.send(batch).await?;
            }
            asking.finish().await
        };
        let receive = async {
            let mut found: Vec<Shares> = Vec::new();
            loop {
                match told.next().await? {
                    Reply::Item(body) => {
                        found.extend(decode::<Vec<Shares>>(&body).map_err(|why| self.broken(why))?);
                    }
                    Reply::Done(_) => return Ok(found),
                }
            }
        };
        tokio::try_join!(send, receive).map(|((), found)| found)
    }

    /// Starts reading what the target does not have of files below `root`.
    pub async fn read_rest(&self, root: BytePath) -> Result<(Wants, ReadStream), ExecError> {
        let call = self.link.open(encode(&Request::ReadRest { root })).await?;
        Ok((Wants { sink: call.sink }, ReadStream { stream: call.stream }))
    }

    /// Starts digesting the blocks of files below `root`.
    pub async fn blocks(&self, root: BytePath) -> Result<(Wants, BlocksStream), ExecError> {
        let call = self.link.open(encode(&Request::Blocks { root })).await?;
        Ok((Wants { sink: call.sink }, BlocksStream { agent: self.clone(), stream: call.stream }))
    }

    /// Starts reading blocks of files below `root` that are others than the target has.
    pub async fn read_blocks(&self, root: BytePath) -> Result<(Wants, ReadStream), ExecError> {
        let call = self.link.open(encode(&Request::ReadBlocks { root })).await?;
        Ok((Wants { sink: call.sink }, ReadStream { stream: call.stream }))
    }
}

/// What a machine tells of the blocks of files.
pub struct BlocksStream {
    agent: Agent,
    stream: Box<dyn AgentStream>,
}

impl BlocksStream {
    /// Returns the digests of the next file, `None` after the last.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn next(&mut self) -> Result<Option<Blocks>, ExecError> {
        match self.stream.next().await? {
            Reply::Item(body) => decode(&body).map(Some).map_err(|why| self.agent.broken(why)),
            Reply::Done(_) => Ok(None),
        }
    }
}
