//! Sets of snapshots as people see them, and small files of root's.

use pc_switcher_contract::{AgentSink, AgentStream, BytePath, ExecError, Reply, SetId, SnapshotMember};

use super::Agent;
use crate::proto::{
    AnnotateSet, BootLook, BootOrder, CreateSet, CreatedSet, DeleteRequest, ExportRequest, GoodMark,
    ImportRequest, Imported, PinOrder, PinRequest, PutFile, Request, SetRequest, SetsRequest, StoredSet,
    Strays, TakeSet, VolumeRequest, decode, encode,
};

impl Agent {
    /// Lists the sets in a snapshot directory, oldest first, and what else lies there.
    pub async fn sets(&self, snapshot_dir: BytePath) -> Result<(Vec<StoredSet>, Strays), ExecError> {
        let mut call = self.link.open(encode(&Request::Sets(snapshot_dir))).await?;
        call.sink.finish().await?;
        let mut sets = Vec::new();
        loop {
            match call.stream.next().await? {
                Reply::Item(set) => sets.push(decode(&set).map_err(|why| self.broken(why))?),
                Reply::Done(strays) => return Ok((sets, decode(&strays).map_err(|why| self.broken(why))?)),
            }
        }
    }

    /// Removes a set that nobody wants to keep, and returns the members that were given up; needs the machine's lock.
    pub async fn delete_set(&self, request: DeleteRequest) -> Result<Vec<SnapshotMember>, ExecError> {
        self.call(&Request::DeleteSet(request)).await
    }

    /// Removes sets, all with one commit, and returns why those stay that do; needs the machine's lock.
    pub async fn delete_sets(&self, request: SetsRequest) -> Result<Vec<(SetId, Option<String>)>, ExecError> {
        self.call(&Request::DeleteSets(request)).await
    }

    /// Removes a volume that is marked as ours and that no set names; needs the machine's lock.
    pub async fn delete_volume(&self, request: VolumeRequest) -> Result<(), ExecError> {
        self.call(&Request::DeleteVolume(request)).await
    }

    /// Pins a set, or frees it again.
    pub async fn pin_set(&self, set: SetRequest, order: PinOrder) -> Result<(), ExecError> {
        self.call(&Request::PinSet(PinRequest { set, order })).await
    }

    /// Takes a set that people want.
    pub async fn create_set(&self, request: CreateSet) -> Result<CreatedSet, ExecError> {
        self.call(&Request::CreateSet(request)).await
    }

    /// Starts the stream of a set.
    pub async fn export(&self, request: ExportRequest) -> Result<SetStream, ExecError> {
        let mut call = self.link.open(encode(&Request::Export(request))).await?;
        call.sink.finish().await?;
        Ok(SetStream { stream: call.stream })
    }

    /// Starts to take a stream of a set in.
    pub async fn import(&self, request: ImportRequest) -> Result<SetIntake, ExecError> {
        let call = self.link.open(encode(&Request::Import(request))).await?;
        Ok(SetIntake { agent: self.clone(), sink: call.sink, stream: call.stream })
    }

    /// Whether sets hold all of these subvolumes as they are now.
    pub async fn has_all(&self, request: TakeSet) -> Result<bool, ExecError> {
        self.call(&Request::HasAll(request)).await
    }

    /// Writes what a set is for.
    pub async fn annotate_set(&self, request: AnnotateSet) -> Result<(), ExecError> {
        self.call(&Request::AnnotateSet(request)).await
    }

    /// Writes a small file of root's, whole or not at all; its directory must be there.
    pub async fn put_file(&self, path: BytePath, mode: u32, content: &[u8]) -> Result<(), ExecError> {
        let request = Request::PutFile(PutFile { path, mode, owner: None });
        let mut call = self.link.open(encode(&request)).await?;
        // A refusal ends the way up; the answer says why.
        let _ = call.sink.send(content.to_vec()).await;
        let _ = call.sink.finish().await;
        match call.stream.next().await? {
            Reply::Done(body) => decode(&body).map_err(|why| self.broken(why)),
            Reply::Item(_) => Err(self.broken("`put-file` sends no items".into())),
        }
    }

    /// Does something about boot protection.
    pub async fn boot(&self, snapshot_dir: BytePath, order: BootOrder) -> Result<BootLook, ExecError> {
        self.call(&Request::Boot { snapshot_dir, order }).await
    }

    /// Marks a set as known to be good, or takes marks away. Returns what is to be said, a line each.
    pub async fn mark_good(&self, snapshot_dir: BytePath, mark: GoodMark) -> Result<Vec<String>, ExecError> {
        self.call(&Request::GoodSet { snapshot_dir, mark }).await
    }
}

/// The stream of a set, coming.
pub struct SetStream {
    stream: Box<dyn AgentStream>,
}

impl SetStream {
    /// Returns the next bytes, `None` behind the last.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ExecError> {
        match self.stream.next().await? {
            Reply::Item(bytes) => Ok(Some(bytes)),
            Reply::Done(_) => Ok(None),
        }
    }
}

/// The stream of a set, going in.
pub struct SetIntake {
    agent: Agent,
    sink: Box<dyn AgentSink>,
    stream: Box<dyn AgentStream>,
}

impl SetIntake {
    /// Sends bytes; whether more are wanted. If not, [`SetIntake::finish`] says why.
    ///
    /// # Errors
    /// If the agent is gone.
    pub async fn send(&mut self, bytes: Vec<u8>) -> Result<bool, ExecError> {
        match self.sink.send(bytes).await {
            Err(ExecError::Cancelled) => Ok(false),
            sent => sent.map(|()| true),
        }
    }

    /// Says that all was sent, and returns what it came to.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn finish(mut self) -> Result<Imported, ExecError> {
        // A refusal ends the way up; the answer says why.
        let _ = self.sink.finish().await;
        match self.stream.next().await? {
            Reply::Done(body) => decode(&body).map_err(|why| self.agent.broken(why)),
            Reply::Item(_) => Err(self.agent.broken("`import` sends no items".into())),
        }
    }
}
