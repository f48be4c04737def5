//! Work inside the hub: the namespaces that hold the pools' mounts and the bridge, so that the host's own tables stay
//! clean.
//!
//! A thread of its own enters the hub, works and ends; the calling thread never changes its namespaces.
#![expect(
    unsafe_code,
    reason = "a thread leaves the process's shared working directory by unshare, and file systems \
                                 are shut down by ioctl"
)]

use std::{
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
};

use rustix::{
    fs::Mode,
    ioctl::{self, opcode},
    process::{Pid, PidfdFlags, pidfd_open, umask},
    thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe},
};

use super::error::{LabError, Result};

/// A handle on the hub's first process.
#[derive(Debug)]
pub(super) struct Hub {
    pidfd: OwnedFd,
}

impl Hub {
    /// Opens the hub whose pid was written to `pid_file`, if it lies in `cgroup`; a stale file gives `None`.
    pub(super) fn open(pid_file: &Path, cgroup: &Path) -> Option<Self> {
        let pid: i32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Checked after the pidfd is open: from here on the number cannot become another process.
        let members = fs::read_to_string(cgroup.join("hub/cgroup.procs")).ok()?;
        members.lines().any(|line| line == pid.to_string()).then_some(Self { pidfd })
    }

    /// Runs `work` in the hub's mount, network and (for its children) pid namespace.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let enter = || -> rustix::io::Result<()> {
            // SAFETY: only this thread's view of the working directory and root is separated; it shares no other
            // state that `unshare(CLONE_FS)` could invalidate.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            // This thread's own from here on: disks are made the same whatever the caller's is.
            umask(Mode::from_raw_mode(0o022));
            let spaces =
                ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::PROCESS_ID;
            move_into_thread_name_spaces(self.pidfd.as_fd(), spaces)
        };
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                enter().map_err(|error| LabError::io("enter the lab's hub")(error.into()))?;
                work()
            });
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Copies a file by sharing its extents; `to` is replaced in place by the copy.
pub(super) fn reflink(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copy `{}` to `{}` by reflink", from.display(), to.display());
    let source = File::open(from).map_err(LabError::path("open", from))?;
    let part = to.with_extension("part");
    let target = File::create(&part).map_err(LabError::path("create", &part))?;
    rustix::fs::ioctl_ficlone(&target, &source).map_err(|error| LabError::io(what())(error.into()))?;
    target.sync_all().map_err(LabError::path("sync", &part))?;
    fs::rename(&part, to).map_err(LabError::path("rename", &part))?;
    let dir = to.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(LabError::path("sync", dir))
}

/// Switches the XFS mounted at `mount_point` off at once, like a disk that loses its write cache: what was not
/// flushed is gone, every later access fails.
pub(super) fn shut_down_xfs(mount_point: &Path) -> Result<()> {
    /// Without flushing the log: `XFS_FSOP_GOING_FLAGS_NOLOGFLUSH` in `xfs_fs.h`.
    const NO_LOG_FLUSH: u32 = 2;
    /// `XFS_IOC_GOINGDOWN` in `xfs_fs.h`.
    const GOING_DOWN: ioctl::Opcode = opcode::read::<u32>(b'X', 125);
    let dir = File::open(mount_point).map_err(LabError::path("open", mount_point))?;
    // SAFETY: the call reads one u32 through the pointer that `Setter` passes, as `xfs_fs.h` declares.
    let done = unsafe { ioctl::ioctl(&dir, ioctl::Setter::<GOING_DOWN, u32>::new(NO_LOG_FLUSH)) };
    done.map_err(|error| LabError::path("shut down", mount_point)(error.into()))
}
