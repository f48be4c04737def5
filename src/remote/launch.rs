//! Starting child processes: signals they ignore, sessions of their own, death with their parent.
//!
//! The only unsafe code of this crate. The hooks run between fork and exec and call nothing but async-signal-safe
//! system calls.
#![expect(unsafe_code, reason = "`pre_exec` hooks have no safe form")]

use std::io;
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;

type Job = Box<dyn FnOnce() + Send>;

/// The parent-death signal follows the *thread* that forked, and worker threads come and go; this one stays.
static STARTER: LazyLock<Option<Sender<Job>>> = LazyLock::new(|| {
    let (send, jobs) = channel::<Job>();
    let run = move || jobs.into_iter().for_each(|job| job());
    std::thread::Builder::new().name("starter".into()).spawn(run).ok().map(|_| send)
});

/// Starts `command` from a thread that lives as long as this process.
///
/// # Errors
/// If it cannot be started.
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    let Some(starter) = STARTER.as_ref() else {
        return Err(io::Error::other("cannot start a thread"));
    };
    let (send, started) = channel();
    let runtime = Handle::current();
    let job = Box::new(move || {
        let _inside = runtime.enter();
        let _ = send.send(command.spawn());
    });
    starter.send(job).map_err(|_| io::Error::other("the starting thread is gone"))?;
    started.recv().map_err(|_| io::Error::other("the starting thread is gone"))?
}

/// Makes the child ignore what the terminal sends on Ctrl+C, Ctrl+\ and hang-up, and die with us. ssh honours signals
/// that it was started with as ignored.
pub(super) fn deaf_and_mortal(command: &mut Command) {
    let hook = || {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
            // SAFETY: `signal` with SIG_IGN is async-signal-safe and touches no memory of ours.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?)
    };
    // SAFETY: the hook allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}

/// Gives the child a session of its own: nothing that happens at our terminal reaches it. It watches its stdin, so it
/// needs no signal when we die, and an agent that is past its commit record must not get one.
pub(super) fn own_session(command: &mut Command) {
    let hook = || Ok(rustix::process::setsid().map(drop)?);
    // SAFETY: `setsid` is a system call; the hook allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}
