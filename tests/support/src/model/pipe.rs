//! The pipes between a front and an agent that are threads of one process.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use pc_switcher_agent::frame::{Frame, FrameKind, HEAD, Head};
use pc_switcher_agent::proto::MAGIC;

use super::link::Shared;

/// What the agent reads.
pub(super) struct Inlet {
    chunks: Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Inlet {
    pub(super) fn new(chunks: Receiver<Vec<u8>>) -> Self {
        Self { chunks, rest: Vec::new() }
    }
}

impl Read for Inlet {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.recv() {
                Ok(chunk) => self.rest = chunk,
                Err(_) => return Ok(0),
            }
        }
        let len = self.rest.len().min(out.len());
        out[..len].copy_from_slice(&self.rest[..len]);
        self.rest.drain(..len);
        Ok(len)
    }
}

/// What the agent writes: whole frames are handed on at once.
pub(super) struct Outlet {
    bytes: Vec<u8>,
    is_greeted: bool,
    shared: Arc<Shared>,
}

impl Outlet {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { bytes: Vec::new(), is_greeted: false, shared }
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.is_greeted {
            self.is_greeted = true;
            self.bytes.drain(..MAGIC.len());
        }
        while let Some(head) = self.bytes.first_chunk::<HEAD>() {
            let head = Head::parse(head).map_err(io::Error::other)?;
            if self.bytes.len() < HEAD + head.len {
                break;
            }
            let rest = self.bytes.split_off(HEAD + head.len);
            let body = std::mem::replace(&mut self.bytes, rest).split_off(HEAD);
            let Frame { call, kind, body } = head.frame(body).map_err(io::Error::other)?;
            if kind != FrameKind::Hello {
                self.shared.deliver(call, kind, body);
            }
        }
        if self.shared.is_lost() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}
