//! Typed calls over an [`AgentLink`]: what modules use to talk to an agent.

mod content;
mod deadman;
mod digests;
pub(crate) mod held;
mod ranges;
mod sets;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pc_switcher_contract::{
    AgentLink, AgentSink, AgentStream, BytePath, ExecError, Hostname, Reply, SnapshotSet,
};
use serde::de::DeserializeOwned;

use crate::proto::{
    ActivateRequest, Activated, AdoptRequest, Adopted, ApplyNews, ApplyReport, ApplyRequest, Change,
    ChangedDir, ChangedRequest, Diagnosis, DiffRequest, Diffed, DirListing, Finding, Gain, Holdings,
    HoldingsRequest, Layout, LayoutRequest, Listings, LockReply, LockRequest, MachineFacts, Moved,
    NestedOrder, Patience, ReadWant, Redone, Request, RestoreReply, RestoreRequest, RollbackLook,
    RollbackOrder, SpaceReport, StreamFrame, TakeSet, Tree, UndoLine, UndoReport, UndoRequest, Verified,
    VerifyRequest, Versions, VersionsRequest, WalkRequest, WalkSummary, Writer, WritersRequest, decode,
    encode,
};

pub use content::BlocksStream;
pub use digests::DirDigestStream;
pub use held::Held;
pub use sets::{SetIntake, SetStream};

/// An agent with typed calls.
#[derive(Clone)]
pub struct Agent {
    link: Arc<dyn AgentLink>,
}

impl Agent {
    /// Wraps a link.
    pub fn new(link: &Arc<dyn AgentLink>) -> Self {
        Self { link: Arc::clone(link) }
    }

    /// Returns the name of the agent's machine.
    pub fn hostname(&self) -> &Hostname {
        self.link.hostname()
    }

    fn broken(&self, why: String) -> ExecError {
        ExecError::Protocol { hostname: self.hostname().to_string(), why }
    }

    /// Makes a call that has no items and no uploads.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ExecError> {
        let mut call = self.link.open(encode(request)).await?;
        call.sink.finish().await?;
        match call.stream.next().await? {
            Reply::Done(body) => decode(&body).map_err(|why| self.broken(why)),
            Reply::Item(_) => Err(self.broken(format!("`{}` sends no items", request.name()))),
        }
    }

    /// Asks what the machine says of itself.
    ///
    /// # Errors
    /// As [`Agent::call`]; so for every call below.
    pub async fn facts(&self) -> Result<MachineFacts, ExecError> {
        self.call(&Request::Facts).await
    }

    /// Asks what may stand in the way of a sync or of a way back.
    pub async fn diagnose(&self) -> Result<Diagnosis, ExecError> {
        self.call(&Request::Diagnose).await
    }

    /// Asks which files below these folders are open for writing.
    pub async fn writers(&self, folders: Vec<BytePath>) -> Result<Vec<Writer>, ExecError> {
        self.call(&Request::Writers(WritersRequest { folders })).await
    }

    /// Takes the machine's lock.
    pub async fn lock(&self, request: LockRequest) -> Result<LockReply, ExecError> {
        self.call(&Request::Lock(request)).await
    }

    /// Asks how folders lie on subvolumes.
    pub async fn layout(&self, request: LayoutRequest) -> Result<Layout, ExecError> {
        self.call(&Request::Layout(request)).await
    }

    /// Asks for the free space of the file systems under these paths.
    pub async fn space(&self, paths: Vec<BytePath>) -> Result<Vec<SpaceReport>, ExecError> {
        self.call(&Request::Space(paths)).await
    }

    /// Takes a snapshot set.
    pub async fn take_set(&self, request: TakeSet) -> Result<SnapshotSet, ExecError> {
        self.call(&Request::TakeSet(request)).await
    }

    /// Asks whether a set is whole and unchanged; the inner error says what is wrong with it.
    pub async fn check_set(&self, set: SnapshotSet) -> Result<Result<(), String>, ExecError> {
        self.call(&Request::CheckSet(set)).await
    }

    /// Removes the members of a set.
    pub async fn drop_set(&self, set: SnapshotSet) -> Result<(), ExecError> {
        self.call(&Request::DropSet(set)).await
    }

    /// Takes up snapshots that are in no set.
    pub async fn adopt(&self, request: AdoptRequest) -> Result<Adopted, ExecError> {
        self.call(&Request::Adopt(request)).await
    }

    /// Looks whether sets are what was taken; `found` is told what is wrong.
    pub async fn verify(
        &self,
        request: VerifyRequest,
        found: impl FnMut(Finding),
    ) -> Result<Verified, ExecError> {
        self.items(&Request::Verify(request), found).await
    }

    /// Brings paths back out of a set.
    pub async fn restore(&self, request: RestoreRequest) -> Result<RestoreReply, ExecError> {
        self.call(&Request::Restore(request)).await
    }

    /// Returns the versions of a file over all sets.
    pub async fn versions(&self, request: VersionsRequest) -> Result<Versions, ExecError> {
        self.call(&Request::Versions(request)).await
    }

    /// Asks what differs between two sets; `found` is told, by path.
    pub async fn diff(
        &self,
        request: DiffRequest,
        found: impl FnMut(Vec<Change>),
    ) -> Result<Diffed, ExecError> {
        self.items(&Request::Diff(request), found).await
    }

    /// Returns what removing the sets of each session would free.
    pub async fn gains(&self, snapshot_dir: BytePath) -> Result<Vec<Gain>, ExecError> {
        let mut found = Vec::new();
        self.items::<_, ()>(&Request::Gains(snapshot_dir), |gain| found.push(gain)).await?;
        Ok(found)
    }

    /// Asks what the file system of the snapshots holds.
    pub async fn holdings(&self, request: HoldingsRequest) -> Result<Holdings, ExecError> {
        self.call(&Request::Holdings(request)).await
    }

    /// Waits until what was removed from the file system of a path is free, at most so long; whether all of it is.
    pub async fn settle(&self, path: BytePath, limit: Duration) -> Result<bool, ExecError> {
        let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        self.call(&Request::Settle(path, limit)).await
    }

    /// Makes a call that has items and no uploads.
    async fn items<I: DeserializeOwned, T: DeserializeOwned>(
        &self,
        request: &Request,
        mut each: impl FnMut(I),
    ) -> Result<T, ExecError> {
        let mut call = self.link.open(encode(request)).await?;
        call.sink.finish().await?;
        loop {
            match call.stream.next().await? {
                Reply::Item(body) => each(decode(&body).map_err(|why| self.broken(why))?),
                Reply::Done(body) => return decode(&body).map_err(|why| self.broken(why)),
            }
        }
    }

    /// Reads a file of the machine state.
    pub async fn state_get(&self, key: impl Into<String>) -> Result<Option<Vec<u8>>, ExecError> {
        self.call(&Request::StateGet(key.into())).await
    }

    /// Lists the machine state below a prefix.
    pub async fn state_list(&self, prefix: impl Into<String>) -> Result<Vec<String>, ExecError> {
        self.call(&Request::StateList(prefix.into())).await
    }

    /// Writes or removes a file of the machine state, durably.
    pub async fn state_put(&self, key: impl Into<String>, value: Option<Vec<u8>>) -> Result<(), ExecError> {
        self.call(&Request::StatePut(key.into(), value)).await
    }

    /// Stores a row of the machine's history.
    pub async fn history_put(&self, row: Vec<u8>) -> Result<(), ExecError> {
        self.call(&Request::HistoryPut(row)).await
    }

    /// Returns the newest rows of the machine's history, the newest first.
    pub async fn history_list(&self, count: u32) -> Result<Vec<Vec<u8>>, ExecError> {
        let mut call = self.link.open(encode(&Request::HistoryList(count))).await?;
        call.sink.finish().await?;
        let mut rows = Vec::new();
        while let Reply::Item(row) = call.stream.next().await? {
            rows.push(decode(&row).map_err(|why| self.broken(why))?);
        }
        Ok(rows)
    }

    /// Installs the binary the agent runs from.
    pub async fn activate(&self, request: ActivateRequest) -> Result<Activated, ExecError> {
        self.call(&Request::Activate(request)).await
    }

    /// Asks whether two snapshots are of the same subvolume and nothing in it changed from the first to the second.
    pub async fn unchanged(&self, from: BytePath, to: BytePath) -> Result<bool, ExecError> {
        self.call(&Request::Unchanged { from, to }).await
    }

    /// Makes or removes a nested subvolume; needs the machine's lock. Whether it is done.
    pub async fn nested(&self, order: NestedOrder) -> Result<bool, ExecError> {
        self.call(&Request::Nested(order)).await
    }

    /// Takes a sync back, or says what that would do; needs the machine's lock.
    pub async fn undo(&self, request: UndoRequest) -> Result<(Vec<UndoLine>, UndoReport), ExecError> {
        let mut call = self.link.open(encode(&Request::Undo(request))).await?;
        call.sink.finish().await?;
        let mut lines = Vec::new();
        loop {
            match call.stream.next().await? {
                Reply::Item(body) => {
                    lines.extend(decode::<Vec<UndoLine>>(&body).map_err(|why| self.broken(why))?);
                }
                Reply::Done(body) => {
                    return decode(&body).map(|report| (lines, report)).map_err(|why| self.broken(why));
                }
            }
        }
    }

    /// Carries out an order about a rollback.
    pub async fn rollback(&self, order: RollbackOrder) -> Result<RollbackLook, ExecError> {
        self.call(&Request::Rollback(order)).await
    }

    /// Brings sessions that were cut off to their end; needs the machine's lock. Nothing is unmounted by it.
    pub async fn redo(&self, patience: Patience) -> Result<Vec<Redone>, ExecError> {
        self.call(&Request::Redo { patience, at_once: false }).await
    }

    /// As [`Agent::redo`]; what a rollback has left and nobody uses any more goes back as well.
    pub async fn redo_at_once(&self, patience: Patience) -> Result<Vec<Redone>, ExecError> {
        self.call(&Request::Redo { patience, at_once: true }).await
    }

    /// Starts a walk.
    pub async fn walk(&self, tree: Tree) -> Result<WalkStream, ExecError> {
        let mut call = self.link.open(encode(&Request::Walk(WalkRequest { tree }))).await?;
        call.sink.finish().await?;
        Ok(WalkStream::new(self, call.stream))
    }

    /// Starts a walk that tells of each directory what it can be compared by.
    pub async fn digests(&self, tree: Tree) -> Result<DirDigestStream, ExecError> {
        let mut call = self.link.open(encode(&Request::Digests(WalkRequest { tree }))).await?;
        call.sink.finish().await?;
        Ok(DirDigestStream::new(self, call.stream))
    }

    /// Starts a walk of a live tree whose listings are kept under a key of the machine state.
    pub async fn walk_kept(&self, tree: Tree, key: String) -> Result<WalkStream, ExecError> {
        let mut call = self.link.open(encode(&Request::WalkKept { tree, key })).await?;
        call.sink.finish().await?;
        Ok(WalkStream::new(self, call.stream))
    }

    /// Starts reading the listings that a walk has kept.
    pub async fn kept(&self, key: String) -> Result<WalkStream, ExecError> {
        let mut call = self.link.open(encode(&Request::Kept(key))).await?;
        call.sink.finish().await?;
        Ok(WalkStream::new(self, call.stream))
    }

    /// Asks whether what a walk has kept is there and whole; the inner error says what is wrong with it.
    pub async fn check_kept(&self, key: String) -> Result<Result<(), String>, ExecError> {
        self.call(&Request::CheckKept(key)).await
    }

    /// Starts listing single directories of a tree, as they are asked for.
    pub async fn list(&self, tree: Tree) -> Result<(Wants, WalkStream), ExecError> {
        let call = self.link.open(encode(&Request::List(WalkRequest { tree }))).await?;
        Ok((Wants { sink: call.sink }, WalkStream::new(self, call.stream)))
    }

    /// Returns the directories of a tree that changed since an older snapshot of its subvolume, and whether these are all: if not,
    /// they are those with files whose content alone was written, as far as that is known.
    pub async fn changed(&self, base: BytePath, tree: Tree) -> Result<(Vec<ChangedDir>, bool), ExecError> {
        self.told(&Request::Changed(ChangedRequest { base, tree })).await
    }

    /// Collects lists of something, and whether that is all.
    async fn told<T: DeserializeOwned>(&self, request: &Request) -> Result<(Vec<T>, bool), ExecError> {
        let mut call = self.link.open(encode(request)).await?;
        call.sink.finish().await?;
        let mut found: Vec<T> = Vec::new();
        loop {
            match call.stream.next().await? {
                Reply::Item(body) => {
                    found.extend(decode::<Vec<T>>(&body).map_err(|why| self.broken(why))?);
                }
                Reply::Done(body) => {
                    let is_known: bool = decode(&body).map_err(|why| self.broken(why))?;
                    return Ok((found, is_known));
                }
            }
        }
    }

    /// Returns what stands elsewhere than in an older snapshot; `None` if that is not known.
    pub async fn moved(&self, base: BytePath, tree: Tree) -> Result<Option<Vec<Moved>>, ExecError> {
        let (found, is_known) = self.told(&Request::Moved(ChangedRequest { base, tree })).await?;
        Ok(is_known.then_some(found))
    }

    /// Starts reading files below `root`.
    pub async fn read(&self, root: BytePath) -> Result<(Wants, ReadStream), ExecError> {
        let call = self.link.open(encode(&Request::Read { root })).await?;
        Ok((Wants { sink: call.sink }, ReadStream { stream: call.stream }))
    }

    /// Starts reading files below `root` of a live tree.
    pub async fn read_live(&self, root: BytePath) -> Result<(Wants, ReadStream), ExecError> {
        let call = self.link.open(encode(&Request::ReadLive { root })).await?;
        Ok((Wants { sink: call.sink }, ReadStream { stream: call.stream }))
    }

    /// Returns by their numbers how many bytes of files changed since an older snapshot; a file of which that is not known
    /// is left out.
    pub async fn delta(
        &self,
        root: BytePath,
        base: BytePath,
        wants: &[ReadWant],
    ) -> Result<HashMap<u32, u64>, ExecError> {
        let call = self.link.open(encode(&Request::Delta { root, base })).await?;
        let (mut asking, mut told) = (Wants { sink: call.sink }, call.stream);
        let send = async {
            for batch in wants.chunks(500) {
                asking.send(batch).await?;
            }
            asking.finish().await
        };
        let receive = async {
            let mut found = HashMap::new();
            loop {
                match told.next().await? {
                    Reply::Item(body) => {
                        let told: Vec<(u32, Option<u64>)> = decode(&body).map_err(|why| self.broken(why))?;
                        found.extend(told.into_iter().filter_map(|(content, bytes)| Some((content, bytes?))));
                    }
                    Reply::Done(_) => return Ok(found),
                }
            }
        };
        tokio::try_join!(send, receive).map(|((), found)| found)
    }

    /// Starts reading what changed in files below `root` since an older snapshot.
    pub async fn read_delta(&self, root: BytePath, base: BytePath) -> Result<(Wants, ReadStream), ExecError> {
        let call = self.link.open(encode(&Request::ReadDelta { root, base })).await?;
        Ok((Wants { sink: call.sink }, ReadStream { stream: call.stream }))
    }

    /// Starts digesting files below `root`.
    pub async fn digest(&self, root: BytePath) -> Result<(Wants, DigestStream), ExecError> {
        let call = self.link.open(encode(&Request::Digest { root })).await?;
        Ok((Wants { sink: call.sink }, DigestStream { agent: self.clone(), stream: call.stream }))
    }

    /// Starts staging.
    pub async fn apply(&self, request: ApplyRequest) -> Result<(ApplySink, ApplyStream), ExecError> {
        let call = self.link.open(encode(&Request::Apply(request))).await?;
        Ok((ApplySink { sink: call.sink }, ApplyStream { agent: self.clone(), stream: call.stream }))
    }
}

/// Listings of a running walk. Dropping it ends the walk.
pub struct WalkStream {
    agent: Agent,
    stream: Box<dyn AgentStream>,
    summary: Option<WalkSummary>,
    ready: VecDeque<DirListing>,
    pieces: HashMap<BytePath, DirListing>,
}

impl WalkStream {
    fn new(agent: &Agent, stream: Box<dyn AgentStream>) -> Self {
        Self { agent: agent.clone(), stream, summary: None, ready: VecDeque::new(), pieces: HashMap::new() }
    }

    /// Returns the next listing, `None` after the last.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn next(&mut self) -> Result<Option<DirListing>, ExecError> {
        loop {
            if let Some(listing) = self.ready.pop_front() {
                return Ok(Some(listing));
            }
            if self.summary.is_some() {
                return Ok(None);
            }
            match self.stream.next().await? {
                Reply::Item(body) => {
                    let Listings(listings) = decode(&body).map_err(|why| self.agent.broken(why))?;
                    listings.into_iter().for_each(|listing| self.take(listing));
                }
                Reply::Done(body) => {
                    self.summary = Some(decode(&body).map_err(|why| self.agent.broken(why))?);
                    if let Some(path) = self.pieces.keys().next() {
                        return Err(self.agent.broken(format!("the listing of `{path}` has no end")));
                    }
                }
            }
        }
    }

    /// Puts the pieces of a large directory together.
    fn take(&mut self, piece: DirListing) {
        let more = piece.more;
        let whole = match self.pieces.remove(&piece.path) {
            Some(mut whole) => {
                whole.entries.extend(piece.entries);
                whole.skipped.extend(piece.skipped);
                whole
            }
            None => piece,
        };
        if more {
            self.pieces.insert(whole.path.clone(), whole);
        } else {
            self.ready.push_back(DirListing { more: false, ..whole });
        }
    }

    /// Returns the summary, once the walk is over.
    pub fn summary(&self) -> Option<WalkSummary> {
        self.summary
    }
}

/// What is wanted from a running call: files of a read or digest, directories of a listing.
pub struct Wants {
    sink: Box<dyn AgentSink>,
}

impl Wants {
    /// Asks for more. An agent that has ended the call already wants nothing; the stream says why it ended.
    ///
    /// # Errors
    /// If the agent is gone.
    pub async fn send<W: serde::Serialize>(&mut self, wants: &[W]) -> Result<(), ExecError> {
        match self.sink.send(encode(&wants)).await {
            Err(ExecError::Cancelled) => Ok(()),
            sent => sent,
        }
    }

    /// Says that no more are wanted.
    ///
    /// # Errors
    /// If the agent is gone.
    pub async fn finish(mut self) -> Result<(), ExecError> {
        self.sink.finish().await
    }
}

/// Encoded [`StreamFrame`]s of a running read.
pub struct ReadStream {
    stream: Box<dyn AgentStream>,
}

impl ReadStream {
    /// Returns the next encoded frame, `None` after the last.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ExecError> {
        match self.stream.next().await? {
            Reply::Item(body) => Ok(Some(body)),
            Reply::Done(_) => Ok(None),
        }
    }
}

/// Digests of a running digest call.
pub struct DigestStream {
    agent: Agent,
    stream: Box<dyn AgentStream>,
}

impl DigestStream {
    /// Returns the numbers and digests of the next files, `None` after the last.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn next(&mut self) -> Result<Option<Vec<(u32, Option<[u8; 32]>)>>, ExecError> {
        match self.stream.next().await? {
            Reply::Item(body) => decode(&body).map(Some).map_err(|why| self.agent.broken(why)),
            Reply::Done(_) => Ok(None),
        }
    }
}

/// The way up of an apply.
pub struct ApplySink {
    sink: Box<dyn AgentSink>,
}

impl ApplySink {
    /// Sends a frame.
    ///
    /// # Errors
    /// If the agent is gone or has ended the call: the stream says why.
    pub async fn send(&mut self, frame: &StreamFrame) -> Result<(), ExecError> {
        self.sink.send(encode(frame)).await
    }

    /// Passes on an encoded frame.
    ///
    /// # Errors
    /// As [`ApplySink::send`].
    pub async fn send_raw(&mut self, frame: Vec<u8>) -> Result<(), ExecError> {
        self.sink.send(frame).await
    }

    /// Says that nothing more will come.
    ///
    /// # Errors
    /// If the agent is gone.
    pub async fn finish(&mut self) -> Result<(), ExecError> {
        self.sink.finish().await
    }
}

/// What an apply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applying {
    /// It goes on.
    News(ApplyNews),
    /// It is done.
    Report(ApplyReport),
}

/// The way down of an apply.
pub struct ApplyStream {
    agent: Agent,
    stream: Box<dyn AgentStream>,
}

impl ApplyStream {
    /// Returns what the agent says next.
    ///
    /// # Errors
    /// What the agent said, or that it is gone.
    pub async fn next(&mut self) -> Result<Applying, ExecError> {
        match self.stream.next().await? {
            Reply::Item(body) => decode(&body).map(Applying::News),
            Reply::Done(body) => decode(&body).map(Applying::Report),
        }
        .map_err(|why| self.agent.broken(why))
    }
}
