//! What our commands left behind: made our own children, ended with the agent (facts/ssh.md S12-S15).

use std::collections::HashSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::processes;

/// How long orphans may take to end after TERM.
const GRACE: Duration = Duration::from_secs(1);

/// How long killed ones are waited for, from the first kill on: the agent may be held up itself on a busy machine. One
/// that hangs in the kernel cannot be helped.
const KILLED: Duration = Duration::from_secs(5);

/// Makes every orphan below this process its own child, so that it can be found.
///
/// # Errors
/// On kernels without the feature.
pub fn adopt() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(Pid::INIT))?)
}

/// Ends everything below this process that has a session of its own, gently first, but for the one child that is to outlive
/// it. To be called when all commands are over: whatever is left then is an orphan.
pub fn end_all(kept: Option<u32>) {
    let is_kept = |process: &processes::Process| u32::try_from(process.pid).ok() == kept;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    // Not by getsid(2): it says 0 of a session that began outside of our pid namespace, and no wrapper takes that.
    let session = processes::look(own).map_or(0, |process| process.session);
    let since = Instant::now();
    let mut asked = HashSet::new();
    // A look at all processes is no instant: who loses its parent meanwhile may be missing in one, but not in two.
    let mut quiet = 0;
    let mut killed: Option<Instant> = None;
    loop {
        let (over, left): (Vec<_>, Vec<_>) = processes::descendants(&processes::all(), own, session)
            .into_iter()
            .filter(|process| !is_kept(process))
            .partition(|process| process.zombie);
        over.iter().filter(|process| process.parent == own).for_each(processes::reap);
        quiet = if left.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 || killed.is_some_and(|first| first.elapsed() > KILLED) {
            return;
        }
        // However long a look took: first they are asked, then killed, and only then given up.
        let kill = !asked.is_empty() && since.elapsed() >= GRACE;
        if kill && !left.is_empty() {
            killed.get_or_insert_with(Instant::now);
        }
        for process in &left {
            if kill {
                processes::signal(process, Signal::KILL);
            } else if asked.insert(process.pid) {
                processes::signal(process, Signal::TERM);
                // A stopped one would not see it.
                processes::signal(process, Signal::CONT);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}
