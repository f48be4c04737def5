//! Which process runs a session, told apart from a later one with the same number.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A process of one boot of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTag {
    /// Its number.
    pub pid: u32,
    /// When it began, in clock ticks since boot (proc(5), field 22 of `stat`).
    pub start_ticks: u64,
    /// The boot it belongs to.
    pub boot_id: String,
}

impl ProcessTag {
    /// Returns the tag of this process.
    ///
    /// # Errors
    /// If `/proc` does not tell.
    pub fn current() -> io::Result<Self> {
        let pid = std::process::id();
        let start_ticks = start_ticks(pid)?.ok_or_else(|| io::Error::other("`/proc` has no start time"))?;
        Ok(Self { pid, start_ticks, boot_id: boot_id()? })
    }

    /// Whether that process still lives.
    pub fn is_alive(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id)
            && start_ticks(self.pid).is_ok_and(|ticks| ticks == Some(self.start_ticks))
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn start_ticks(pid: u32) -> io::Result<Option<u64>> {
    Ok(parse_start(&fs::read_to_string(format!("/proc/{pid}/stat"))?))
}

/// The name in field 2 may hold blanks and brackets: fields are counted from the last bracket. A zombie is dead.
fn parse_start(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_with_its_number_is_not_it() {
        let own = ProcessTag::current().unwrap();
        assert!(own.is_alive());
        assert!(!ProcessTag { start_ticks: own.start_ticks + 1, ..own.clone() }.is_alive());
        assert!(!ProcessTag { boot_id: "another boot".into(), ..own }.is_alive());
    }

    #[test]
    fn a_name_with_brackets_and_a_zombie_are_understood() {
        let tail = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1";
        assert_eq!(parse_start(&format!("7 (a) S b) S {tail}")), Some(777));
        assert_eq!(parse_start(&format!("7 (a) Z {tail}")), None);
    }
}
