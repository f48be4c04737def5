//! The ssh connection that this agent was started over.
//!
//! When the air is dead, sshd may not notice for hours (facts/ssh.md S27). The agent does, and it ends the connection's own
//! server process: then every other command of that connection sees the end of its input and ends as well.

use rustix::process::{Pid, Signal, kill_process};

/// How far up the server process may be: sudo and a shell lie between.
const DEPTH: usize = 8;

/// Ends the server process of our connection, if we were started over ssh. The listener is never touched: it is the parent
/// of a parent, and only the nearest is ended.
pub fn end_own() {
    let mut pid = std::process::id();
    for _ in 0..DEPTH {
        let Some((name, parent)) = stat(pid) else { return };
        if is_server(&name) {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                // Gone already is as good.
                let _ = kill_process(pid, Signal::TERM);
            }
            return;
        }
        if parent <= 1 {
            return;
        }
        pid = parent;
    }
}

fn is_server(name: &str) -> bool {
    matches!(name, "sshd" | "sshd-session" | "dropbear")
}

/// Returns a process's short name and parent.
fn stat(pid: u32) -> Option<(String, u32)> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of `/proc/PID/stat`; the name may hold anything, so it ends at the last parenthesis.
fn parse(line: &str) -> Option<(String, u32)> {
    let (head, tail) = line.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let parent = tail.split_whitespace().nth(1)?.parse().ok()?;
    Some((name, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_do_not_confuse_the_line() {
        assert_eq!(parse("12 (a) b (c) S 7 1 1"), Some(("a) b (c".into(), 7)));
        assert_eq!(parse("12 (sshd) S 1 1"), Some(("sshd".into(), 1)));
        assert_eq!(parse("nonsense"), None);
        assert!(stat(std::process::id()).is_some_and(|(_, parent)| parent > 0));
    }
}
