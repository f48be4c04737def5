//! `bench`: pc-switcher beside rsync, in turn, on the same two machines. Called by `benches/run`.

mod figures;
mod image;
mod measure;
mod table;
mod tool;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use pc_switcher_testkit::{
    lab::{Cmd, Lab, LabOptions},
    seed::FullHome,
};

use self::{
    figures::{Case, Figures},
    tool::{COPY, Tool},
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const LAB: &str = "bench";
const SEEDED: &str = "seeded";
/// Sparse on the host; holds both copies with room, and what `[disk]` wants free.
const DISK: u64 = 40 << 30;
const LIMIT: Duration = Duration::from_secs(1800);

/// Measures pc-switcher beside rsync on two machines of this host
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    /// The program to measure
    #[arg(required_unless_present = "clean")]
    program: Option<PathBuf>,
    /// Files in the home
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// How often both begin with an empty target
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How often the other cases are measured in each round
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Measure this case only, beside the first sync that it needs
    #[arg(long)]
    only: Option<Case>,
    /// Print every single figure as JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Keep the log of pc-switcher of each run in this directory
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Only remove what a killed run left
    #[arg(long)]
    clean: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.program {
        Some(program) if !cli.clean => bench(&cli, program).and_then(|figures| {
            print!("{}", if cli.json { table::json(&figures)? } else { table::text(&figures) });
            Ok(())
        }),
        _ => Ok(()),
    };
    match done.and_then(|()| Ok(Lab::purge_by_name(LAB)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(cli: &Cli, program: &std::path::Path) -> Outcome<Figures> {
    let lab = Lab::up(LabOptions::new(LAB).disk_bytes(DISK).uncached_disks())?;
    let home = FullHome::new(1, cli.files);
    eprintln!("seeding {} files", cli.files);
    lab.laptop().copy_in(program, "/usr/local/bin/pc-switcher", 0o755, "root")?;
    home.write(&home_of(&lab)?)?;
    lab.snapshot(SEEDED)?;
    let mut figures = Figures::default();
    for round in 0..cli.rounds {
        lab.reset(SEEDED)?;
        prepare(&lab)?;
        let mut step = |case, turn| run_case(cli, &lab, case, turn, &mut figures);
        let wanted = |case| cli.only.is_none_or(|only| only == case);
        step(Case::First, round)?;
        for repeat in 0..cli.repeats {
            if wanted(Case::NoChange) {
                step(Case::NoChange, round + repeat)?;
            }
            if wanted(Case::Changed) {
                let day = (round * cli.repeats + repeat) as u64;
                let changed = home.work(&home_of(&lab)?, day)?;
                eprintln!("{changed:?}");
                step(Case::Changed, round + repeat)?;
            }
        }
        if wanted(Case::Image) {
            image::write(&home_of(&lab)?)?;
            bring_over(&lab)?;
            for repeat in 0..cli.repeats {
                image::change(&home_of(&lab)?, (round * cli.repeats + repeat) as u64)?;
                step(Case::Image, round + repeat)?;
            }
        }
        if wanted(Case::Renamed) {
            lab.laptop().run(
                &Cmd::script("mkdir all; mv [!.]* all/ 2>&1 | grep -v subdirectory || true").as_alice(),
            )?;
            bring_over(&lab)?;
            for repeat in 0..cli.repeats {
                lab.laptop().run(&Cmd::script(&format!("mv all* all-{repeat}")).as_alice())?;
                step(Case::Renamed, round + repeat)?;
            }
        }
        check_copies(&lab)?;
    }
    lab.down()?;
    Ok(figures)
}

fn home_of(lab: &Lab) -> Outcome<PathBuf> {
    Ok(lab.laptop().root_path()?.join("home/alice"))
}

/// Lets both tools do their work unmeasured, before a case that begins from there.
fn bring_over(lab: &Lab) -> Outcome {
    for tool in [Tool::PcSwitcher, Tool::Rsync] {
        lab.laptop().run(&tool.command(Case::Changed))?;
    }
    Ok(())
}

/// Lets both tools begin alike: the source's files are in memory, and rsync's copy has a subvolume of its own, on the same
/// file system and outside of what pc-switcher takes snapshots of.
fn prepare(lab: &Lab) -> Outcome {
    let warm = "find /home -type f -exec cat {} + >/dev/null; find /home -printf '%s %T@\\n' >/dev/null";
    lab.laptop().run(&Cmd::script(warm).timeout(LIMIT))?;
    lab.desk().run(&Cmd::new("btrfs").args(["subvolume", "create", COPY]))?;
    Ok(())
}

/// Measures one case with both tools; which one begins changes with every turn.
fn run_case(cli: &Cli, lab: &Lab, case: Case, turn: usize, figures: &mut Figures) -> Outcome {
    let mut order = [Tool::PcSwitcher, Tool::Rsync];
    order.rotate_left(turn % 2);
    for tool in order {
        lab.laptop().sync_disk()?;
        lab.desk().sync_disk()?;
        let run = measure::run(lab, &tool.command(case), tool.program())?;
        eprintln!("{case:?} {tool:?}: {run}");
        if let (Tool::PcSwitcher, Some(dir)) = (tool, &cli.logs) {
            let log = lab.laptop().run(&Cmd::script("pc-switcher logs --last").as_alice())?;
            std::fs::write(dir.join(format!("{case:?}-{turn}.log")), log)?;
        }
        figures.add(case, tool, run);
    }
    Ok(())
}

/// Has rsync compare the home with what each tool made of it: a fast wrong copy is no figure.
fn check_copies(lab: &Lab) -> Outcome {
    for tool in [Tool::PcSwitcher, Tool::Rsync] {
        let differences = lab.laptop().run(&tool.check())?;
        if !differences.trim().is_empty() {
            return Err(format!("the copy of {tool:?} differs:\n{differences}").into());
        }
    }
    Ok(())
}
