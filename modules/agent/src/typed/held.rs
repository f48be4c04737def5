//! Directories of a set, taken over from the agent of this machine.

use std::fs::File;
use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use pc_switcher_contract::{BytePath, ExecError, SetId};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::geteuid;

use super::Agent;
use crate::proto::{HeldDirectory, HeldRequest, Request};

/// How long what was sent already may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory of a set.
#[derive(Debug)]
pub struct Held {
    /// Where it is now on the machine.
    pub path: BytePath,
    /// The directory in the set, opened with this user's access rights; why the set does not hold it.
    pub directory: Result<OwnedFd, String>,
}

impl Agent {
    /// Takes over directories of a set, with the mounts and subvolumes below them; only from the agent of this machine. What
    /// lies in them is read with the rights of this process.
    ///
    /// # Errors
    /// What the agent said, or that it handed over something else than it said.
    pub async fn held(
        &self,
        snapshot_dir: BytePath,
        id: SetId,
        paths: Vec<BytePath>,
    ) -> Result<Vec<Held>, ExecError> {
        let failed = |error: io::Error| self.broken(format!("no directories come from it: {error}"));
        let (socket, listener) = listen().map_err(failed)?;
        let request = HeldRequest { snapshot_dir, id, paths, uid: geteuid().as_raw(), socket };
        let found: Vec<HeldDirectory> = self.call(&Request::Held(request)).await?;
        let count = found.iter().filter(|one| one.lacking.is_none()).count();
        // All of them wait in the socket by now.
        let mut directories = receive(&listener, count).map_err(failed)?.into_iter();
        let held = |one: HeldDirectory| {
            let directory = match one.lacking {
                Some(why) => Err(why),
                None => directories.next().ok_or_else(|| "it did not arrive".to_owned()),
            };
            Held { path: one.path, directory }
        };
        Ok(found.into_iter().map(held).collect())
    }
}

/// Listens under a name that nobody can know.
pub(crate) fn listen() -> io::Result<(String, UnixListener)> {
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let name = format!("pc-switcher-held-{:032x}", u128::from_ne_bytes(random));
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    listener.set_nonblocking(true)?;
    Ok((name, listener))
}

/// Receives so many open directories.
pub(crate) fn receive(listener: &UnixListener, count: usize) -> io::Result<Vec<OwnedFd>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let stream = accept(listener)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut all = Vec::new();
    while all.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut mark = [0];
        let received =
            recvmsg(&stream, &mut [IoSliceMut::new(&mut mark)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let before = all.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(directories) = message {
                all.extend(directories);
            }
        }
        if received.bytes == 0 || all.len() == before {
            return Err(io::Error::other(format!("{before} of {count} directories arrived")));
        }
    }
    Ok(all)
}

/// Accepts the agent: whoever else knocks is neither root nor this user.
fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept()?;
        let peer = socket_peercred(&stream)?.uid;
        if peer.is_root() || peer == geteuid() {
            return Ok(stream);
        }
    }
}
