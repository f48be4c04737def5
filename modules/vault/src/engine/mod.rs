//! What is done with a repository: back up trees, put trees together, restore, check.

mod assemble;
mod check;
mod dress;
mod facts;
mod full;
mod lines;
mod listed;
mod prune;
mod reading;
mod repair;
mod replace;
mod restore;
mod sparse;
mod tally;
mod unfinished;
mod way;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use pc_switcher_contract::ModuleError;

pub use assemble::{Assembler, Step, feed};
pub use check::{CheckSummary, check};
pub use dress::{Lacking, set_metadata};
pub(crate) use dress::{dress_again, is_dressed, is_undecorated, set_all_but_times};
pub(crate) use facts::kind_of;
pub use facts::{Names, node_of, xattrs};
pub use full::Full;
pub(crate) use full::complete;
pub use lines::Lines;
pub(crate) use listed::{bare_directory, open, same_file};
pub use prune::{PruneOrder, PruneSummary, When, prune};
pub use reading::{Part, Reading};
pub use repair::{REPAIRED, RepairOrder, RepairSummary, repair};
pub(crate) use replace::exchange;
pub use restore::{Cold, Missed, RestoreSummary, Restorer};
pub(crate) use restore::{Given, dress_special, is_such, make_special, put_in_place, there_already};
pub(crate) use sparse::Sparse;
pub(crate) use tally::Tally;
pub use unfinished::Swept;
#[cfg(test)]
pub(crate) use unfinished::named_alone;
pub(crate) use unfinished::{Unfinished, is_unfinished};
pub(crate) use way::Way;

use crate::error::Result;

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that are done.
    pub files: u64,
    /// Bytes that are done.
    pub bytes: u64,
    /// Bytes in all; 0 while nobody knows.
    pub total_bytes: u64,
    /// What is being worked on.
    pub item: PathBuf,
}

/// A path that something was wrong with; the run went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The path.
    pub path: PathBuf,
    /// What was wrong.
    pub why: String,
}

/// Hears how a run goes on, and may end it.
pub trait Observer: Sync {
    /// Is told now and then how far it is.
    fn progress(&self, progress: Progress);

    /// Whether the run shall end.
    fn is_cancelled(&self) -> bool;

    /// Is told of each piece of a file that was restored.
    fn wrote(&self, _file: &Path, _bytes: u64) {}

    /// Whether somebody looks on: then it is worth finding out beforehand how much there is.
    fn is_watched(&self) -> bool {
        false
    }
}

/// Hears nothing; ends a run when its flag is set.
#[derive(Debug, Default)]
pub struct Quiet(pub AtomicBool);

impl Observer for Quiet {
    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads until the run shall end: also one large file is left at once.
pub(crate) struct Stoppable<'o, R> {
    pub(crate) reader: R,
    pub(crate) observer: &'o dyn Observer,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.observer.is_cancelled() {
            Err(io::Error::other("stopped on request"))
        } else {
            self.reader.read(buffer)
        }
    }
}

fn check_cancelled(observer: &dyn Observer) -> Result<()> {
    if observer.is_cancelled() { Err(ModuleError::cancelled()) } else { Ok(()) }
}

/// How many threads read, compress and encrypt.
pub(crate) fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 8))
}

fn trouble(path: &Path, why: impl ToString) -> Trouble {
    Trouble { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;
