//! The way into a machine: a child process that joins its cgroup and namespaces, gives up the capabilities that reach
//! the host's clock and kernel, becomes the wanted user and dies with its parent.
//!
//! Invariant: no command gets in by another way than [`Door::spawn`].
#![expect(unsafe_code, reason = "namespaces, capabilities and ids are set between fork and exec")]

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{ChildStderr, ChildStdin, ChildStdout, Command},
    sync::{Arc, mpsc},
    thread,
};

use rustix::{
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use super::{
    error::{LabError, Result},
    held::Held,
    users::Credentials,
};

/// Capabilities that reach beyond a machine: module loading, raw I/O, the clock. Numbers of `capability.h`.
const WITHHELD: [libc::c_ulong; 3] = [16, 17, 25];

/// The running machine as seen from outside: its first process and its cgroup.
#[derive(Debug)]
pub(super) struct Door {
    pid: i32,
    pidfd: OwnedFd,
    cgroup: PathBuf,
}

impl Door {
    /// Opens the machine whose processes lie in `cgroup`; `None` when it is off.
    pub(super) fn open(cgroup: &Path) -> Option<Self> {
        let pid =
            super::processes::members(cgroup).into_iter().find(|&pid| super::processes::is_first(pid))?;
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Checked again after the pidfd is open: from here on the number cannot become another process.
        super::processes::is_first(pid).then(|| Self { pid, pidfd, cgroup: cgroup.to_owned() })
    }

    /// Returns the machine's first process as the host numbers it.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the machine's root directory as the host reaches it.
    pub(super) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// Tells whether the machine still runs.
    pub(super) fn is_open(&self) -> bool {
        // Signal 0 by pidfd: fails once the process has ended.
        super::processes::is_alive(&self.pidfd)
    }

    /// Sends a signal to the machine's first process.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.pidfd, signal)
            .map_err(|error| LabError::io("signal a machine's init")(error.into()))
    }

    /// Listens on the machine's own loopback. A socket stays in the network in which it was made, whoever uses it.
    pub(super) fn listen(&self) -> io::Result<TcpListener> {
        thread::scope(|scope| {
            let bind = || {
                move_into_thread_name_spaces(self.pidfd.as_fd(), ThreadNameSpaceType::NETWORK)?;
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            };
            scope.spawn(bind).join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }

    /// Starts `command` inside as `who`. With `terminal`, descriptor 0 becomes its controlling terminal.
    ///
    /// The child gets SIGKILL when its handle is dropped or this process ends.
    pub(super) fn spawn(&self, mut command: Command, who: &Credentials, terminal: bool) -> Result<Inside> {
        let what = format!("start `{}` inside a machine", command.get_program().to_string_lossy());
        let procs = self.cgroup.join("cgroup.procs");
        let cgroup = File::options().write(true).open(&procs).map_err(LabError::path("open", &procs))?;
        let pidfd = Arc::new(self.pidfd.try_clone().map_err(LabError::io("copy a pidfd"))?);
        let entry = Entry::new(cgroup, Arc::clone(&pidfd), who, terminal)?;
        // SAFETY: `Entry::pass` makes system calls on values prepared before the fork; it neither allocates nor locks.
        unsafe { command.pre_exec(move || entry.pass()) };
        let (sender, receiver) = mpsc::channel();
        // The parent-death signal is tied to the thread that forks, and so is the pid namespace of its children.
        thread::spawn(move || {
            let entered = move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::PROCESS_ID);
            let spawned = entered.map_err(io::Error::from).and_then(|()| command.spawn());
            // The command holds descriptors of the caller, who waits for their end.
            drop(command);
            let mut reap = None;
            let inside = spawned.map(|mut child| {
                let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
                let (process, rest) = Held::new(child);
                reap = Some(rest);
                Inside { stdin, stdout, stderr, process }
            });
            // The receiver waits for this message.
            let _ = sender.send(inside);
            if let Some(reap) = reap {
                reap();
            }
        });
        let spawned = receiver.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        spawned.map_err(LabError::io(what))
    }
}

/// A process inside a machine with the near ends of its pipes.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
    pub(super) process: Held,
}

/// What a child does between fork and exec, prepared so that it only makes system calls.
struct Entry {
    cgroup: File,
    pidfd: Arc<OwnedFd>,
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    directory: CString,
    terminal: bool,
}

impl Entry {
    fn new(cgroup: File, pidfd: Arc<OwnedFd>, who: &Credentials, terminal: bool) -> Result<Self> {
        let directory = CString::new(who.directory.as_os_str().as_bytes())
            .map_err(|_| LabError::Invalid { what: "a working directory holds a zero byte".to_owned() })?;
        Ok(Self {
            cgroup,
            pidfd,
            uid: who.uid,
            gid: who.gid,
            groups: who.groups.clone(),
            directory,
            terminal,
        })
    }

    fn pass(&self) -> io::Result<()> {
        const SPACES: libc::c_int = libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP;
        let fd = |file: &dyn AsRawFd| -> RawFd { file.as_raw_fd() };
        // SAFETY: plain system calls; every pointer is to a value that outlives the call.
        unsafe {
            // "0" is the calling process.
            check(libc::write(fd(&self.cgroup), b"0".as_ptr().cast(), 1))?;
            check(libc::setns(fd(&*self.pidfd), SPACES) as isize)?;
            check(libc::setsid() as isize)?;
            libc::umask(0o022);
            // A shell has its background jobs ignore these, and all that they start: a person's terminal does not.
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                if libc::signal(signal, libc::SIG_DFL) == libc::SIG_ERR {
                    return Err(io::Error::last_os_error());
                }
            }
            if self.terminal {
                check(libc::ioctl(0, libc::TIOCSCTTY, 0) as isize)?;
            }
            for capability in WITHHELD {
                check(libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) as isize)?;
            }
            check(libc::setgroups(self.groups.len(), self.groups.as_ptr()) as isize)?;
            check(libc::setgid(self.gid) as isize)?;
            check(libc::setuid(self.uid) as isize)?;
            // After the change of user, which clears it.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0) as isize)?;
            check(libc::chdir(self.directory.as_ptr()) as isize)
        }
    }
}

fn check(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns whether a directory exists below the machine's root.
pub(super) fn has_dir(root: &Path, path: &Path) -> bool {
    let inside = path.strip_prefix("/").unwrap_or(path);
    fs::metadata(root.join(inside)).is_ok_and(|metadata| metadata.is_dir())
}
