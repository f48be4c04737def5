//! Processes as `/proc` shows them, and signals that never hit a stranger.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    pub zombie: bool,
    /// Clock ticks after boot: with the pid it names a process for good.
    pub started: u64,
}

/// Returns all processes that can be seen.
pub(super) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(look).collect()
}

/// Returns what is known of a pid now.
pub(super) fn look(pid: i32) -> Option<Process> {
    parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of `/proc/<pid>/stat`; the name in it may hold anything, also parentheses.
pub(super) fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(&stat[after_name..]).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    Some(Process {
        pid,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Sends a signal to exactly this process, not to a later one with its number.
pub(super) fn signal(process: &Process, signal: Signal) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The descriptor names one process for good; if its start time is right, it is the one.
    if look(process.pid).is_some_and(|now| now.started == process.started) {
        let _ = rustix::process::pidfd_send_signal(&fd, signal);
    }
}

/// Takes the exit status of a child that is over.
pub(super) fn reap(process: &Process) {
    if let Some(pid) = Pid::from_raw(process.pid) {
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Returns those below `ancestor`, except those of its own session.
pub(super) fn descendants(all: &[Process], ancestor: i32, own_session: i32) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut todo = vec![ancestor];
    while let Some(parent) = todo.pop() {
        for child in all.iter().filter(|process| process.parent == parent && process.session != own_session) {
            if !found.contains(child) {
                found.push(*child);
                todo.push(child.pid);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = b"42 (a) b (c)) S 1 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        let process = parse(42, stat).unwrap();
        assert_eq!((process.parent, process.group, process.session), (1, 42, 40));
        assert_eq!((process.started, process.zombie), (98765, false));
        assert_eq!(parse(42, b"42 (a) Z"), None);
    }

    #[test]
    fn descendants_leave_our_own_session_out() {
        let process = |pid, parent, session| Process {
            pid,
            parent,
            group: session,
            session,
            zombie: false,
            started: 1,
        };
        let all = [process(2, 1, 1), process(3, 1, 3), process(4, 3, 3), process(5, 4, 5), process(6, 9, 6)];
        let pids: Vec<_> = descendants(&all, 1, 1).iter().map(|process| process.pid).collect();
        assert_eq!(pids, [3, 4, 5]);
    }
}
