//! Hands the files that a caller wants to a few threads.

use std::thread;

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use serde::de::DeserializeOwned;

use crate::proto::{AgentError, decode};
use crate::server::Call;

/// Wants that a thread takes at once: neighbours cost less together.
const CHUNK: usize = 16;
/// Chunks that may wait for a thread.
const WAITING: usize = 16;

/// Runs `worker` on `threads` threads, each with its end of one queue, until the uploads end.
pub(super) fn serve<W: DeserializeOwned + Send>(
    call: &Call,
    threads: usize,
    worker: impl Fn(&Receiver<Vec<W>>) -> Result<(), AgentError> + Sync,
) -> Result<(), AgentError> {
    let (send, recv) = bounded::<Vec<W>>(WAITING);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (recv, worker) = (recv.clone(), &worker);
                scope.spawn(move || worker(&recv))
            })
            .collect();
        drop(recv);
        let fed = feed(call, |chunk| send.send(chunk).is_ok());
        drop(send);
        let mut ended = fed;
        for worker in workers {
            let done = worker.join().unwrap_or_else(|_| Err(AgentError::failed("a reading thread panicked")));
            ended = ended.and(done);
        }
        ended
    })
}

/// Takes the next wants of a worker; calls `flush` before waiting for one and at the end, since the caller may wait for what
/// the worker holds back.
pub(super) fn next<W>(
    wants: &Receiver<Vec<W>>,
    flush: impl FnOnce() -> Result<(), AgentError>,
) -> Result<Option<Vec<W>>, AgentError> {
    match wants.try_recv() {
        Ok(chunk) => Ok(Some(chunk)),
        Err(TryRecvError::Disconnected) => flush().map(|()| None),
        Err(TryRecvError::Empty) => flush().map(|()| wants.recv().ok()),
    }
}

fn feed<W: DeserializeOwned>(call: &Call, mut take: impl FnMut(Vec<W>) -> bool) -> Result<(), AgentError> {
    while let Some(body) = call.next_upload()? {
        let mut wants: Vec<W> = decode(&body).map_err(AgentError::protocol)?;
        while !wants.is_empty() {
            let rest = wants.split_off(CHUNK.min(wants.len()));
            if !take(std::mem::replace(&mut wants, rest)) {
                return Ok(());
            }
        }
    }
    Ok(())
}
