//! Waiting by looking: short polls with a limit, never a bare sleep.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::error::{LabError, Result};

const STEP: Duration = Duration::from_millis(5);

/// Calls `look` until it returns something, at most for `limit`.
pub(super) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            return Err(LabError::NotReady { what: what.to_owned(), waited: limit, detail: String::new() });
        }
        thread::sleep(STEP);
    }
}
