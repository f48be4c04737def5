//! Which processes hold a set: what the kernel says of the locks on its `lock` file, so that nobody has to write it down and
//! nothing of it is there when they are gone.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::sidecar::Sidecar;
use crate::linux::processes;
use crate::proto::Holder;

/// So many words of a command line are told.
const WORDS: usize = 3;

/// Returns who holds a reference to a set right now. A process of another namespace of processes is not seen.
pub(super) fn holders(sidecar: &Sidecar) -> Vec<Holder> {
    let Ok(lock) = fs::metadata(sidecar.lock()) else { return Vec::new() };
    let Ok(table) = fs::read_to_string("/proc/locks") else { return Vec::new() };
    // The table names the device of the file system, which on btrfs is not that of the file: whether it is this file is asked of
    // the process.
    let has_it = |pid: &i32| {
        fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().any(|fd| {
            fs::metadata(fd.path()).is_ok_and(|file| (file.dev(), file.ino()) == (lock.dev(), lock.ino()))
        })
    };
    let pids = readers(&table, lock.ino()).into_iter().filter(has_it);
    pids.filter_map(|pid| Some(Holder { pid, program: program(pid)? })).collect()
}

/// Returns the processes that have a shared lock on a file of this number.
fn readers(table: &str, inode: u64) -> Vec<i32> {
    let pid = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "READ", pid, file, ..] => {
                let is_it = file.rsplit(':').next().is_some_and(|number| number.parse() == Ok(inode));
                pid.parse().ok().filter(|pid| is_it && *pid > 0)
            }
            _ => None,
        }
    };
    let mut pids: Vec<i32> = table.lines().filter_map(pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Returns the beginning of a command line, for people; `None` if the process is gone.
fn program(pid: i32) -> Option<String> {
    processes::look(pid)?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).take(WORDS);
    let words: Vec<String> = words
        .map(|word| String::from_utf8_lossy(word).chars().filter(|c| !c.is_control()).collect())
        .collect();
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_locks_those_count_that_are_shared_and_held_on_this_file() {
        let table = "1: FLOCK  ADVISORY  READ 700 00:1d:42 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 701 00:1d:42 0 EOF\n\
                     2: -> FLOCK  ADVISORY  READ 702 00:1d:42 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 703 00:1d:42 0 EOF\n\
                     4: POSIX  ADVISORY  READ 704 00:1d:42 0 EOF\n\
                     5: FLOCK  ADVISORY  READ 705 00:1d:142 0 EOF\n\
                     6: FLOCK  ADVISORY  READ 0 00:1d:42 0 EOF\nnonsense\n";
        assert_eq!(readers(table, 42), [700, 701]);
    }
}
