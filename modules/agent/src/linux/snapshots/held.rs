//! Hands directories of a set over to whoever asks.
//!
//! Nobody but root gets into the snapshot directory. So the directory itself goes through a socket, opened with the access
//! rights of the person who asked; what lies below it that person's process reads under the kernel's own eyes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use pc_switcher_contract::{BytePath, SnapshotSet};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};

use super::check_member;
use super::opened::is_archive;
use super::reference::Reference;
use super::store::Store;
use crate::data::restore::directory;
use crate::linux::caller::Person;
use crate::linux::mounts::Mounts;
use crate::proto::{AgentError, HeldDirectory, HeldRequest};

/// Directories that are handed over at once: as many as a socket takes before anybody reads from it.
const MOST: usize = 128;
/// How long a socket may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(10);

impl Store<'_> {
    /// Hands over what the set holds of the directories asked for, and of the mounts and subvolumes below them.
    ///
    /// # Errors
    /// If there is no such set, or the socket does not take them.
    pub(super) fn hand_over(
        &self,
        mounts: &Mounts,
        request: &HeldRequest,
    ) -> Result<Vec<HeldDirectory>, AgentError> {
        let person = Person::find(request.uid)?;
        let id = &request.id;
        let set = self.readable(id)?;
        let _reference = Reference::take(&self.sidecar(id))
            .map_err(|error| AgentError::io(format!("cannot hold set `{id}`"), &error))?
            .ok_or_else(|| AgentError::failed(format!("set `{id}` is being removed")))?;
        let mut todo: VecDeque<BytePath> = request.paths.iter().cloned().collect();
        let (mut found, mut open): (Vec<HeldDirectory>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
        while let Some(path) = todo.pop_front() {
            if found.iter().any(|one| one.path == path) {
                continue;
            }
            let opened = match open.len() < MOST {
                true => self.open_held(mounts, &set, &person, &path),
                false => Err(AgentError::failed(format!("{MOST} directories of the set are open already"))),
            };
            let lacking = match opened {
                Ok((directory, below)) => {
                    open.push(directory);
                    todo.extend(below);
                    None
                }
                Err(error) => Some(error.message),
            };
            found.push(HeldDirectory { path, lacking });
        }
        if !open.is_empty() {
            person.act(|| send(&request.socket, request.uid, &open))?;
        }
        Ok(found)
    }

    /// Opens a directory in the set, and returns what below it is none of its subvolume's.
    fn open_held(
        &self,
        mounts: &Mounts,
        set: &SnapshotSet,
        person: &Person,
        path: &BytePath,
    ) -> Result<(OwnedFd, Vec<BytePath>), AgentError> {
        if let Some(other) = mounts.holding(path).filter(|mount| !mount.is_btrfs()) {
            return Err(AgentError::failed(format!("it lies on {}", other.fs_type)));
        }
        let lacks = || AgentError::failed(format!("set `{}` does not hold it", set.id()));
        let spot = self.spots(mounts, std::slice::from_ref(path), Some(set))?.pop().ok_or_else(lacks)?;
        let member = set.member(&spot.subvolume).ok_or_else(lacks)?;
        check_member(self.btrfs, member).map_err(AgentError::failed)?;
        if is_archive(member) {
            return Err(AgentError::failed(format!("set `{}` is packed", set.id())));
        }
        let root = self.member_of(set, &spot).ok_or_else(lacks)?;
        let opened = person.act(|| directory(&spot.source(&root)))?.ok_or_else(lacks)?;
        let below = spot.holds.into_iter().filter(|below| *below != spot.real).collect();
        Ok((opened, below))
    }
}

/// Sends open directories, one after the other, to whoever listens there as this user.
fn send(socket: &str, uid: u32, open: &[OwnedFd]) -> Result<(), AgentError> {
    let failed = |error: io::Error| AgentError::io("cannot hand directories of the set over", &error);
    let address =
        SocketAddrUnix::new_abstract_name(socket.as_bytes()).map_err(|error| failed(error.into()))?;
    let kernel = |error: rustix::io::Errno| failed(error.into());
    let stream =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(kernel)?;
    // Before the connection, which waits as well where others keep the listener busy.
    set_socket_timeout(&stream, Timeout::Send, Some(PATIENCE)).map_err(kernel)?;
    connect(&stream, &address).map_err(kernel)?;
    let listener = socket_peercred(&stream).map_err(kernel)?.uid;
    if !listener.is_root() && listener.as_raw() != uid {
        return Err(AgentError::failed(
            "somebody else listens where directories of the set are to be handed over",
        ));
    }
    for one in open {
        let one = [one.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&one));
        sendmsg(&stream, &[IoSlice::new(b"d")], &mut control, SendFlags::NOSIGNAL)
            .map_err(|error| failed(error.into()))?;
    }
    Ok(())
}
