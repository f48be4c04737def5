//! `bench`: pc-switcher beside its peers, in turn, on the same two machines. Called by `benches/run`.

mod case;
mod cli;
mod detection;
mod figures;
mod goals;
mod measure;
mod needs;
mod peers;
mod scene;
mod table;
mod tool;

use std::{error::Error, process::ExitCode, time::Duration};

use clap::Parser;
use pc_switcher_testkit::lab::{Lab, LabOptions};
use rustix::process::{Signal, set_parent_process_death_signal};

use self::{
    cli::{Cli, Plan},
    figures::Figures,
    scene::Stage,
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const LAB: &str = "bench";
/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Outcome {
    if cli.clean {
        return Ok(Lab::purge_by_name(LAB)?);
    }
    cli.parts().into_iter().try_for_each(run_part)
}

fn run_part(cli: Cli) -> Outcome {
    let is_plan_only = cli.is_plan_only();
    let plan = Plan::of(cli)?;
    let (needs, (place, free_bytes)) = (plan.needs(), needs::free()?);
    if is_plan_only {
        println!("{plan}");
        let gb = |bytes: u64| bytes as f64 / 1e9;
        println!("disk:     {:.1} GB of {:.1} free", gb(needs.host_bytes()), gb(free_bytes));
    }
    if let Some(why) = needs.refuse(free_bytes, &place) {
        return Err(why.into());
    }
    if is_plan_only {
        return Ok(());
    }
    // Whoever ends `benches/run`, by SIGKILL too, ends this, and with it the machines.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    eprintln!("{plan}");
    let figures = measure_all(&plan)?;
    print!("{}", if plan.is_json { table::json(&plan, &figures)? } else { table::text(&plan, &figures) });
    Ok(Lab::purge_by_name(LAB)?)
}

fn measure_all(plan: &Plan) -> Outcome<Figures> {
    let lab = Lab::up(LabOptions::new(LAB).disk_bytes(plan.needs().disk_bytes()).uncached_disks())?;
    let mut stage = Stage { lab: &lab, plan, figures: Figures::default() };
    stage.seed()?;
    for round in 0..plan.rounds {
        for scene in plan.scenes() {
            stage.round(scene, round)?;
        }
    }
    let figures = stage.figures;
    lab.down()?;
    Ok(figures)
}
