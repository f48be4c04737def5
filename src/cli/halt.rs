//! Halts an agent right after a step, so that a test can cut the power of its machine, or of the other one, in that very moment.
//!
//! Only the program that `tests/build-program lab` builds does so, and only where root has made the directory for it. There
//! `steps` names each step that an agent has done, a line each; an agent that has done as many as `halt` says writes `halted` and
//! waits until `halt` is gone.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use pc_switcher_agent::data::apply::Watch;
use rustix::io::Errno;

/// In memory: a machine that was started anew has none.
const DIR: &str = "/run/pc-switcher-halt";

/// How often an agent that was halted looks whether it may go on.
const LOOK: Duration = Duration::from_millis(5);

/// Halts where it is told to.
pub(super) struct Halts {
    dir: PathBuf,
    done: AtomicUsize,
}

impl Default for Halts {
    fn default() -> Self {
        Self::at(DIR)
    }
}

impl Halts {
    fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), done: AtomicUsize::new(0) }
    }

    fn is_to_halt(&self, done: usize) -> bool {
        fs::read_to_string(self.dir.join("halt")).is_ok_and(|text| text.trim().parse() == Ok(done))
    }
}

impl Watch for Halts {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        let done = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        // Without the directory nobody wants to know.
        let Ok(mut steps) = OpenOptions::new().create(true).append(true).open(self.dir.join("steps")) else {
            return Ok(());
        };
        let noted = writeln!(steps, "{step}");
        if self.is_to_halt(done) {
            put(&self.dir.join("halted"), step);
            while self.is_to_halt(done) {
                sleep(LOOK);
            }
        }
        noted.map_err(|_| Errno::IO)
    }
}

/// Writes a file in one piece: whoever sees it can read all of it.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    // Whoever waits for it says that it never came.
    let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn an_agent_halts_after_as_many_steps_as_it_is_told_and_goes_on_when_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (halts, at) = (Halts::at(dir.path()), |name: &str| dir.path().join(name));
        fs::write(at("halt"), "2\n").unwrap();
        halts.after("first").unwrap();
        assert!(!at("halted").exists());
        thread::scope(|scope| {
            let halted = scope.spawn(|| halts.after("second"));
            while !at("halted").exists() {
                assert!(!halted.is_finished());
                sleep(LOOK);
            }
            fs::remove_file(at("halt")).unwrap();
            halted.join().unwrap().unwrap();
        });
        let read = |name: &str| fs::read_to_string(at(name)).unwrap();
        assert_eq!((read("steps"), read("halted")), ("first\nsecond\n".into(), "second".into()));
    }

    #[test]
    fn without_the_directory_nothing_is_halted_or_written() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("none");
        Halts::at(&gone).after("first").unwrap();
        assert!(!gone.exists());
    }
}
