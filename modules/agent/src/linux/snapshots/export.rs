//! Sets as streams: out of a set of any kind, and in as a set of copies.
//!
//! The stream is one of [`RollWriter`]: first a head that says of what set it is and of which directories, then a tree for each
//! of them, and at the end the digest of all. What came in is published when that digest was right, and not before.

use std::io::{self, BufWriter, Read, Write};
use std::time::Duration;

use pc_switcher_contract::{
    BytePath, Hostname, SessionId, SetId, SnapshotKind, SnapshotMember, SnapshotName, SnapshotSet,
    SubvolumeName, UtcStamp,
};
use rustix::fs::syncfs;
use serde::{Deserialize, Serialize};

use super::nursery::{Lasts, Nursery};
use super::reference::Reference;
use super::set::{Published, copied, publish};
use super::sidecar::{Planned, Said};
use super::store::Store;
use super::{check_member, machine};
use crate::data::trees::{Came, Damaged, Form, Inventory, RollReader, RollWriter, read_tree, send_tree};
use crate::linux::finder::Finder;
use crate::linux::mounts::Mounts;
use crate::linux::trees::{FROM_ELSEWHERE, list_of, make_root, uuid_of};
use crate::proto::{AgentError, ExportRequest, ImportRequest, Imported, SubvolumeFact, Words};
use crate::server::Call;

/// What a stream begins with.
const MAGIC: &[u8; 8] = b"pcs-set1";
/// The kind of the first frame.
const HEAD: u8 = 16;
/// The format that this program writes.
const FORMAT: u32 = 1;
/// Bytes of the stream that travel together.
const PIECE: usize = 256 << 10;
/// For so long is waited for whoever takes or removes sets when all is there.
const PATIENCE: Duration = Duration::from_secs(600);
/// Longest note of a set.
const NOTE: usize = 500;

/// Of what set a stream is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    format: u32,
    hostname: Hostname,
    kind: SnapshotKind,
    stamp: UtcStamp,
    session: SessionId,
    name: Option<String>,
    note: Option<String>,
    tags: Vec<String>,
    /// By the names of copies of them.
    directories: Vec<SubvolumeName>,
}

/// Sends what is written as items of a call.
struct Outgoing<'a>(&'a Call);

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.item_raw(bytes).map_err(|_| io::Error::from_raw_os_error(libc::ECANCELED))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what a call sends up.
struct Incoming<'a> {
    call: &'a Call,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            let next = self.call.next_upload().map_err(|_| io::Error::from_raw_os_error(libc::ECANCELED))?;
            let Some(piece) = next else { return Ok(0) };
            (self.piece, self.at) = (piece, 0);
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Refuses everybody but root: a stream holds what is everybody's, and what comes in becomes everybody's.
fn only_root(uid: u32, what: &str) -> Result<(), AgentError> {
    match uid {
        0 => Ok(()),
        _ => Err(AgentError::failed(format!(
            "a set holds the files of everybody, so only root may {what} one: use `sudo`"
        ))),
    }
}

impl Store<'_> {
    /// Sends a set.
    ///
    /// # Errors
    /// If it is not root who asks, the set is not what was taken, or the caller gave up.
    pub(super) fn export(
        &self,
        mounts: &Mounts,
        request: &ExportRequest,
        call: &Call,
    ) -> Result<(), AgentError> {
        only_root(request.uid, "export")?;
        let id = &request.id;
        let mut meta = self.published(id)?;
        meta.set = self.with_pin(&meta);
        let _reference = Reference::take(&self.sidecar(id))
            .map_err(|error| AgentError::io(format!("cannot hold set `{id}`"), &error))?
            .ok_or_else(|| AgentError::failed(format!("set `{id}` is being removed")))?;
        let finder = self.finder(mounts)?;
        let mut directories = Vec::new();
        for member in &meta.set.members {
            check_member(self.btrfs, member).map_err(|why| {
                AgentError::failed(format!("nothing is exported of a set that is not what was taken: {why}"))
            })?;
            directories.push(directory_of(&finder, member)?);
        }
        let SnapshotSet { hostname, kind, stamp, session, .. } = meta.set.clone();
        let Words { name, note, tags, .. } = meta.words;
        let tags = tags.into_iter().collect();
        let head = Head { format: FORMAT, hostname, kind, stamp, session, name, note, tags, directories };
        let failed = |error: io::Error| stopped(format!("cannot export set `{id}`"), &error);
        let stop = || call.is_cancelled();
        let out = BufWriter::with_capacity(PIECE, Outgoing(call));
        let mut roll = RollWriter::new(out, MAGIC, request.level).map_err(failed)?;
        let head = serde_json::to_vec(&head).map_err(|error| AgentError::failed(error.to_string()))?;
        roll.frame(HEAD, &head).map_err(failed)?;
        for member in &meta.set.members {
            let root = self.opened(member, &BytePath::default(), &stop)?;
            send_tree(&root, &mut roll, &stop).map_err(|(path, error)| {
                stopped(format!("cannot export `{path}` in `{}`", member.path), &error)
            })?;
        }
        roll.finish().and_then(|mut out| out.flush()).map_err(failed)
    }

    /// Takes a set in.
    ///
    /// # Errors
    /// If the stream is damaged, there is such a set, or the disk is full. Nothing is left then.
    pub(super) fn import(&self, request: &ImportRequest, call: &Call) -> Result<Imported, AgentError> {
        only_root(request.uid, "import")?;
        let mut roll =
            RollReader::new(Incoming { call, piece: Vec::new(), at: 0 }, MAGIC).map_err(refused)?;
        let head = match roll.next().map_err(refused)? {
            Some((HEAD, body)) => read_head(&body)?,
            _ => return Err(refused(Damaged("it does not say of what set it is".into()))),
        };
        let Head { stamp, ref session, .. } = head;
        let kind = SnapshotKind::Manual;
        let id = SetId { stamp, session: session.clone(), kind };
        let sources: Vec<SubvolumeFact> =
            head.directories.iter().map(|name| copied(name, BytePath::default())).collect();
        let name = |subvolume: &SubvolumeName| SnapshotName {
            subvolume: subvolume.clone(),
            kind,
            stamp,
            session: session.clone(),
        };
        let planned = head.directories.iter().map(|directory| Planned {
            name: name(directory),
            source_uuid: uuid_of(directory).hex(),
            home: None,
        });
        let mut nursery = Nursery::open(self, self.lock()?, id.clone(), planned.collect(), Lasts::AtOnce)?;
        // A stream may take hours; what it makes is held by the reference meanwhile.
        nursery.let_go();
        (self.after)("streaming");
        let stop = || call.is_cancelled();
        let failed = |error: io::Error| stopped(format!("nothing was imported as set `{id}`"), &error);
        let (mut came, mut notes) = (Came::default(), Vec::new());
        for cradle in &nursery.cradles {
            let mut make = || {
                let root = make_root(&cradle.dir, &cradle.name, Form::Hardlink, FROM_ELSEWHERE)?;
                let mut inventory = Inventory::create(&list_of(self.dir(), &cradle.name))?;
                let (one, told) = read_tree(&mut roll, &root, &mut inventory, &stop)?;
                inventory.finish()?;
                syncfs(&root)?;
                came = Came { entries: came.entries + one.entries, bytes: came.bytes + one.bytes };
                let shown = cradle.name.subvolume.shown();
                notes.extend(told.into_iter().map(|note| format!("in the copy of `{shown}` {note}")));
                Ok(())
            };
            make().map_err(failed)?;
        }
        match roll.next() {
            Ok(None) => {}
            Ok(Some(_)) => return Err(refused(Damaged("it goes on behind its last tree".into()))),
            Err(damaged) => return Err(refused(damaged)),
        }
        (self.after)("came");
        nursery.lock_again(PATIENCE, &stop)?;
        let members: Vec<SnapshotMember> = match publish(self, &nursery.cradles, &sources, || Ok(()))? {
            Published::Whole(members) => members,
            Published::Touched(name) => {
                return Err(AgentError::failed(format!("`{name}` was written to as soon as it was made")));
            }
        };
        let hostname = machine::hostname()?;
        let set = SnapshotSet { hostname, kind, stamp, session: session.clone(), consistent: false, members };
        let said = Said { pinned: false, words: words(&head) };
        nursery
            .finish(&set, &said, None)
            .map_err(|error| AgentError::io("cannot publish what was imported", &error))?;
        Ok(Imported { set, entries: came.entries, bytes: came.bytes, notes })
    }
}

fn refused(damaged: Damaged) -> AgentError {
    AgentError::failed(format!("nothing was imported: {}", damaged.0))
}

fn stopped(what: String, error: &io::Error) -> AgentError {
    match error.raw_os_error() {
        Some(libc::ECANCELED) => AgentError::cancelled(),
        _ => AgentError::io(what, error),
    }
}

/// Returns what a copy of the directory would be called that a member is of.
fn directory_of(finder: &Finder<'_>, member: &SnapshotMember) -> Result<SubvolumeName, AgentError> {
    let subvolume = &member.name.subvolume;
    if subvolume.directory().is_some() {
        return Ok(subvolume.clone());
    }
    let place = finder.by_name(subvolume).map(|fact| fact.mount_point).ok_or_else(|| {
        AgentError::failed(format!(
            "cannot export `{}`: `{subvolume}` is mounted nowhere, so where its files belong is not known; mount it first",
            member.path
        ))
    })?;
    SubvolumeName::of_directory(&place).map_err(|error| AgentError::failed(error.to_string()))
}

fn read_head(body: &[u8]) -> Result<Head, AgentError> {
    let head: Head = serde_json::from_slice(body)
        .map_err(|error| refused(Damaged(format!("what it says of its set cannot be read: {error}"))))?;
    let mut names = head.directories.clone();
    names.sort();
    names.dedup();
    let is_right = head.format == FORMAT
        && !names.is_empty()
        && names.len() == head.directories.len()
        && names.iter().all(|name| name.directory().is_some());
    match is_right {
        true => Ok(head),
        false => Err(refused(Damaged("it is of a format that this version does not know".into()))),
    }
}

/// Returns what is said of a set that came in.
fn words(head: &Head) -> Words {
    let kind = head.kind.in_name();
    let from = format!("imported, {kind} of {} at {}", head.hostname, head.stamp);
    let plain = |text: &String| !text.chars().any(char::is_control);
    let note = match head.note.as_ref().filter(|note| plain(note) && note.len() + from.len() < NOTE) {
        Some(note) => format!("{note} ({from})"),
        None => from,
    };
    Words {
        name: head.name.clone().filter(|name| plain(name) && name.len() <= 32),
        note: Some(note),
        tags: head.tags.iter().filter(|tag| plain(tag) && tag.len() <= 32).cloned().collect(),
        ..Words::default()
    }
}
