//! Reading content on the source, staging and committing it on the target.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SessionId, SnapshotSet};

use super::coded::Coding;
use super::fs::{FileTime, Meta};
use super::refused::Refusals;
use super::request::AgentError;
use super::share::{CloneFrom, CloneRange};

/// One file wanted from the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadWant {
    /// The number its content travels under.
    pub content: u32,
    /// Its path relative to the tree's root.
    pub path: BytePath,
}

/// A piece of a file. Pieces of one file come in order; holes are simply not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The file's number.
    pub content: u32,
    /// Where the bytes belong.
    pub offset: u64,
    /// The bytes; empty only in a last piece.
    #[serde(with = "byte_vec")]
    pub data: Vec<u8>,
    /// In the last piece: the file's size and the BLAKE3 digest of its content, holes read as zeros.
    pub last: Option<(u64, [u8; 32])>,
}

/// What travels from the source's agent through the front to the target's agent. A frame of [`StreamFrame::Content`] is
/// passed on without being decoded, so this one type serves both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamFrame {
    /// Pieces of one or more files, at most about 256 KiB together.
    Content(Vec<Piece>),
    /// Source to front: this file could not be read.
    Unreadable {
        /// The file's number.
        content: u32,
        /// The system's word.
        why: String,
    },
    /// Front to target: steps, in the order in which they are committed. A step stands before its content.
    Ops {
        /// Index into [`ApplyRequest::parts`].
        part: u16,
        /// The steps, at most [`super::MOST`].
        #[serde(deserialize_with = "super::few")]
        ops: Vec<Op>,
    },
    /// Front to target: all has been sent, commit.
    Commit {
        /// How many steps were sent.
        ops: u64,
        /// How many contents the steps have.
        contents: u64,
    },
    /// A range of a [`Body::Patched`] file that is a hole now.
    Hole {
        /// The file's number.
        content: u32,
        /// Where it begins.
        at: u64,
        /// Where it ends.
        end: u64,
    },
    /// Source to front, out of a live tree: files that were whole when they were read, each with the version it was. Others
    /// changed or went meanwhile.
    Whole(#[serde(deserialize_with = "super::few")] Vec<(u32, Identity)>),
    /// Front to target: content follows whose steps come later, if they come. Not after the first steps.
    Ahead {
        /// Index into [`ApplyRequest::parts`] of the part that it is for.
        part: u16,
    },
    /// Front to target: ranges of a [`Body::Built`] file, before its pieces.
    Clones {
        /// The file's number.
        content: u32,
        /// What they are made of.
        from: CloneFrom,
        /// The ranges.
        #[serde(deserialize_with = "super::few")]
        ranges: Vec<CloneRange>,
    },
    /// Front to target: all content that has begun is whole; files may be made of it from here on.
    Settled,
    /// Source to front: so many more bytes need not be sent.
    Same(u64),
    /// Front to target: what comes of this content, ahead of its step, goes over a clone of what stands there.
    Over {
        /// The file's number.
        content: u32,
        /// Where it stands, relative to the part's root.
        path: BytePath,
        /// What stands there.
        expected: Identity,
    },
    /// Front to target: a frame of [`StreamFrame::Content`], compressed for a slow link; see [`super::unpack`].
    Packed {
        /// Bytes of the encoded pieces.
        plain: u32,
        /// The encoded pieces as one frame of zstd.
        #[serde(with = "byte_vec")]
        data: Vec<u8>,
    },
    /// As [`StreamFrame::Content`], with pieces that are compressed as they were on the source's disk.
    Coded {
        /// Bytes of content that the pieces stand for.
        plain: u32,
        /// How pieces are compressed; those that it does not name are not.
        #[serde(deserialize_with = "super::few")]
        codings: Vec<Coding>,
        /// The pieces.
        pieces: Vec<Piece>,
    },
    /// Front to target, before what it is said of: what goes over versions that stand in this part is made of those in a
    /// read-only snapshot, where nobody changes them meanwhile.
    Sealed {
        /// Index into [`ApplyRequest::parts`].
        part: u16,
        /// The part's root in the snapshot.
        root: BytePath,
    },
    /// Before the first piece of a file that is sent whole: it is written without copy-on-write on the source.
    InPlace {
        /// The file's number.
        content: u32,
    },
    /// Source to front, of a file that is sent whole: `chattr` protects it there.
    Frozen {
        /// The file's number.
        content: u32,
    },
}

/// The first bytes of [`StreamFrame::Packed`], [`StreamFrame::Coded`] and [`StreamFrame::InPlace`].
const PACKED: u8 = 11;
const CODED: u8 = 12;
const IN_PLACE: u8 = 14;

impl StreamFrame {
    /// Whether an encoded frame holds content or a hole, or says how content is written; told by its first byte.
    pub fn is_content(encoded: &[u8]) -> bool {
        matches!(encoded.first(), Some(&(0 | 4 | CODED | IN_PLACE)))
    }

    /// Whether an encoded frame is content, or content that is packed.
    pub fn is_bulk(encoded: &[u8]) -> bool {
        Self::is_content(encoded) || encoded.first() == Some(&PACKED)
    }

    /// Returns how many bytes of content an encoded frame stands for, about.
    pub fn plain_len(encoded: &[u8]) -> u64 {
        let said = match encoded.split_first() {
            Some((&CODED, rest)) => {
                postcard::take_from_bytes::<u32>(rest).ok().map(|(plain, _)| plain.into())
            }
            _ => None,
        };
        said.unwrap_or(encoded.len() as u64)
    }
}

/// What a path was when the plan was made; another identity at commit means somebody touched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Inode number.
    pub ino: u64,
    /// Last change of the inode.
    pub ctime: FileTime,
    /// Last change of the content.
    pub mtime: FileTime,
    /// Size.
    pub size: u64,
}

/// What a new name holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A regular file.
    File {
        /// The number of its content.
        content: u32,
        /// Its size, holes included.
        size: u64,
    },
    /// A symbolic link to this target.
    Symlink(BytePath),
    /// A named pipe.
    Fifo,
    /// A directory, empty so far.
    Dir,
    /// A regular file that is made of the version which it replaces: only the ranges that differ are sent.
    Patched {
        /// The number of its content.
        content: u32,
        /// Its size, holes included.
        size: u64,
    },
    /// A directory that is brought in empty and filled by later steps: something that is there moves into it.
    Bare,
    /// A regular file that is made of ranges of other files; only the rest is sent.
    Built {
        /// The number of its content.
        content: u32,
        /// Its size, holes included.
        size: u64,
    },
    /// As [`Body::Patched`], of a version in a read-only snapshot that is proven to be what the source had: the digest is of
    /// the ranges that differ alone.
    Proven {
        /// The number of its content.
        content: u32,
        /// Its size, holes included.
        size: u64,
    },
}

/// One step of the commit. Paths are relative to the part's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Puts a new inode at the path. Below a directory that is itself new it is built in place inside the staged directory.
    Put {
        /// Where.
        path: BytePath,
        /// What.
        body: Body,
        /// With which metadata.
        meta: Meta,
        /// What stands there now; `None` if nothing may stand there.
        replaces: Option<Identity>,
    },
    /// Makes the path another name of `to`, which exists already or was put by an earlier step.
    Link {
        /// The new name.
        path: BytePath,
        /// A name of the same inode.
        to: BytePath,
        /// What stands there now.
        replaces: Option<Identity>,
    },
    /// Removes a name that is no directory.
    Remove {
        /// Where.
        path: BytePath,
        /// What stands there now.
        expect: Identity,
    },
    /// Removes a directory; kept and reported if it is not empty.
    RemoveDir {
        /// Where.
        path: BytePath,
    },
    /// Sets all metadata of what stands there.
    SetMeta {
        /// Where.
        path: BytePath,
        /// The metadata.
        meta: Meta,
        /// What stands there now; `None` if that does not matter.
        expect: Option<Identity>,
    },
    /// Sets the metadata of a directory; the time in any case, since it changes with its entries. These steps come last, deepest
    /// first; the root's own is done after staging is gone.
    SetDir {
        /// Where.
        path: BytePath,
        /// The metadata.
        meta: Meta,
        /// What becomes of its owner, mode and attributes.
        rights: Rights,
    },
    /// Moves what stands at `from`, or what an earlier [`Op::Aside`] took away, a directory with all below it.
    Move {
        /// Where to.
        path: BytePath,
        /// Where it stands when the step is done; steps before may have moved a directory above it.
        from: BytePath,
        /// What is moved.
        expect: Identity,
        /// What stands at the path now, which is no directory.
        replaces: Option<Identity>,
    },
    /// Exchanges what stands at two paths.
    Swap {
        /// The one path.
        path: BytePath,
        /// The other one.
        with: BytePath,
        /// What stands at the one path.
        expect: Identity,
        /// What stands at the other one.
        other: Identity,
    },
    /// Takes away what is in the way of a move until a later [`Op::Move`] of the same inode brings it to its place.
    Aside {
        /// Where.
        path: BytePath,
        /// What stands there.
        expect: Identity,
    },
}

/// What is known of owner, mode and attributes of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rights {
    /// They are what they are to be; if they are not any more, somebody changed them, and they stay.
    Same,
    /// They are those of this metadata, and are to become others; if they are not any more, somebody changed them, and they stay.
    Were(Box<Meta>),
}

/// A part's root on the target, live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRoot {
    /// Absolute path of the root, in the running system.
    pub root: BytePath,
    /// The uuid of the subvolume it must lie on; empty where there is no btrfs.
    pub subvolume_uuid: String,
}

/// Opens a call that stages and then commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// The session, for the names of staging and journal.
    pub session: SessionId,
    /// Where things go.
    pub parts: Vec<PartRoot>,
    /// The target's pre set; the list of steps is kept with it.
    pub pre_set: Option<SnapshotSet>,
}

/// News while applying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyNews {
    /// Everything is on the disk in staging; the commit record is written. From here on the agent finishes alone.
    Staged,
    /// Steps committed so far.
    Committed(u64),
}

/// A path that was left as it is because somebody changed it after the plan was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The absolute path.
    pub path: BytePath,
    /// What was found.
    pub why: String,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyReport {
    /// Steps done.
    pub done: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Paths left alone.
    pub conflicts: Vec<Conflict>,
    /// Directories that should have gone but hold something.
    pub kept: Vec<BytePath>,
    /// What else a person should know.
    pub warnings: Vec<String>,
    /// Attributes that the file system does not hold.
    pub refused: Refusals,
    /// Why some steps could not be done. Each path is old or new; a redo tries the rest once more.
    pub failed: Option<AgentError>,
}

/// What becomes of a session that was cut off and cannot be finished now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Patience {
    /// It stays for another time.
    TryAgainLater,
    /// A sync is about to compare everything anew: it is given up, so that nothing of it is in the way.
    GiveUp,
}

/// How a session that was cut off was brought to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedoneHow {
    /// It had not been committed: what it had staged is gone, nothing had changed.
    Dropped,
    /// It had been committed: all its steps are done now.
    Finished,
    /// It had been committed and could not be finished: each path is old or new, and the next sync compares everything.
    GivenUp(String),
    /// It had been committed and cannot be finished yet; it is tried again.
    Pending(String),
}

/// What became of a session that was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redone {
    /// The session.
    pub session: SessionId,
    /// How it ended.
    pub how: RedoneHow,
    /// What was left alone, kept and noted, if steps were redone.
    pub report: ApplyReport,
}

impl Redone {
    /// Returns the key of the machine state under which it waits to be told.
    pub fn key(&self) -> String {
        format!("redone/{}", self.session)
    }

    /// Returns what a person should know.
    pub fn explain(&self) -> String {
        let session = &self.session;
        match &self.how {
            RedoneHow::Dropped => format!(
                "sync {session} was cut off before it changed anything; what it had staged is removed"
            ),
            RedoneHow::Finished => {
                format!("sync {session} was cut off while it committed; the commit is finished now")
            }
            RedoneHow::GivenUp(why) => format!(
                "sync {session} was cut off while it committed and could not be finished ({why}): each path is its old or its \
                 new version, and the next sync compares everything"
            ),
            RedoneHow::Pending(why) => {
                format!(
                    "sync {session} was cut off while it committed and cannot be finished yet ({why}); the next sync tries again"
                )
            }
        }
    }
}

/// Bytes as one run instead of a sequence of numbers.
mod byte_vec {
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(data)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<Vec<u8>, E> {
                Ok(value.to_vec())
            }
            fn visit_borrowed_bytes<E: serde::de::Error>(self, value: &'de [u8]) -> Result<Vec<u8>, E> {
                Ok(value.to_vec())
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{decode, encode};

    #[test]
    fn content_is_told_by_its_first_byte() {
        let piece = Piece { content: 7, offset: 0, data: vec![1, 2, 3], last: Some((3, [0; 32])) };
        let content = encode(&StreamFrame::Content(vec![piece]));
        let commit = encode(&StreamFrame::Commit { ops: 0, contents: 0 });
        assert!(StreamFrame::is_content(&content) && !StreamFrame::is_content(&commit));
        let coded = StreamFrame::Coded { plain: 77_000, codings: Vec::new(), pieces: Vec::new() };
        let coded = encode(&coded);
        assert!(StreamFrame::is_content(&encode(&StreamFrame::InPlace { content: 7 })));
        assert!(StreamFrame::is_content(&coded));
        assert_eq!(StreamFrame::plain_len(&coded), 77_000);
        assert_eq!(StreamFrame::plain_len(&content), content.len() as u64);
        assert!(matches!(decode(&content), Ok(StreamFrame::Content(pieces)) if pieces[0].data == [1, 2, 3]));
    }
}
