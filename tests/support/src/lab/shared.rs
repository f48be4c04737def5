//! One lab for all tests of a test binary: started by the first test, set back before every one.

use std::{
    ops::Deref,
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
    thread::sleep,
    time::Duration,
};

use super::{Lab, LabOptions, Result, require_lab};

const PREPARED: &str = "prepared";
/// Another test binary may hold the lab of this name for the whole of its run.
const LOCK_WAIT: Duration = Duration::from_secs(900);
/// How often a lab that became free is looked for.
const FREE_STEP: Duration = Duration::from_millis(20);

/// A lab that the tests of one binary use in turn; made for a `static`.
///
/// The machines end with the test process, however it ends.
#[derive(Debug)]
pub struct SharedLab {
    options: fn() -> LabOptions,
    prepare: fn(&Lab) -> Result<()>,
    lab: Mutex<Option<Lab>>,
}

impl SharedLab {
    /// Describes a lab whose machines `prepare` makes ready once (binaries copied, homes seeded).
    pub const fn new(options: fn() -> LabOptions, prepare: fn(&Lab) -> Result<()>) -> Self {
        Self { options, prepare, lab: Mutex::new(None) }
    }

    /// Hands the lab out to one test at a time, both machines freshly booted in the prepared state.
    ///
    /// Returns `None` when this host cannot run it (see [`require_lab`]).
    ///
    /// # Panics
    ///
    /// When the lab cannot be started or set back: a test has nothing to go on with.
    pub fn take(&self) -> Option<SharedLabGuard<'_>> {
        require_lab()?;
        Some(self.hand_out(self.lab.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Hands out the first of these labs that is free, as [`SharedLab::take`] does.
    ///
    /// # Panics
    ///
    /// As [`SharedLab::take`], and if there are none.
    pub fn take_any(labs: &[Self]) -> Option<SharedLabGuard<'_>> {
        require_lab()?;
        assert!(!labs.is_empty(), "no lab to wait for");
        loop {
            for lab in labs {
                match lab.lab.try_lock() {
                    Ok(slot) => return Some(lab.hand_out(slot)),
                    Err(TryLockError::Poisoned(slot)) => return Some(lab.hand_out(slot.into_inner())),
                    Err(TryLockError::WouldBlock) => {}
                }
            }
            sleep(FREE_STEP);
        }
    }

    fn hand_out<'a>(&self, mut slot: MutexGuard<'a, Option<Lab>>) -> SharedLabGuard<'a> {
        // A test that failed has left the machines in any state: they are set back in any case.
        let reset = slot.as_ref().is_some_and(|lab| lab.reset(PREPARED).is_ok());
        if !reset {
            *slot = None;
            let lab =
                self.start().unwrap_or_else(|error| panic!("cannot start the lab: {error} ({error:?})"));
            *slot = Some(lab);
        }
        SharedLabGuard { slot }
    }

    fn start(&self) -> Result<Lab> {
        let lab = Lab::up((self.options)().lock_wait(LOCK_WAIT))?;
        (self.prepare)(&lab)?;
        lab.snapshot(PREPARED)?;
        Ok(lab)
    }
}

/// The lab, for as long as a test holds it.
#[derive(Debug)]
pub struct SharedLabGuard<'a> {
    slot: MutexGuard<'a, Option<Lab>>,
}

impl Deref for SharedLabGuard<'_> {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.slot.as_ref().expect("`SharedLab::take` fills the slot before it hands it out")
    }
}
