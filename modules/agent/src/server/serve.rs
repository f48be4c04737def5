//! The agent's main loop.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::call::{Call, CallState, Outlet, fitting, guard};
use crate::frame::{self, Frame, FrameKind, Packer, WINDOW};
use crate::proto::{AgentError, AgentHello, FrontHello, MAGIC, PROTOCOL, Request, decode, encode};

/// How long a commit past its record may go on after the front is gone.
const COMMIT_LIMIT: Duration = Duration::from_secs(300);

/// How [`serve`] ends when nothing was heard from the front for too long.
pub const SILENT: &str = "the front fell silent";

/// What an agent does: the real one on a machine, or a model in tests.
pub trait Services: Send + Sync + 'static {
    /// Returns what the agent says first.
    fn hello(&self) -> AgentHello;
    /// Answers one call; the bytes are the encoded answer.
    ///
    /// # Errors
    /// Whatever went wrong, for the front.
    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError>;
    /// Ends everything that calls have started; called once, when the front is gone.
    fn shut_down(&self);
}

/// Serves one front until its stream ends or `silence` passes without a byte. `input` must return
/// [`std::io::ErrorKind::TimedOut`] when that happens.
///
/// # Errors
/// If the front says something that is no frame or speaks another protocol.
pub fn serve(
    services: Arc<dyn Services>,
    mut input: impl Read,
    mut output: Box<dyn Write + Send>,
) -> Result<(), String> {
    let hello = services.hello();
    output.write_all(MAGIC).map_err(|error| format!("cannot greet: {error}"))?;
    frame::write(&mut output, 0, FrameKind::Hello, &encode(&hello))
        .map_err(|error| format!("cannot greet: {error}"))?;
    output.flush().map_err(|error| format!("cannot greet: {error}"))?;
    let packer = match frame::read(&mut input) {
        Ok(Some(Frame { kind: FrameKind::Hello, body, .. })) => {
            let front: FrontHello = decode(&body)?;
            if front.protocol != PROTOCOL {
                return Err(format!("the front speaks protocol {}, this agent {PROTOCOL}", front.protocol));
            }
            if front.is_elsewhere { Packer::new() } else { None }
        }
        Ok(None) => return Ok(()),
        Ok(Some(_)) => return Err("the front did not greet".into()),
        Err(error) => return Err(format!("no greeting: {error}")),
    };

    let outlet = Arc::new(Outlet {
        out: Mutex::new(output),
        closing: AtomicBool::new(false),
        packer: packer.map(Mutex::new),
    });
    let shields = Arc::new(AtomicUsize::new(0));
    let calls: Arc<Mutex<HashMap<u32, Arc<CallState>>>> = Arc::default();
    let ended = loop {
        match frame::read(&mut input) {
            Ok(Some(frame)) => {
                if let Err(why) = dispatch(frame, &services, &outlet, &shields, &calls) {
                    break Err(why);
                }
            }
            Ok(None) => break Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                break Err(SILENT.into());
            }
            Err(error) => break Err(format!("the front's stream broke: {error}")),
        }
        if outlet.closing.load(Ordering::SeqCst) {
            break Err("the front does not listen any more".into());
        }
    };
    outlet.closing.store(true, Ordering::SeqCst);
    for state in guard(&calls).values() {
        state.cancel();
    }
    services.shut_down();
    wait_for_calls(&calls, &shields);
    ended
}

/// Waits a moment for handlers to clean up, and long for those behind a shield.
fn wait_for_calls(calls: &Mutex<HashMap<u32, Arc<CallState>>>, shields: &AtomicUsize) {
    let since = Instant::now();
    loop {
        let limit = if shields.load(Ordering::SeqCst) > 0 { COMMIT_LIMIT } else { Duration::from_secs(10) };
        if guard(calls).is_empty() || since.elapsed() > limit {
            return;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn dispatch(
    frame: Frame,
    services: &Arc<dyn Services>,
    outlet: &Arc<Outlet>,
    shields: &Arc<AtomicUsize>,
    calls: &Arc<Mutex<HashMap<u32, Arc<CallState>>>>,
) -> Result<(), String> {
    let known = guard(calls).get(&frame.call).cloned();
    match (frame.kind, known) {
        (FrameKind::Ping, _) => outlet.pong(),
        (FrameKind::Open, None) => open(frame, services, outlet, shields, calls)?,
        (FrameKind::Open, Some(_)) => return Err(format!("call {} is open already", frame.call)),
        (FrameKind::Up, Some(state)) => {
            let before = state.upload_window.fetch_sub(frame.body.len() as i64, Ordering::SeqCst);
            if before <= 0 {
                return Err(format!("call {} sent more than it was granted", frame.call));
            }
            let _ = state.uploads.send(Some(frame.body));
        }
        (FrameKind::UpEnd, Some(state)) => {
            let _ = state.uploads.send(None);
        }
        (FrameKind::Cancel, Some(state)) => state.cancel(),
        (FrameKind::Credit, Some(state)) => {
            let bytes: [u8; 4] =
                frame.body.as_slice().try_into().map_err(|_| "a credit has four bytes".to_owned())?;
            *guard(&state.credit) += i64::from(u32::from_le_bytes(bytes));
            state.more.notify_all();
        }
        // Late frames of a call that is over.
        (FrameKind::Up | FrameKind::UpEnd | FrameKind::Cancel | FrameKind::Credit, None) => {}
        (kind, _) => return Err(format!("the front may not send {kind:?}")),
    }
    Ok(())
}

fn open(
    frame: Frame,
    services: &Arc<dyn Services>,
    outlet: &Arc<Outlet>,
    shields: &Arc<AtomicUsize>,
    calls: &Arc<Mutex<HashMap<u32, Arc<CallState>>>>,
) -> Result<(), String> {
    let request: Request = match decode(&frame.body) {
        Ok(request) => request,
        Err(why) => {
            outlet.send(frame.call, FrameKind::Error, &encode(&AgentError::protocol(why)));
            return Ok(());
        }
    };
    let (send, recv) = crossbeam_channel::unbounded();
    let state = Arc::new(CallState {
        cancelled: AtomicBool::new(false),
        credit: Mutex::new(WINDOW),
        more: Condvar::new(),
        uploads: send,
        upload_window: AtomicI64::new(WINDOW),
    });
    guard(calls).insert(frame.call, Arc::clone(&state));
    let call = Call {
        id: frame.call,
        outlet: Arc::clone(outlet),
        state,
        uploads: recv,
        shields: Arc::clone(shields),
    };
    let (services, calls) = (Arc::clone(services), Arc::clone(calls));
    let name = request.name();
    let main = thread::current();
    thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let answer =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| services.handle(request, &call)))
                    .unwrap_or_else(|_| Err(AgentError::failed(format!("`{name}` panicked in the agent"))));
            guard(&calls).remove(&call.id);
            match answer.and_then(|body| fitting(&body).map(|()| body)) {
                Ok(body) => call.outlet.send(call.id, FrameKind::Done, &body),
                Err(error) => call.outlet.send(call.id, FrameKind::Error, &encode(&error)),
            }
            main.unpark();
        })
        .map(|_| ())
        .map_err(|error| format!("cannot start a thread for `{name}`: {error}"))
}
