//! A whole agent on a thread, behind real pipes, and just enough of a front.

use std::io::{PipeReader, PipeWriter};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::drive::state_of;
use crate::data::sent::Sent;
use crate::data::{apply, digest, read, walk};
use crate::frame::{self, Frame, FrameKind};
use crate::proto::{AgentError, AgentHello, FrontHello, MAGIC, PROTOCOL, Request, encode};
use crate::server::{Call, Services, serve};

struct Data;

impl Services for Data {
    fn hello(&self) -> AgentHello {
        AgentHello {
            protocol: PROTOCOL,
            version: "0".into(),
            hostname: "test".parse().unwrap(),
            machine_id: String::new(),
            uid: 0,
            pid: 0,
            digest: [0; 32],
        }
    }

    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError> {
        match request {
            Request::Walk(request) => walk::run(&request, call).map(|done| encode(&done)),
            Request::Read { root } => read::run(&root, call, &Sent::default()).map(|()| Vec::new()),
            Request::Digest { root } => digest::run(&root, call, &Sent::default()).map(|()| Vec::new()),
            Request::Apply(request) => {
                let state = state_of(request.parts[0].root.as_path());
                apply::run(&request, call, &state, &apply::Unwatched).map(|done| encode(&done))
            }
            other => Err(AgentError::protocol(other.name())),
        }
    }

    fn shut_down(&self) {}
}

/// Returns how an agent ends that a front greets with this protocol.
pub fn greeted(protocol: u32) -> Result<(), String> {
    let (input, mut to) = std::io::pipe().unwrap();
    let (from, output) = std::io::pipe().unwrap();
    let thread = std::thread::spawn(move || serve(Arc::new(Data), input, Box::new(output)));
    let hello = FrontHello { protocol, version: "0".into(), silence_seconds: 60, is_elsewhere: false };
    frame::write(&mut to, 0, FrameKind::Hello, &encode(&hello)).unwrap();
    drop(to);
    let ended = thread.join().unwrap();
    drop(from);
    ended
}

/// An agent with one call.
pub struct Agent {
    pub to: PipeWriter,
    pub from: PipeReader,
    pub thread: JoinHandle<Result<(), String>>,
}

impl Agent {
    pub fn open(request: &Request) -> Agent {
        let (input, mut to) = std::io::pipe().unwrap();
        let (mut from, output) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || serve(Arc::new(Data), input, Box::new(output)));
        std::io::Read::read_exact(&mut from, &mut vec![0; MAGIC.len()]).unwrap();
        let hello =
            FrontHello { protocol: PROTOCOL, version: "0".into(), silence_seconds: 60, is_elsewhere: false };
        frame::write(&mut to, 0, FrameKind::Hello, &encode(&hello)).unwrap();
        frame::write(&mut to, 1, FrameKind::Open, &encode(request)).unwrap();
        let mut agent = Agent { to, from, thread };
        assert_eq!(agent.next().unwrap().kind, FrameKind::Hello);
        agent
    }

    pub fn send(&mut self, kind: FrameKind, body: &[u8]) {
        frame::write(&mut self.to, 1, kind, body).unwrap();
    }

    pub fn next(&mut self) -> Option<Frame> {
        frame::read(&mut self.from).unwrap()
    }

    /// Reads until a frame of this kind comes.
    pub fn wait_for(&mut self, kind: FrameKind) -> Frame {
        loop {
            let frame = self.next().expect("the agent ended");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Drops the connection and waits until the agent has ended.
    pub fn hang_up(self) {
        drop((self.to, self.from));
        let _ = self.thread.join().unwrap();
    }
}
