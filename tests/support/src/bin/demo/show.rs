//! What the demo prints: headings, what is typed where, and what it answers.

use std::{
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

use pc_switcher_testkit::lab::{Cmd, Machine};

use super::{LIMIT, Outcome, by_alice};

const STEP: Duration = Duration::from_millis(20);

/// Prints a heading with the time that it took to get there.
pub fn heading(text: &str, took: Duration) {
    println!("\n== {text} ({:.1} s)", took.as_secs_f64());
}

/// Prints a line of the demo itself.
pub fn say(text: &str) {
    println!("   {text}");
}

/// Prints a line as typed by alice, runs it, and prints its answer as it comes. It must succeed.
pub fn typed(machine: &Machine, line: &str) -> Outcome {
    run(machine, &by_alice(line), &format!("alice@{}:~$ {line}", machine.hostname()))
}

/// Prints and runs a line typed by root.
pub fn typed_by_root(machine: &Machine, line: &str) -> Outcome {
    run(machine, &Cmd::script(line).timeout(LIMIT), &format!("root@{}:~# {line}", machine.hostname()))
}

fn run(machine: &Machine, cmd: &Cmd, prompt: &str) -> Outcome {
    println!("\n{prompt}");
    let mut running = machine.spawn(cmd)?;
    running.close_stdin();
    let start = Instant::now();
    let mut shown = 0;
    while running.try_wait()?.is_none() && start.elapsed() < LIMIT {
        shown += print(&running.stdout()[shown..])?;
        thread::sleep(STEP);
    }
    let output = running.wait()?;
    print(&output.stdout[shown..])?;
    print(&output.stderr)?;
    match output.code() {
        Some(0) => Ok(()),
        code => Err(format!("it ended with {code:?}").into()),
    }
}

fn print(bytes: &[u8]) -> io::Result<usize> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(bytes.len())
}
