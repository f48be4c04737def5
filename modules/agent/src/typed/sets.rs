//! Sets of snapshots as people see them, and small files of root's.

use pc_switcher_contract::{BytePath, ExecError, Reply, SetId, SnapshotSet};

use super::Agent;
use crate::proto::{
    AnnotateSet, CreateSet, PutFile, Request, SetRequest, StoredSet, Strays, TakeSet, decode, encode,
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

    /// Removes a set that nobody wants to keep; needs the machine's lock.
    pub async fn delete_set(&self, request: SetRequest) -> Result<(), ExecError> {
        self.call(&Request::DeleteSet(request)).await
    }

    /// Pins a set.
    pub async fn pin_set(&self, request: SetRequest) -> Result<(), ExecError> {
        self.call(&Request::PinSet(request)).await
    }

    /// Frees a set that was pinned.
    pub async fn unpin_set(&self, request: SetRequest) -> Result<(), ExecError> {
        self.call(&Request::UnpinSet(request)).await
    }

    /// Takes a set that people want.
    pub async fn create_set(&self, request: CreateSet) -> Result<SnapshotSet, ExecError> {
        self.call(&Request::CreateSet(request)).await
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

    /// Marks a set as the last that was known to be good, or none.
    pub async fn mark_good(&self, snapshot_dir: BytePath, id: Option<SetId>) -> Result<(), ExecError> {
        self.call(&Request::GoodSet { snapshot_dir, id }).await
    }
}
