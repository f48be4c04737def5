//! Calls about files of which both machines are proven to have the same older version.

use serde::Serialize;
use serde::de::DeserializeOwned;

use pc_switcher_contract::{BytePath, ExecError, Reply};

use super::{Agent, ReadStream, Wants};
use crate::proto::{Ranges, ReadWant, Request, Since, decode, encode};

/// Wants of one message.
const BATCH: usize = 500;

impl Agent {
    /// Returns how files stand to what they were in an older snapshot; those of which that is not known are left out.
    pub async fn since(
        &self,
        root: BytePath,
        base: BytePath,
        wants: &[ReadWant],
    ) -> Result<Vec<Since>, ExecError> {
        let told: Vec<Vec<Since>> = self.answers(&Request::Since { root, base }, wants.chunks(BATCH)).await?;
        Ok(told.into_iter().flatten().collect())
    }

    /// Returns what changed in files since an older snapshot, with the digest of that; those of which that is not known are left
    /// out.
    pub async fn ranges(
        &self,
        root: BytePath,
        base: BytePath,
        wants: &[ReadWant],
    ) -> Result<Vec<(Ranges, [u8; 32])>, ExecError> {
        self.answers(&Request::Ranges { root, base }, wants.chunks(BATCH)).await
    }

    /// Returns the digests of these ranges of files that are elsewhere as they are in an older snapshot, by their numbers.
    pub async fn reread(
        &self,
        root: BytePath,
        base: BytePath,
        wants: &[Ranges],
    ) -> Result<Vec<(u32, [u8; 32])>, ExecError> {
        // The ranges of one file may fill a message.
        let told: Vec<Vec<_>> = self.answers(&Request::Reread { root, base }, wants.chunks(1)).await?;
        Ok(told.into_iter().flatten().collect())
    }

    /// Starts reading what changed in files below `root` since an older snapshot, and nothing else of them.
    pub async fn read_ranges(
        &self,
        root: BytePath,
        base: BytePath,
    ) -> Result<(Wants, ReadStream), ExecError> {
        let call = self.link.open(encode(&Request::ReadRanges { root, base })).await?;
        Ok((Wants { sink: call.sink }, ReadStream { stream: call.stream }))
    }

    async fn answers<'w, W: Serialize + 'w, I: DeserializeOwned>(
        &self,
        request: &Request,
        batches: impl Iterator<Item = &'w [W]>,
    ) -> Result<Vec<I>, ExecError> {
        let call = self.link.open(encode(request)).await?;
        let (mut asking, mut told) = (Wants { sink: call.sink }, call.stream);
        let send = async {
            for batch in batches {
                asking.send(batch).await?;
            }
            asking.finish().await
        };
        let receive = async {
            let mut found = Vec::new();
            loop {
                match told.next().await? {
                    Reply::Item(body) => found.push(decode(&body).map_err(|why| self.broken(why))?),
                    Reply::Done(_) => return Ok(found),
                }
            }
        };
        tokio::try_join!(send, receive).map(|((), found)| found)
    }
}
