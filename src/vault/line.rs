//! Lines to machines that serve vaults: an ssh login of ours, with a program of ours at its end.

use std::ffi::OsStr;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pc_switcher_contract::ModuleError;
use pc_switcher_vault::store::Stop;
use pc_switcher_vault::store::ssh::{Dial, Line, SshPlace};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::remote::{RemoteEnv, pipe};

/// How often a stop is looked for while somebody logs in.
const TICK: Duration = Duration::from_millis(50);
/// How long a login that is not wanted any more may take to end.
const END: Duration = Duration::from_secs(5);

/// Returns what logs in, with the surroundings of the one who asks.
pub fn dial(env: impl Fn() -> RemoteEnv + Send + Sync + 'static) -> Dial {
    let keeper: Mutex<Option<Arc<Keeper>>> = Mutex::default();
    Arc::new(move |place, stop| {
        let keeper = {
            let mut kept = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                Some(keeper) => Arc::clone(keeper),
                None => {
                    let failed = |error| ModuleError::failed(format!("cannot start: {error}"));
                    let made = Arc::new(Keeper::new().map_err(failed)?);
                    *kept = Some(Arc::clone(&made));
                    made
                }
            }
        };
        log_in(keeper, place, env(), stop)
    })
}

/// Keeps what carries bytes at work as long as there is a line.
struct Keeper(Option<Runtime>);

impl Keeper {
    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.map(|runtime| Self(Some(runtime)))
    }
}

impl Drop for Keeper {
    /// Whoever drops it may be at work in another runtime, where nobody may wait.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn log_in(keeper: Arc<Keeper>, place: &SshPlace, env: RemoteEnv, stop: &Stop) -> Result<Line, ModuleError> {
    let (cancel, program) = (CancellationToken::new(), env.stable_path.clone());
    let (send, started) = channel();
    let (target, directory, heard) = (place.target(), place.directory(), cancel.clone());
    if let Some(runtime) = &keeper.0 {
        runtime.spawn(async move {
            let argv = [
                program.as_os_str(),
                "vault".as_ref(),
                "serve".as_ref(),
                "--".as_ref(),
                OsStr::new(&directory),
            ];
            let _ = send.send(pipe::start(OsStr::new(&target), &argv, &env, &heard).await);
        });
    }
    let mut stopped: Option<Instant> = None;
    let piped = loop {
        match started.recv_timeout(TICK) {
            Ok(piped) => break piped?,
            Err(RecvTimeoutError::Timeout) if stop.is_asked() => {
                cancel.cancel();
                if stopped.get_or_insert_with(Instant::now).elapsed() > END {
                    return Err(ModuleError::cancelled());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(ModuleError::failed("the login ended without a word"));
            }
        }
    };
    let ending = piped.ending;
    Ok(Line { stream: piped.socket, why: Arc::new(move || ending.why()), end: Box::new(keeper) })
}
