//! What the machine state knows of sessions that stage or commit: found at boot without any front.
//!
//! An entry is written before the first directory of staging is made and removed after the last trace of it is gone.

use pc_switcher_contract::{BytePath, SessionId, SnapshotKind, SnapshotSet};
use serde::{Deserialize, Serialize};

use super::commit::RootMeta;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, FileTime, PartRoot, Redone, decode, encode};

/// Below this key lie the sessions that are under way.
pub const PENDING: &str = "commits";

/// Below this key lie the results of redos that nobody has been told yet.
pub const RESULTS: &str = "redone";

/// One session that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The session.
    pub(super) session: SessionId,
    /// Its roots, with the time each had before our directory was made in it.
    pub(super) parts: Vec<(PartRoot, FileTime)>,
    /// Where the list of its steps is kept for an undo, if there is a pre set.
    pub(super) list: Option<BytePath>,
    /// How far it has come.
    pub(super) phase: Phase,
}

/// How far a session has come, as far as its journal does not say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// All is staged: the journal decides.
    Open,
    /// Staging is being removed, whatever the journal says.
    Dropping,
    /// All steps are done and on the disk; what is left is to tidy up and to set the metadata of these parts' roots.
    Done(Vec<RootMeta>),
    /// It stages: nothing was committed, whatever is there of it.
    Staging,
}

impl Entry {
    fn key(&self) -> String {
        format!("{PENDING}/{}", self.session)
    }

    /// Writes it durably.
    pub(super) fn put(&self, state: &StateDir) -> Result<(), AgentError> {
        state.put(&self.key(), Some(&encode(self)))
    }

    /// Forgets it, durably.
    pub(super) fn remove(&self, state: &StateDir) -> Result<(), AgentError> {
        state.put(&self.key(), None)
    }

    /// Returns all that are under way. One that this program cannot read comes as its key.
    pub(super) fn all(state: &StateDir) -> Result<Vec<Result<Entry, String>>, AgentError> {
        let mut all = Vec::new();
        for key in state.list(PENDING)? {
            if let Some(bytes) = state.get(&key)? {
                all.push(decode(&bytes).map_err(|_| key));
            }
        }
        Ok(all)
    }
}

/// Returns where the list of a session's steps is kept: with its pre set.
pub fn list_of(set: &SnapshotSet) -> Option<BytePath> {
    let snapshot_dir = set.dir()?;
    let sidecar = || snapshot_dir.join(format!(".pc-switcher/sets/{}", set.id()).as_bytes());
    (set.kind == SnapshotKind::PreSync).then(sidecar)
}

/// Notes durably what became of a session, until somebody was told.
pub(super) fn put_result(state: &StateDir, result: &Redone) -> Result<(), AgentError> {
    state.put(&result.key(), Some(&encode(result)))
}

/// Returns the result of a session that nobody has been told yet.
pub(super) fn result_of(state: &StateDir, session: &SessionId) -> Result<Option<Redone>, AgentError> {
    Ok(results(state)?.into_iter().find(|result| result.session == *session))
}

/// Returns all results that nobody has been told yet.
pub(super) fn results(state: &StateDir) -> Result<Vec<Redone>, AgentError> {
    let mut results = Vec::new();
    for key in state.list(RESULTS)? {
        match state.get(&key)?.map(|bytes| decode(&bytes)) {
            Some(Ok(result)) => results.push(result),
            // Of another version: nobody can be told any more.
            Some(Err(_)) => state.put(&key, None)?,
            None => {}
        }
    }
    Ok(results)
}
