//! What a machine has used up: processor time of all its processes, bytes over its cable, memory of each process.

use std::{fs, path::PathBuf, time::Duration};

use super::{
    error::{LabError, Result},
    machine::Machine,
};

/// Counters of a machine since it was booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all processes, of those that have ended too; work that the kernel does by itself is not in it.
    pub cpu: Duration,
    /// Bytes sent and received over the cable, with all headers down to Ethernet.
    pub wire_bytes: u64,
}

/// The memory of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Number on the host.
    pub host_pid: i32,
    /// The file that it runs, without directories.
    pub program: String,
    /// Its arguments joined by spaces.
    pub command: String,
    /// The most that it had in memory so far.
    pub peak_bytes: u64,
}

impl Machine {
    /// Returns the counters as they stand.
    pub fn usage(&self) -> Result<Usage> {
        let stat = self.shared.place.machine_cgroup(self.name).join("cpu.stat");
        let dev = PathBuf::from(format!("/proc/{}/net/dev", self.door()?.pid()));
        let read = |path: &PathBuf| fs::read_to_string(path).map_err(LabError::path("read", path));
        let nonsense =
            |path: &PathBuf| LabError::Invalid { what: format!("`{}` says nothing", path.display()) };
        Ok(Usage {
            cpu: cpu_of(&read(&stat)?).ok_or_else(|| nonsense(&stat))?,
            wire_bytes: wire_of(&read(&dev)?).ok_or_else(|| nonsense(&dev))?,
        })
    }

    /// Returns the memory of all processes that run a file; those that end meanwhile are left out.
    pub fn memory(&self) -> Vec<Memory> {
        let look = |process: super::Process| {
            let exe = fs::read_link(format!("/proc/{}/exe", process.host_pid)).ok()?;
            let status = fs::read_to_string(format!("/proc/{}/status", process.host_pid)).ok()?;
            Some(Memory {
                host_pid: process.host_pid,
                program: exe.file_name()?.to_string_lossy().into_owned(),
                command: process.command,
                peak_bytes: peak_of(&status)?,
            })
        };
        self.processes().into_iter().filter_map(look).collect()
    }
}

fn cpu_of(stat: &str) -> Option<Duration> {
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    micros.trim().parse().ok().map(Duration::from_micros)
}

/// Adds up the first column (received) and the ninth (sent) of the cable's line.
fn wire_of(dev: &str) -> Option<u64> {
    let line = dev.lines().find_map(|line| line.trim().strip_prefix("eth0:"))?;
    let columns: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Some(columns.first()? + columns.get(8)?)
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_of("usage_usec 1500\nuser_usec 1000\n"), Some(Duration::from_micros(1500)));
        let dev = "Inter-|\n    lo: 9 1 0 0 0 0 0 0 9 1\n  eth0: 100 2 0 0 0 0 0 0 23 4 0 0 0 0 0 0\n";
        assert_eq!(wire_of(dev), Some(123));
        assert_eq!(peak_of("Name:\tx\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!((cpu_of(""), wire_of(""), peak_of("")), (None, None, None));
    }
}
