//! The calls an agent answers.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, ExecError, Hostname, SnapshotSet};

use super::apply::{ApplyRequest, Patience};
use super::fs::{ChangedRequest, Tree, WalkRequest};
use super::host::{ActivateRequest, ExecRequest, LayoutRequest, LockRequest, PutFile, TakeSet};
use super::store::{AnnotateSet, CreateSet, DeleteRequest, ExportRequest, ImportRequest, PinRequest};

/// One call. The type of each answer stands behind the arrow; `items` come before it, `uploads` go up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// → [`super::MachineFacts`].
    Facts,
    /// → [`super::LockReply`].
    Lock(LockRequest),
    /// → [`super::Layout`].
    Layout(LayoutRequest),
    /// For the file systems of these paths, each once → `Vec<`[`super::SpaceReport`]`>`.
    Space(Vec<BytePath>),
    /// → [`SnapshotSet`].
    TakeSet(TakeSet),
    /// Whether every member is there, read-only, with the same uuid and never changed → `Result<(), String>`.
    CheckSet(SnapshotSet),
    /// Removes the members of a set of our own → `()`.
    DropSet(SnapshotSet),
    /// Items: [`super::Listings`] → [`super::WalkSummary`].
    Walk(WalkRequest),
    /// Items: `Vec<`[`super::ChangedDir`]`>` → `bool`, whether it is known what changed: only between read-only snapshots
    /// of one subvolume. If not, the items are those with files whose content alone was written, as far as that is known.
    Changed(ChangedRequest),
    /// Uploads: `Vec<`[`super::ListWant`]`>`; items: [`super::Listings`] → [`super::WalkSummary`]. A directory
    /// that is not there is an unreadable one.
    List(WalkRequest),
    /// Uploads: `Vec<`[`super::ReadWant`]`>`; items: [`super::StreamFrame`] → `()`.
    Read {
        /// The tree's root.
        root: BytePath,
    },
    /// Uploads: `Vec<`[`super::ReadWant`]`>`; items: `Vec<(u32, Option<[u8; 32]>)>`, the BLAKE3 digest of the whole content
    /// with holes read as zeros, `None` if unreadable → `()`.
    Digest {
        /// The tree's root.
        root: BytePath,
    },
    /// Uploads: [`super::StreamFrame`]; items: [`super::ApplyNews`] → [`super::ApplyReport`].
    Apply(ApplyRequest),
    /// Brings sessions that were cut off to their end; only for the holder of the lock → `Vec<`[`super::Redone`]`>`, with all
    /// that nobody has been told yet. Whoever tells it removes [`super::Redone::key`].
    Redo {
        /// What becomes of what cannot be finished.
        patience: Patience,
        /// Whether subvolumes of a rollback that was done go back now if nobody uses them any more.
        at_once: bool,
    },
    /// Reads a file of the machine state by its key, for example `pairs/0123` → `Option<Vec<u8>>`.
    StateGet(String),
    /// Lists keys below a prefix → `Vec<String>`.
    StateList(String),
    /// Writes (atomically, fsynced) or with `None` removes a file of the machine state → `()`.
    StatePut(String, Option<Vec<u8>>),
    /// Stores a row of the machine's history, a JSON object → `()`.
    HistoryPut(Vec<u8>),
    /// Items: [`super::ExecItem`] → `i32`, the exit code.
    Exec(ExecRequest),
    /// Uploads: raw bytes → `()`.
    PutFile(PutFile),
    /// → [`super::Activated`].
    Activate(ActivateRequest),
    /// Items: rows of the machine's history as they were stored, the newest first, at most this many → `()`.
    HistoryList(u32),
    /// → [`super::Diagnosis`].
    Diagnose,
    /// → `Vec<`[`super::Writer`]`>`, sorted.
    Writers(super::WritersRequest),
    /// Whether two snapshots are of the same subvolume and nothing in it changed from the first to the second → `bool`.
    Unchanged {
        /// A path in the older snapshot.
        from: BytePath,
        /// A path in the newer one.
        to: BytePath,
    },
    /// Uploads: `Vec<`[`super::ReadWant`]`>`; items: `Vec<(u32, Option<u64>)>`, the bytes of each file that changed since an
    /// older snapshot of its subvolume, `None` if the trees do not tell → `()`.
    Delta {
        /// The tree's root.
        root: BytePath,
        /// The same root in the older snapshot.
        base: BytePath,
    },
    /// As [`Request::Read`], but only what changed since an older snapshot of the subvolume is sent, with
    /// [`super::StreamFrame::Hole`]s where data became a hole.
    ReadDelta {
        /// The tree's root.
        root: BytePath,
        /// The same root in the older snapshot.
        base: BytePath,
    },
    /// For a snapshot directory; items: [`super::StoredSet`], oldest first → [`super::Strays`].
    Sets(BytePath),
    /// Removes a set that nobody wants to keep; only for the holder of the lock → `Vec<SnapshotMember>`: what is given up.
    DeleteSet(DeleteRequest),
    /// Removes sets, all with one commit; needs the machine's lock → `Vec<(SetId, Option<String>)>`: why those stay that do.
    DeleteSets(super::SetsRequest),
    /// Pins a set, or frees it again → `()`.
    PinSet(PinRequest),
    /// As [`Request::Walk`], of a live tree: what is listed is kept in the machine state, whole or not at all.
    WalkKept {
        /// The tree.
        tree: Tree,
        /// The key that it is kept under.
        key: String,
    },
    /// What a walk has kept. Items: [`super::Listings`] → [`super::WalkSummary`].
    Kept(String),
    /// Whether what a walk has kept is there and whole → `Result<(), String>`.
    CheckKept(String),
    /// As [`Request::Read`], of a live tree: [`StreamFrame::Whole`](super::StreamFrame::Whole) names the files that did not
    /// change meanwhile.
    ReadLive {
        /// The tree's root.
        root: BytePath,
    },
    /// As [`Request::TakeSet`], with what people say of the set, and of copies where there is no btrfs →
    /// [`super::CreatedSet`].
    CreateSet(CreateSet),
    /// Items: bytes of a stream, one after the other → `()`.
    Export(ExportRequest),
    /// Uploads: bytes of a stream → [`super::Imported`].
    Import(ImportRequest),
    /// Whether sets of ours hold all of these subvolumes as they are now: a set of them would be of no use → `bool`.
    HasAll(TakeSet),
    /// Writes what a set is for → `()`.
    AnnotateSet(AnnotateSet),
    /// Marks a set as known to be good, or takes marks away → `Vec<String>`: what is to be said, a line each.
    GoodSet {
        /// Where snapshots lie.
        snapshot_dir: BytePath,
        /// What becomes of the marks.
        mark: super::GoodMark,
    },
    /// Items: [`super::Finding`] → [`super::Verified`].
    Verify(super::VerifyRequest),
    /// Brings paths back out of a set; in place only for the holder of the lock → [`super::RestoreReply`].
    Restore(super::RestoreRequest),
    /// → [`super::Versions`].
    Versions(super::VersionsRequest),
    /// Items: `Vec<`[`super::Change`]`>`, by path → [`super::Diffed`].
    Diff(super::DiffRequest),
    /// For a snapshot directory; items: [`super::Gain`] → `()`.
    Gains(BytePath),
    /// Items: `Vec<`[`super::Moved`]`>` → `bool`, whether it is known what was moved: as [`Request::Changed`], but the newer
    /// tree may also be the live one that the snapshots are of.
    Moved(ChangedRequest),
    /// Takes back what a sync changed here and nobody touched since; only for the holder of the lock. Items:
    /// `Vec<`[`super::UndoLine`]`>` → [`super::UndoReport`].
    Undo(super::UndoRequest),
    /// Rolls whole subvolumes back, step by step → [`super::RollbackLook`].
    Rollback(super::RollbackOrder),
    /// Waits until what was removed from the file system of a path is free, so many milliseconds at most → `bool`, whether
    /// all of it is.
    Settle(BytePath, u32),
    /// Uploads: `Vec<`[`super::ReadWant`]`>`; items: `Vec<`[`super::Shares`]`>`, of those that share anything → `()`.
    Shares(super::SharesRequest),
    /// Uploads: `Vec<`[`super::RestWant`]`>`; items as of [`Request::Read`], but only what the target does not have → `()`.
    ReadRest {
        /// The tree's root.
        root: BytePath,
    },
    /// Uploads: `Vec<`[`super::ReadWant`]`>`; items: [`super::Blocks`], one for each → `()`.
    Blocks {
        /// The tree's root.
        root: BytePath,
    },
    /// Uploads: `Vec<`[`super::BlocksWant`]`>`; items as of [`Request::Read`], or of [`Request::ReadLive`] outside of read-only
    /// snapshots, but only what differs, and [`super::StreamFrame::Hole`] and [`super::StreamFrame::Same`] → `()`.
    ReadBlocks {
        /// The tree's root.
        root: BytePath,
    },
    /// Makes or removes a nested subvolume; only for the holder of the lock → `bool`, whether it is done.
    Nested(super::NestedOrder),
    /// Uploads: `Vec<`[`super::ReadWant`]`>`; items: `Vec<`[`super::Since`]`>`, how each file stands to the one at its path in an
    /// older snapshot; those of which the trees do not tell are left out → `()`.
    Since {
        /// The tree's root.
        root: BytePath,
        /// The same root in the older snapshot.
        base: BytePath,
    },
    /// As [`Request::ReadDelta`], but nothing else is read than what is sent, and the digest is of that alone.
    ReadRanges {
        /// The tree's root.
        root: BytePath,
        /// The same root in the older snapshot.
        base: BytePath,
    },
    /// Uploads: `Vec<`[`super::ReadWant`]`>`; items: `(`[`super::Ranges`]`, [u8; 32])`, what changed in each file and the digest of
    /// that alone; those of which the trees do not tell are left out → `()`.
    Ranges {
        /// The tree's root.
        root: BytePath,
        /// The same root in the older snapshot.
        base: BytePath,
    },
    /// Uploads: `Vec<`[`super::Ranges`]`>`; items: `Vec<(u32, [u8; 32])>`, the digest of these ranges alone of each file that
    /// is elsewhere as it is in the older snapshot; others are left out → `()`.
    Reread {
        /// The tree's root.
        root: BytePath,
        /// The same root in the older snapshot.
        base: BytePath,
    },
    /// Takes up snapshots that are in no set → [`super::Adopted`].
    Adopt(super::AdoptRequest),
    /// Arms the dead man, confirms a sync or takes it back → [`super::DeadmanState`].
    Deadman(super::DeadmanOrder),
    /// Hands directories of a set over through a socket → `Vec<`[`super::HeldDirectory`]`>`: those that were asked for, and the
    /// mounts and subvolumes below them.
    Held(super::HeldRequest),
    /// As [`Request::Walk`], but of each directory only what it can be compared by is told. Items:
    /// [`super::DirDigests`] → [`super::WalkSummary`].
    Digests(WalkRequest),
    /// Does something about boot protection → [`super::BootLook`].
    Boot {
        /// Where snapshots lie.
        snapshot_dir: BytePath,
        /// What is to be done.
        order: super::BootOrder,
    },
    /// Looks what the file system of the snapshots holds → [`super::Holdings`].
    Holdings(super::HoldingsRequest),
    /// Removes a volume that is marked as ours and that no set names; only for the holder of the lock → `()`.
    DeleteVolume(super::VolumeRequest),
}

impl Request {
    /// Returns the call's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Facts => "facts",
            Request::Lock(_) => "lock",
            Request::Layout(_) => "layout",
            Request::Space(_) => "space",
            Request::TakeSet(_) => "take-set",
            Request::CheckSet(_) => "check-set",
            Request::DropSet(_) => "drop-set",
            Request::Walk(_) => "walk",
            Request::Digests(_) => "digests",
            Request::Changed(_) => "changed",
            Request::List(_) => "list",
            Request::Read { .. } => "read",
            Request::Digest { .. } => "digest",
            Request::Apply(_) => "apply",
            Request::Redo { .. } => "redo",
            Request::StateGet(_) => "state-get",
            Request::StateList(_) => "state-list",
            Request::StatePut(..) => "state-put",
            Request::HistoryPut(_) => "history-put",
            Request::Exec(_) => "exec",
            Request::PutFile(_) => "put-file",
            Request::Activate(_) => "activate",
            Request::HistoryList(_) => "history-list",
            Request::Diagnose => "diagnose",
            Request::Writers(_) => "writers",
            Request::Unchanged { .. } => "unchanged",
            Request::Delta { .. } => "delta",
            Request::ReadDelta { .. } => "read-delta",
            Request::Sets(_) => "sets",
            Request::DeleteSet(_) | Request::DeleteSets(_) => "delete-set",
            Request::PinSet(_) => "pin-set",
            Request::WalkKept { .. } => "walk-kept",
            Request::Kept(_) => "kept",
            Request::CheckKept(_) => "check-kept",
            Request::ReadLive { .. } => "read-live",
            Request::CreateSet(_) => "create-set",
            Request::Export(_) => "export",
            Request::Import(_) => "import",
            Request::HasAll(_) => "has-all",
            Request::AnnotateSet(_) => "annotate-set",
            Request::GoodSet { .. } => "good-set",
            Request::Verify(_) => "verify",
            Request::Restore(_) => "restore",
            Request::Versions(_) => "versions",
            Request::Diff(_) => "diff",
            Request::Gains(_) => "gains",
            Request::Moved(_) => "moved",
            Request::Undo(_) => "undo",
            Request::Rollback(_) => "rollback",
            Request::Settle(..) => "settle",
            Request::Shares(_) => "shares",
            Request::ReadRest { .. } => "read-rest",
            Request::Blocks { .. } => "blocks",
            Request::ReadBlocks { .. } => "read-blocks",
            Request::Nested(_) => "nested",
            Request::Since { .. } => "since",
            Request::ReadRanges { .. } => "read-ranges",
            Request::Ranges { .. } => "ranges",
            Request::Reread { .. } => "reread",
            Request::Adopt(_) => "adopt",
            Request::Deadman(_) => "deadman",
            Request::Held(_) => "held",
            Request::Boot { .. } => "boot",
            Request::Holdings(_) => "holdings",
            Request::DeleteVolume(_) => "delete-volume",
        }
    }
}

/// The sort of an agent's refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentErrorKind {
    /// It could not be done.
    Failed,
    /// The disk is full.
    NoSpace,
    /// The caller cancelled.
    Cancelled,
    /// The caller broke a rule of the protocol.
    Protocol,
    /// The time limit passed.
    Timeout,
}

/// Why an agent did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// The sort.
    pub kind: AgentErrorKind,
    /// What failed on what: a lower-case fragment without a period.
    pub message: String,
}

impl AgentError {
    /// Makes an error of kind [`AgentErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: AgentErrorKind::Failed, message: message.into() }
    }

    /// Makes an error of kind [`AgentErrorKind::Protocol`].
    pub fn protocol(message: impl Into<String>) -> Self {
        Self { kind: AgentErrorKind::Protocol, message: message.into() }
    }

    /// Makes the error of a cancelled call.
    pub fn cancelled() -> Self {
        Self { kind: AgentErrorKind::Cancelled, message: "cancelled".into() }
    }

    /// Makes an error of a failed system call on `what`; ENOSPC and EDQUOT become [`AgentErrorKind::NoSpace`].
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => AgentErrorKind::NoSpace,
            _ => AgentErrorKind::Failed,
        };
        Self { kind, message: format!("{what}: {error}") }
    }

    /// Returns the error as callers of a machine see it.
    pub fn into_exec(self, hostname: &Hostname, what: &str) -> ExecError {
        let (hostname, what) = (hostname.to_string(), what.to_owned());
        match self.kind {
            AgentErrorKind::Failed => ExecError::Failed { hostname, what, why: self.message },
            AgentErrorKind::NoSpace => ExecError::NoSpace { hostname, what: without_its_word(&self.message) },
            AgentErrorKind::Cancelled => ExecError::Cancelled,
            AgentErrorKind::Protocol => ExecError::Protocol { hostname, why: self.message },
            AgentErrorKind::Timeout => ExecError::Failed { hostname, what, why: self.message },
        }
    }
}

/// Takes out of a message what the error that it becomes says by itself.
fn without_its_word(message: &str) -> String {
    let word = |number| format!(": {}", std::io::Error::from_raw_os_error(number));
    message.replace(&word(libc::ENOSPC), "").replace(&word(libc::EDQUOT), ", where the quota is used up")
}

impl From<rustix::io::Errno> for AgentError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::io("the system refused", &error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_once() {
        let said = |number| {
            let error = AgentError::io("staging of `/home/a/f`", &std::io::Error::from_raw_os_error(number));
            error.into_exec(&"desk".parse().unwrap(), "apply").to_string()
        };
        assert_eq!(said(libc::ENOSPC), "desk: staging of `/home/a/f`: no space left on the disk");
        let quota = "desk: staging of `/home/a/f`, where the quota is used up: no space left on the disk";
        assert_eq!(said(libc::EDQUOT), quota);
    }
}
