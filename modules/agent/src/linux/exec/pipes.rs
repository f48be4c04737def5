//! A command's input and output, never waited for: what is ready is moved.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;

use crate::proto::ExecItem;
use crate::server::Call;

/// Bytes of one item.
const CHUNK: usize = 64 << 10;

pub(super) struct Pipes<'a> {
    stdin: Option<ChildStdin>,
    rest: &'a [u8],
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl<'a> Pipes<'a> {
    pub(super) fn of(child: &mut Child, input: &'a [u8]) -> Self {
        let mut pipes = Self {
            stdin: child.stdin.take(),
            rest: input,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
        };
        // Our ends alone: each end of a pipe has flags of its own.
        let fds = [
            pipes.stdin.as_ref().map(AsFd::as_fd),
            pipes.stdout.as_ref().map(AsFd::as_fd),
            pipes.stderr.as_ref().map(AsFd::as_fd),
        ];
        for fd in fds.into_iter().flatten() {
            let _ = rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK);
        }
        pipes.feed();
        pipes
    }

    pub(super) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = Vec::with_capacity(4);
        fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(self.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds
    }

    /// Moves what is ready once; whether anything was.
    pub(super) fn turn(&mut self, call: &Call) -> bool {
        self.feed();
        let out = pump(&mut self.stdout, |bytes| call.item(&ExecItem::Stdout(bytes)).is_ok());
        let err = pump(&mut self.stderr, |bytes| call.item(&ExecItem::Stderr(bytes)).is_ok());
        out || err
    }

    /// Moves what the command has left in its output; never waits for one who still holds the other end.
    pub(super) fn drain(&mut self, call: &Call) {
        self.stdin = None;
        while !call.is_cancelled() && self.turn(call) {}
    }

    fn feed(&mut self) {
        while let Some(pipe) = &mut self.stdin {
            if self.rest.is_empty() {
                self.stdin = None;
                return;
            }
            match pipe.write(self.rest) {
                Ok(count) => self.rest = &self.rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The command does not want any more.
                Err(_) => self.stdin = None,
            }
        }
    }
}

/// Reads once; the pipe is dropped at its end. When nobody takes the bytes they are dropped, so the command goes on.
fn pump<R: Read>(pipe: &mut Option<R>, take: impl FnOnce(Vec<u8>) -> bool) -> bool {
    let Some(open) = pipe else { return false };
    let mut bytes = vec![0; CHUNK];
    match open.read(&mut bytes) {
        Ok(0) => *pipe = None,
        Ok(count) => {
            bytes.truncate(count);
            return take(bytes);
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(_) => *pipe = None,
    }
    false
}
