//! A store in a directory of another machine, which a program of ours serves there on the stream of an ssh login.
//!
//! Whoever made the line (ssh, in the product) hands it in; here is what goes over it. Why it is built so: `docs/adr/0019-*.md`.

mod line;
mod place;
pub mod serve;
#[cfg(test)]
mod tests;
pub mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pc_switcher_contract::{ErrorKind, ModuleError};

pub use line::{Line, Why};
pub use place::SshPlace;

use self::line::{Broken, Wire};
use self::wire::{Answer, Ask, Failure};
use super::{Kind, SILENCE_AT_THE_END, Stop, Store};
use crate::error::Result;

/// Logs in and starts what serves the directory.
pub type Dial = Arc<dyn Fn(&SshPlace, &Stop) -> Result<Line> + Send + Sync>;

/// How long is hoped for.
#[derive(Debug, Clone, Copy)]
pub struct Hope {
    /// How often something is asked for at most, and how often in a row a new login may fail.
    pub most: u32,
    /// The first pause; each is twice the one before.
    pub first: Duration,
    /// How long nothing may come or go although something is asked for.
    pub silence: Duration,
    /// The same once somebody wants to stop: what tidies up goes on until then.
    pub silence_at_the_end: Duration,
}

impl Default for Hope {
    fn default() -> Self {
        let (first, silence) = (Duration::from_secs(1), Duration::from_secs(600));
        Self { most: 3, first, silence, silence_at_the_end: SILENCE_AT_THE_END }
    }
}

/// Keeps objects in a directory of another machine.
pub struct SshStore {
    place: SshPlace,
    dial: Dial,
    stop: Stop,
    hope: Hope,
    state: Mutex<State>,
}

/// The line that is used, and how often there was none.
#[derive(Default)]
struct State {
    wire: Option<Arc<Wire>>,
    was_reached: bool,
    failed: u32,
    why: Option<Failure>,
}

/// What came back.
struct Reply {
    answer: Answer,
    object: Vec<u8>,
    /// Whether an earlier attempt may have been carried out all the same.
    is_doubtful: bool,
}

impl SshStore {
    /// Takes the directory as it is; nobody is contacted before something is asked for.
    pub fn at(place: SshPlace, dial: Dial, stop: Stop, hope: Hope) -> Self {
        Self { place, dial, stop, hope, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the line, a new one if there is none; the flag says whether another attempt may go better.
    fn wire(&self) -> std::result::Result<Arc<Wire>, (ModuleError, bool)> {
        // Held while somebody logs in: the others wait for the same line.
        let mut state = self.state();
        if let Some(wire) = state.wire.as_ref().filter(|wire| !wire.is_lost()) {
            return Ok(Arc::clone(wire));
        }
        state.wire = None;
        if let Some(why) = state.why.as_ref().filter(|_| state.failed >= self.hope.most) {
            return Err((why.clone().into(), false));
        }
        let opened = (self.dial)(&self.place, &self.stop)
            .and_then(|line| Wire::open(&self.place, line, &self.stop, self.hope));
        match opened {
            Ok(wire) => {
                let wire = Arc::new(wire);
                *state = State { wire: Some(Arc::clone(&wire)), was_reached: true, ..State::default() };
                Ok(wire)
            }
            Err(error) => {
                let is_hopeful = state.was_reached && error.kind == ErrorKind::Unreachable;
                if is_hopeful {
                    state.failed += 1;
                    let (message, hints) = (error.message.clone(), error.hints.clone());
                    state.why = Some(Failure { kind: error.kind, message, hints });
                }
                Err((error, is_hopeful))
            }
        }
    }

    /// Asks until there is an answer, or no hope for one. `is_stopped`: whether a stop ends it; what tidies up goes on.
    fn ask(&self, ask: &Ask, object: &[u8], is_stopped: bool) -> Result<Reply> {
        let object = Arc::new(object.to_vec());
        let (mut is_doubtful, mut attempt) = (false, 0);
        loop {
            attempt += 1;
            if is_stopped && self.stop.is_asked() {
                return Err(ModuleError::cancelled());
            }
            let is_last = attempt >= self.hope.most;
            let wire = match self.wire() {
                Ok(wire) => wire,
                Err(_) if self.stop.is_asked() => return Err(ModuleError::cancelled()),
                Err((error, is_hopeful)) if is_last || !is_hopeful => return Err(error),
                Err(_) => {
                    self.pause(attempt);
                    continue;
                }
            };
            match wire.ask(ask, &object, is_stopped) {
                Ok((Answer::Failed(failure), _)) => return Err(failure.into()),
                Ok((answer, object)) => return Ok(Reply { answer, object, is_doubtful }),
                Err(Broken::Stopped) => return Err(ModuleError::cancelled()),
                Err(Broken::Lost(_)) if self.stop.is_asked() => return Err(ModuleError::cancelled()),
                Err(Broken::Lost(why)) if is_last => {
                    let message = format!("the line to `{}` for the vault is lost: {why}", self.place.host);
                    return Err(ModuleError::new(ErrorKind::Unreachable, message).hint(
                        "is that machine on, and is there a network? what was stored is not stored again",
                    ));
                }
                Err(Broken::Lost(_)) => {
                    is_doubtful = true;
                    self.pause(attempt);
                }
            }
        }
    }

    fn pause(&self, attempt: u32) {
        self.stop.wait(self.hope.first.saturating_mul(1 << (attempt - 1).min(8)));
    }

    fn odd(&self, answer: &Answer) -> ModuleError {
        ModuleError::failed(format!(
            "`{}` answers something else than was asked: {answer:?}",
            self.place.host
        ))
    }

    /// Asks for an object; `None` if there is none.
    fn fetch(&self, ask: &Ask) -> Result<Option<Vec<u8>>> {
        match self.ask(ask, &[], true)? {
            Reply { answer: Answer::Found, object, .. } => Ok(Some(object)),
            Reply { answer: Answer::Missing, .. } => Ok(None),
            Reply { answer, .. } => Err(self.odd(&answer)),
        }
    }

    /// Asks for something that is done or not.
    fn order(&self, ask: &Ask) -> Result<()> {
        match self.ask(ask, &[], false)?.answer {
            Answer::Done => Ok(()),
            answer => Err(self.odd(&answer)),
        }
    }
}

impl Store for SshStore {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        let ask = Ask::Put { kind, name: name.into() };
        // What ends a run that was stopped, its index and its lock, is written all the same.
        match self.ask(&ask, bytes, kind == Kind::Pack)? {
            Reply { answer: Answer::Written { is_new: true }, .. } => Ok(true),
            // The answer was lost, and the work was done: what is there is our own.
            Reply { answer: Answer::Written { .. }, is_doubtful, .. } => {
                Ok(is_doubtful && self.get(kind, name)?.is_some_and(|there| there == bytes))
            }
            Reply { answer, .. } => Err(self.odd(&answer)),
        }
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.fetch(&Ask::Get { kind, name: name.into(), afresh: false })
    }

    fn get_afresh(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.fetch(&Ask::Get { kind, name: name.into(), afresh: true })
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let ask = Ask::GetRange { kind, name: name.into(), offset, length: length as u64 };
        match self.fetch(&ask)? {
            Some(part) if part.len() == length => Ok(part),
            _ => Err(ModuleError::failed(format!("{} `{name}` is cut short", kind.noun()))),
        }
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        let text = self.fetch(&Ask::List { kind })?.unwrap_or_default();
        serde_json::from_slice(&text).map_err(|error| {
            ModuleError::failed(format!("`{}` lists something else than names: {error}", self.place.host))
        })
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.order(&Ask::Delete { kind, name: name.into() })
    }

    fn place(&self) -> String {
        self.place.to_string()
    }

    fn is_vacant(&self) -> Result<bool> {
        match self.ask(&Ask::IsVacant, &[], true)?.answer {
            Answer::Vacant { is_vacant } => Ok(is_vacant),
            answer => Err(self.odd(&answer)),
        }
    }

    fn make_ready(&self) -> Result<()> {
        self.order(&Ask::MakeReady)
    }

    fn removes_freely(&self) -> bool {
        self.wire().is_ok_and(|wire| !wire.is_append_only())
    }
}
