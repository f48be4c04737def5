//! What agent and front say to each other, encoded with postcard.
//!
//! Both ends are the same build: the handshake refuses another protocol number, so these types may change freely
//! as long as [`PROTOCOL`] changes with them.

mod adopt;
mod apply;
mod blocks;
mod boot;
mod coded;
mod compare;
mod deadman;
mod diagnose;
mod few;
mod fs;
mod held;
mod hello;
mod host;
mod packed;
mod ranges;
mod refused;
mod request;
mod restore;
mod rollback;
mod share;
mod store;
mod stray;
mod system;
mod trial;
mod undo;
mod verify;

pub use adopt::{AdoptRequest, Adopted, Maker};
pub use apply::{
    ApplyNews, ApplyReport, ApplyRequest, Body, Conflict, Identity, Op, PartRoot, Patience, Piece, ReadWant,
    Redone, RedoneHow, Rights, StreamFrame,
};
pub use blocks::{Blocks, BlocksWant};
pub use boot::{BootCount, BootLook, BootOrder, BootTree, Counted, Fallback};
pub use coded::{Coding, LARGEST_EXTENT};
pub use compare::{Change, ChangeKind, DiffEnd, DiffRequest, Diffed, Version, Versions, VersionsRequest};
pub use deadman::{
    Armed, DeadmanOrder, DeadmanState, DeadmanWish, Healed, HealedHow, explain_on_another_disk,
};
pub use diagnose::{Diagnosis, Layers, LoginPath, Session, SwapFile, Writer, WritersRequest};
pub use few::MOST;
pub(crate) use few::few;
pub use fs::{
    ChangedDir, ChangedRequest, DirDigest, DirDigests, DirListing, Entry, FileTime, Kind, ListWant, Listings,
    Meta, Moved, Rule, RuleSet, Skip, SkipReason, Tree, WalkRequest, WalkSummary,
};
pub use held::{HeldDirectory, HeldRequest};
pub use hello::{AgentHello, FrontHello, MAGIC, PROTOCOL};
pub use host::{
    ActivateRequest, Activated, ExecItem, ExecRequest, FolderPart, ForeignMount, Layout, LayoutRequest,
    LockHolder, LockReply, LockRequest, MachineFacts, NestedOrder, OtherPlace, PutFile, SpaceReport,
    Standing, SubvolumeFact, TakeSet, UserFact,
};
pub use packed::{MOST_PLAIN, Packer, unpack};
pub use ranges::{ChangedRange, Ranges, Since};
pub use refused::{Refusals, RefusedAttribute};
pub use request::{AgentError, AgentErrorKind, Request};
pub use restore::{RestorePlace, RestoreReply, RestoreRequest, Restored};
pub use rollback::{
    Inside, Reached, RollbackLook, RollbackMember, RollbackOrder, RollbackPhase, RollbackState, RollbackWish,
    Together, TreeUser, TreeUsers, Waits, Way,
};
pub use share::{CloneFrom, CloneRange, Origin, RestWant, Share, Shares, SharesRequest};
pub use store::{
    AnnotateSet, Backend, CopyOrder, CreateSet, CreatedSet, DeleteRequest, ExportRequest, Gain, GoodBy,
    GoodMark, HardPin, Holder, Holdings, HoldingsRequest, ImportRequest, Imported, Need, PinOrder,
    PinRequest, SetRequest, SetsRequest, StoredSet, Strays, VolumeRequest, Words,
};
pub use stray::{StrayJournal, Unnamed};
pub use system::{PackageChange, PackageManager, Packages, System, SystemChange};
pub(crate) use trial::time;
pub use trial::{Returned, Trial, TrialBegan, TrialFor};
pub use undo::{UndoLine, UndoReport, UndoRequest, UndoWord, UndoneHow};
pub use verify::{Finding, Verified, VerifyRequest};

/// Encodes a message.
///
/// # Panics
/// Never for the types of this module: they hold no maps with unknown length and no unsupported types.
pub fn encode<T: serde::Serialize>(message: &T) -> Vec<u8> {
    match postcard::to_stdvec(message) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("protocol types always encode: {error}"),
    }
}

/// Decodes a message; the text of the error names the type.
pub fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|error| format!("not a {}: {error}", std::any::type_name::<T>()))
}
