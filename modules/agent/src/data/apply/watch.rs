//! Lets somebody look on after each durable step, for tests that stop or photograph a machine there.

use rustix::io::Errno;

/// Sees each step of an apply or a redo right after it was done.
pub trait Watch: Send + Sync {
    /// Called after the named step. An error stands for one of the system at that place.
    ///
    /// # Errors
    /// Whatever the step is to fail with.
    fn after(&self, step: &'static str) -> Result<(), Errno>;
}

/// Nobody looks on.
pub struct Unwatched;

impl Watch for Unwatched {
    fn after(&self, _: &'static str) -> Result<(), Errno> {
        Ok(())
    }
}
