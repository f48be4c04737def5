//! One numbered event stream; log file, screen, history and JSON read it.
//!
//! Everyone emits through [`EventBus`]. It cleans and redacts foreign text, numbers and stamps the event, counts
//! warnings and errors, and hands it to every [`Reader`]. Invariant: what a reader sees has been redacted, in the
//! order of its numbers, and only progress is ever missing.

mod bus;
mod clean;
mod core;
mod line;
mod log_file;
mod queue;
pub mod redact;
mod rotate;
mod tally;

use std::sync::Arc;

use jiff::Timestamp;

pub use self::bus::EventBus;
pub use self::clean::clean;
pub use self::core::CoreLog;
pub use self::line::LogLine;
pub use self::log_file::FileLog;
pub use self::queue::{Reader, Received};
pub use self::rotate::{KEEP_BYTES, KEEP_FILES, is_log_name};
pub use self::tally::{Remembered, Tally};

/// Tells the time; injected, so that tests and replays have their own.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
