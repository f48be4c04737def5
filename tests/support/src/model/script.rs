//! Which calls were made, and which of them goes wrong how.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use tokio::time::Instant;

use super::lock;

/// One call of a run. Calls side by side have no order of their own, so they are counted per phase, machine and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallKey {
    /// When.
    pub phase: String,
    /// Of which machine.
    pub machine: String,
    /// Its name, for example `take-set`.
    pub call: String,
    /// How many of these came before, in this phase on this machine.
    pub nth: usize,
}

impl fmt::Display for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {} #{}", self.phase, self.machine, self.call, self.nth)
    }
}

/// A call as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub key: CallKey,
    /// Replies before the answer.
    pub items: usize,
    /// Frames that went up.
    pub uploads: usize,
    /// Whether one of them asked for a commit.
    pub commits: bool,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// The machine says no.
    Fail,
    /// Nothing comes any more, though the machine is alive.
    Hang,
    /// The machine is lost.
    Cut,
}

/// When in the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    /// Before the machine hears of it.
    Open,
    /// After its first item.
    FirstItem,
    /// After that many upload frames; a request to commit does not count.
    Upload(usize),
    /// After the request to commit.
    Commit,
    /// When the work is done, before the answer is heard.
    Answer,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which call.
    pub key: CallKey,
    /// How.
    pub how: How,
    /// When in the call.
    pub at: At,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} at {:?}", self.key, self.how, self.at)
    }
}

type PhaseOf = Box<dyn Fn() -> String + Send + Sync>;

/// Numbers the calls of one run and knows the faults in it.
pub struct Script {
    faults: Vec<Fault>,
    phase: PhaseOf,
    on_hang: Box<dyn Fn() + Send + Sync>,
    seen: Mutex<Vec<Seen>>,
    counts: Mutex<HashMap<(String, String, String), usize>>,
    fired: Mutex<Vec<Instant>>,
}

impl Script {
    /// Makes the script of one run. `phase` names where the run is; `on_hang` is called when a call hangs.
    pub fn new(
        faults: Vec<Fault>,
        phase: impl Fn() -> String + Send + Sync + 'static,
        on_hang: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            faults,
            phase: Box::new(phase),
            on_hang: Box::new(on_hang),
            seen: Mutex::default(),
            counts: Mutex::default(),
            fired: Mutex::default(),
        }
    }

    /// Notes a call; returns its number and what goes wrong in it.
    pub fn enter(&self, machine: &str, call: &str) -> (usize, Option<(How, At)>) {
        let (phase, machine, call) = ((self.phase)(), machine.to_owned(), call.to_owned());
        let mut counts = lock(&self.counts);
        let count = counts.entry((phase.clone(), machine.clone(), call.clone())).or_default();
        let key = CallKey { phase, machine, call, nth: *count };
        *count += 1;
        let fault = self.faults.iter().find(|fault| fault.key == key).map(|fault| (fault.how, fault.at));
        let mut seen = lock(&self.seen);
        seen.push(Seen { key, items: 0, uploads: 0, commits: false });
        (seen.len() - 1, fault)
    }

    pub(super) fn note_item(&self, number: usize) {
        lock(&self.seen)[number].items += 1;
    }

    pub(super) fn note_upload(&self, number: usize, is_commit: bool) {
        let seen = &mut lock(&self.seen)[number];
        seen.uploads += usize::from(!is_commit);
        seen.commits |= is_commit;
    }

    /// Notes that the fault happens now.
    pub fn fire(&self, how: How) {
        lock(&self.fired).push(Instant::now());
        if how == How::Hang {
            (self.on_hang)();
        }
    }

    /// Returns when the last of the faults happened, if all of them did.
    pub fn fired(&self) -> Option<Instant> {
        let fired = lock(&self.fired);
        fired.last().copied().filter(|_| fired.len() >= self.faults.len())
    }

    /// Returns all calls so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }
}
