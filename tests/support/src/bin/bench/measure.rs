//! Runs one command and measures it from outside, the same way whichever tool it is.

use std::{
    collections::BTreeMap,
    fmt, thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use pc_switcher_testkit::lab::{Cmd, Lab, Usage};

use super::{LIMIT, Outcome};

/// How often memory is looked at. A peak stays visible until its process ends, so only the last moment can be missed.
const LOOK: Duration = Duration::from_millis(25);
/// How long processes that end after the command are waited for; not part of its time.
const SETTLE: Duration = Duration::from_millis(300);

/// What one run took.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// From start to end of what was typed.
    pub wall: Duration,
    /// Of all processes on both machines, ssh and sshd included.
    pub cpu: Duration,
    /// Over the cable, both directions.
    pub wire_bytes: u64,
    /// The peak of each of the tool's processes, by machine and command.
    pub memory: BTreeMap<String, u64>,
    /// Of a sync of ours, the part of the time that was left when the connection was there.
    pub connected: Option<Duration>,
    /// What really changed, in blocks of 4 KiB, where the generator knows.
    pub changed_bytes: Option<u64>,
}

impl Run {
    /// Returns the time in seconds.
    pub fn wall(&self) -> Option<f64> {
        Some(self.wall.as_secs_f64())
    }

    /// Returns the time behind the connection in seconds, if it is known.
    pub fn connected(&self) -> Option<f64> {
        self.connected.map(|time| time.as_secs_f64())
    }

    /// Returns the processor time in seconds.
    pub fn cpu(&self) -> Option<f64> {
        Some(self.cpu.as_secs_f64())
    }

    /// Returns the peak of the largest process in bytes, if one was seen.
    pub fn memory(&self) -> Option<f64> {
        self.memory.values().copied().max().map(|bytes| bytes as f64)
    }

    /// Returns the bytes on the wire.
    pub fn wire(&self) -> Option<f64> {
        Some(self.wire_bytes as f64)
    }

    /// Returns the bytes on the wire in parts of those that changed.
    pub fn wire_share(&self) -> Option<f64> {
        self.changed_bytes.filter(|&bytes| bytes > 0).map(|bytes| self.wire_bytes as f64 / bytes as f64)
    }

    /// Returns the peak of the largest process.
    pub fn peak_bytes(&self) -> u64 {
        self.memory.values().copied().max().unwrap_or(0)
    }

    #[cfg(test)]
    pub fn of_seconds(seconds: u64) -> Self {
        Self { wall: Duration::from_secs(seconds), ..Self::default() }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.2} s, {:.2} s of CPU, {:.2} MiB on the wire",
            self.wall.as_secs_f64(),
            self.cpu.as_secs_f64(),
            mib(self.wire_bytes)
        )?;
        self.memory.iter().try_for_each(|(process, peak)| write!(f, "; {:.0} MiB {process}", mib(*peak)))
    }
}

/// Runs `cmd` on the laptop; it must succeed. Memory is that of programs whose name begins with `program`.
pub fn run(lab: &Lab, cmd: &Cmd, program: &str) -> Outcome<Run> {
    let before = usage(lab)?;
    let start = Instant::now();
    let mut running = lab.laptop().spawn(cmd)?;
    running.close_stdin();
    let (output, wall, memory) = thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let output = running.wait();
            (output, start.elapsed())
        });
        let mut memory = BTreeMap::new();
        while !waiting.is_finished() && start.elapsed() < LIMIT {
            look(lab, program, &mut memory);
            thread::sleep(LOOK);
        }
        match waiting.join() {
            Ok((output, wall)) => Ok((output?, wall, memory)),
            Err(_) => Err(Box::<dyn std::error::Error>::from("the waiting thread panicked")),
        }
    })?;
    if !output.status.success() {
        return Err(
            format!("it ended with {}: {}{}", output.status, output.text(), output.error_text()).into()
        );
    }
    thread::sleep(SETTLE);
    let after = usage(lab)?;
    Ok(Run {
        wall,
        cpu: after.cpu.saturating_sub(before.cpu),
        wire_bytes: after.wire_bytes - before.wire_bytes,
        memory,
        connected: None,
        changed_bytes: None,
    })
}

/// Returns the time from the connection to the end that a log of ours tells.
pub fn connected(log: &str) -> Option<Duration> {
    let time = |kind: &str| -> Option<Timestamp> {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let entry = lines.into_iter().find(|entry| entry["kind"] == kind)?;
        entry["timestamp"].as_str()?.parse().ok()
    };
    time("ended")?.duration_since(time("connected")?).try_into().ok()
}

/// Both machines' processor time, and the cable as the laptop sees it.
pub fn usage(lab: &Lab) -> Outcome<Usage> {
    let (laptop, desk) = (lab.laptop().usage()?, lab.desk().usage()?);
    Ok(Usage { cpu: laptop.cpu + desk.cpu, wire_bytes: laptop.wire_bytes })
}

/// Notes the peak of each process of the program, on both machines.
pub fn look(lab: &Lab, program: &str, memory: &mut BTreeMap<String, u64>) {
    for machine in [lab.laptop(), lab.desk()] {
        for process in machine.memory().into_iter().filter(|process| process.program.starts_with(program)) {
            // The path that a program was pushed to holds a random word.
            let words = process.command.split(' ').skip(1).take(1).collect::<String>();
            let key = format!("{}: {program} {words} ({})", machine.hostname(), process.host_pid);
            let peak = memory.entry(key).or_insert(0);
            *peak = process.peak_bytes.max(*peak);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_behind_the_connection_is_read_out_of_the_log() {
        let line =
            |kind, second| format!("{{\"kind\":\"{kind}\",\"timestamp\":\"2026-11-22T11:06:{second}Z\"}}\n");
        let log = [line("started", "01.5"), line("connected", "02.25"), line("ended", "04.75")].concat();
        assert_eq!(connected(&log), Some(Duration::from_millis(2500)));
        assert_eq!(connected(&line("started", "01")), None);
    }
}
