//! The figures as a table for people and as JSON for programs.

use std::fmt::Write;

use super::{
    figures::{Case, Figures, MEMORY_GOAL},
    measure::Run,
    tool::Tool,
};

const MB: f64 = 1e6;

fn wall(run: &Run) -> f64 {
    run.wall.as_secs_f64()
}

fn cpu(run: &Run) -> f64 {
    run.cpu.as_secs_f64()
}

fn memory(run: &Run) -> f64 {
    run.peak_bytes() as f64 / MB
}

fn wire(run: &Run) -> f64 {
    run.wire_bytes as f64 / MB
}

/// Writes the medians of each case, the ratios, and whether the goals are reached.
pub fn text(figures: &Figures) -> String {
    let mut out = "| case | runs | | wall s | CPU s | largest process MB | wire MB |\n".to_owned();
    out += "|---|---|---|---|---|---|---|\n";
    for case in Case::ALL {
        if figures.runs(case, Tool::PcSwitcher).is_empty() {
            continue;
        }
        for (tool, name) in [(Tool::PcSwitcher, "pc-switcher"), (Tool::Rsync, "rsync")] {
            let runs = figures.runs(case, tool).len();
            let cell = |of: fn(&Run) -> f64, digits: usize| {
                figures.median(case, tool, of).map_or("–".to_owned(), |value| format!("{value:.digits$}"))
            };
            let (case, memory) = (case.name(), cell(memory, 0));
            let _ = writeln!(
                out,
                "| {case} | {runs} | {name} | {} | {} | {memory} | {} |",
                cell(wall, 2),
                cell(cpu, 2),
                cell(wire, 2)
            );
        }
        let ratio = |of: fn(&Run) -> f64| {
            figures.ratio(case, of).map_or("–".to_owned(), |value| format!("**{value:.3}**"))
        };
        let (wall, cpu, memory, wire) = (ratio(wall), ratio(cpu), ratio(memory), ratio(wire));
        let _ = writeln!(out, "| {} | | ratio | {wall} | {cpu} | {memory} | {wire} |", case.name());
    }
    out.push('\n');
    for case in Case::ALL {
        if let Some(ratio) = figures.ratio(case, wall) {
            let (goal, name) = (case.goal(), case.name());
            let word = word(ratio <= goal);
            let _ = writeln!(out, "{name}: {ratio:.3} of rsync's time, the goal is {goal:.3}: {word}");
        }
    }
    let runs = Case::ALL.into_iter().flat_map(|case| figures.runs(case, Tool::PcSwitcher));
    if let Some(most) = runs.map(Run::peak_bytes).max() {
        let (mb, goal, word) = (most as f64 / MB, MEMORY_GOAL as f64 / MB, word(most <= MEMORY_GOAL));
        let _ = writeln!(out, "largest process of pc-switcher: {mb:.0} MB, the goal is {goal:.0} MB: {word}");
    }
    out
}

fn word(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "NOT reached" }
}

/// Writes every run.
pub fn json(figures: &Figures) -> Result<String, serde_json::Error> {
    let mut rows = Vec::new();
    for case in Case::ALL {
        for tool in [Tool::PcSwitcher, Tool::Rsync] {
            rows.extend(figures.runs(case, tool).iter().map(|run| {
                serde_json::json!({
                    "case": case.name(),
                    "tool": tool.program(),
                    "wall_seconds": wall(run),
                    "cpu_seconds": cpu(run),
                    "wire_bytes": run.wire_bytes,
                    "memory_bytes": run.memory,
                })
            }));
        }
    }
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}
