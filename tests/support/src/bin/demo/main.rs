//! `demo`: two machines, one home, one sync, and what it leaves. Called by `tests/demo`.

mod show;

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use pc_switcher_testkit::{
    lab::{Cmd, Lab, LabOptions, Machine},
    manifest::{ManifestOptions, TreeManifest},
    seed::HomeSeed,
};

type Outcome = Result<(), Box<dyn Error>>;

const LAB: &str = "demo";
const PROGRAM: &str = "/usr/local/bin/pc-switcher";
/// Sparse on the host; the defaults of `[disk]` want 10 GiB free.
const DISK: u64 = 24 << 30;

fn main() -> ExitCode {
    let Some(program) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: demo PATH-OF-PC-SWITCHER, or `demo --clean` after a demo that was killed");
        return ExitCode::from(2);
    };
    let done = if program == Path::new("--clean") { clean() } else { demo(&program).and_then(|()| clean()) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn clean() -> Outcome {
    Ok(Lab::purge_by_name(LAB)?)
}

fn demo(program: &Path) -> Outcome {
    let start = Instant::now();
    let lab = Lab::up(LabOptions::new(LAB).disk_bytes(DISK))?;
    let (laptop, desk) = (lab.laptop(), lab.desk());
    show::heading("Two machines with btrfs, joined by a cable", start.elapsed());
    show::say("laptop has pc-switcher and alice's home; desk has sshd and nothing else");
    laptop.copy_in(program, PROGRAM, 0o755, "root")?;
    laptop.seed_home(&HomeSeed::new(1))?;
    show::typed(laptop, "ls; ls Documents | wc -l; du -sh .")?;
    show::typed(desk, "ls -a")?;

    let start = Instant::now();
    show::typed(laptop, "pc-switcher sync desk --allow-first-sync")?;
    show::heading("The person has moved", start.elapsed());
    show::typed(desk, "ls; ls Documents | wc -l; sqlite3 data/notes.db 'select count(*) from notes'")?;
    compare(laptop, desk)?;

    show::heading("A way back, on both machines", start.elapsed());
    show::typed_by_root(laptop, "ls /.snapshots")?;
    show::typed_by_root(desk, "ls /.snapshots")?;

    let start = Instant::now();
    show::typed(laptop, "pc-switcher sync desk")?;
    show::heading("A second sync had nothing to do", start.elapsed());

    let start = Instant::now();
    show::typed(desk, "echo 'written at the desk' >> notes/from-the-desk.md; rm Documents/shared.txt")?;
    show::typed(desk, "pc-switcher sync laptop")?;
    show::heading("And back, without any set-up on desk", start.elapsed());
    show::typed(laptop, "cat notes/from-the-desk.md; ls Documents/shared.txt || true")?;
    compare(laptop, desk)?;

    let left: Vec<String> = [laptop, desk]
        .into_iter()
        .flat_map(|machine| machine.processes().into_iter().map(move |process| (machine, process)))
        .filter(|(_, process)| process.command.contains("pc-switcher"))
        .map(|(machine, process)| format!("{}: {}", machine.hostname(), process.command))
        .collect();
    if !left.is_empty() {
        return Err(format!("processes are left: {}", left.join(", ")).into());
    }
    let start = Instant::now();
    lab.down()?;
    show::heading("No process was left on either machine; the machines are gone", start.elapsed());
    Ok(())
}

/// Compares alice's home on both machines, path by path.
fn compare(laptop: &Machine, desk: &Machine) -> Outcome {
    let read = |machine: &Machine| -> Result<TreeManifest, Box<dyn Error>> {
        // What belongs to a machine is never moved.
        let own = [".ssh", ".cache", ".local", ".config"];
        let options = own.into_iter().fold(ManifestOptions::new(), ManifestOptions::exclude);
        // A socket belongs to the program that listens on it.
        let options = options.exclude("special/agent.sock");
        Ok(machine.manifest("/home/alice", &options)?)
    };
    let (here, there) = (read(laptop)?, read(desk)?);
    let differences = here.diff(&there);
    for difference in differences.iter().take(10) {
        show::say(&difference.to_string());
    }
    if !differences.is_empty() {
        return Err(format!("the homes differ in {} paths", differences.len()).into());
    }
    show::say(&format!(
        "{} paths compared: content, times to the nanosecond, owners, rights, attributes, links: the same",
        here.len()
    ));
    Ok(())
}

/// How long a command of the demo may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Describes a line that alice types.
fn by_alice(line: &str) -> Cmd {
    // One stream, so that the lines come in the order in which they were written.
    Cmd::script(&format!("exec 2>&1; {line}")).as_alice().timeout(LIMIT)
}
