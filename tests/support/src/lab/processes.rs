//! The processes of a machine, read from its cgroup: complete, whatever they are called and whoever their parent is.

use std::{fs, os::fd::OwnedFd, path::Path};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Host, hub, machine: how many numbers the first process of a machine has.
const DEPTH: usize = 3;

/// One process of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Number inside the machine; in a nested pid namespace, that of the innermost one.
    pub pid: i32,
    /// Number on the host.
    pub host_pid: i32,
    /// Real user id.
    pub uid: u32,
    /// Arguments joined by spaces, or the name in brackets when there are none.
    pub command: String,
}

/// Returns the host's numbers of all processes in a cgroup and below.
pub(super) fn members(cgroup: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    if let Ok(entries) = fs::read_dir(cgroup) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            found.extend(members(&entry.path()));
        }
    }
    found
}

/// Tells whether no process is left in a cgroup or below, not even one that is just ending; true without a cgroup.
pub(super) fn is_unpopulated(cgroup: &Path) -> bool {
    let events = fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
    !events.lines().any(|line| line == "populated 1")
}

/// Returns the machine's processes in a cgroup, without the launcher outside its pid namespace. Processes that end
/// meanwhile are left out.
pub(super) fn list(cgroup: &Path) -> Vec<Process> {
    let mut found: Vec<Process> = members(cgroup).into_iter().filter_map(read).collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Tells whether the host's process `pid` is number 1 of a machine.
pub(super) fn is_first(pid: i32) -> bool {
    status(pid).is_some_and(|status| {
        let numbers = field(&status, "NSpid:");
        numbers.len() == DEPTH && numbers.last() == Some(&1)
    })
}

/// Tells whether the process behind a pidfd still runs.
pub(super) fn is_alive(pidfd: &OwnedFd) -> bool {
    // A pidfd becomes readable when its process ends.
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

fn read(host_pid: i32) -> Option<Process> {
    let status = status(host_pid)?;
    let numbers = field(&status, "NSpid:");
    if numbers.len() < DEPTH {
        return None;
    }
    let arguments = fs::read(format!("/proc/{host_pid}/cmdline")).ok()?;
    let words: Vec<_> = arguments.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    let mut command = words.join(" ").trim_end().to_owned();
    if command.is_empty() {
        command = format!("[{}]", status.lines().next()?.trim_start_matches("Name:").trim());
    }
    let uid = u32::try_from(*field(&status, "Uid:").first()?).ok()?;
    Some(Process { pid: *numbers.last()?, host_pid, uid, command })
}

fn status(pid: i32) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/status")).ok()?).into_owned())
}

fn field(status: &str, name: &str) -> Vec<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
