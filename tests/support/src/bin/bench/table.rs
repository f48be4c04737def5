//! The figures as tables for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    case::{Case, Scene},
    cli::Plan,
    figures::Figures,
    goals::{GOALS, Goal, Measure, Scale, Verdict},
    measure::Run,
    tool::Tool,
};

const MB: f64 = 1e6;

/// What stands in a column.
type Of = fn(&Run) -> Option<f64>;

/// Columns: what, divided by what, digits.
const COLUMNS: [(Of, f64, usize); 6] = [
    (Run::wall, 1.0, 3),
    (Run::cpu, 1.0, 2),
    (Run::memory, MB, 0),
    (Run::wire, MB, 2),
    (Run::wire_share, 1.0, 2),
    (Run::connected, 1.0, 3),
];

/// Writes the medians of each case, the ratios, and whether the goals are reached.
pub fn text(plan: &Plan, figures: &Figures) -> String {
    let mut out = medians(figures);
    out.push('\n');
    out += &goals(plan, figures);
    let runs = Case::ALL.into_iter().flat_map(|case| figures.runs(case, Tool::PcSwitcher));
    if let Some(most) = runs.map(Run::peak_bytes).max() {
        let _ = writeln!(out, "\nLargest process of pc-switcher in any case: {:.0} MB", most as f64 / MB);
    }
    out
}

fn medians(figures: &Figures) -> String {
    let mut out =
        "| case | runs | | wall s | CPU s | largest process MB | wire MB | wire / changed | with a connection s |\n".to_owned();
    out += "|---|---|---|---|---|---|---|---|---|\n";
    for case in Case::ALL {
        for tool in figures.tools(case) {
            let cells = COLUMNS.map(|(of, unit, digits)| {
                cell(figures.median(case, tool, of).map(|value| format!("{:.digits$}", value / unit)))
            });
            let runs = figures.runs(case, tool).len();
            let _ = writeln!(out, "| {} | {runs} | {} | {} |", case.name(), tool.name(), cells.join(" | "));
        }
        for peer in figures.tools(case).filter(|tool| *tool != Tool::PcSwitcher) {
            let ratio = |(of, ..): &(Of, f64, usize)| {
                cell(figures.ratio(case, peer, of).map(|it| format!("**{it:.3}**")))
            };
            // What changed is the same for both, and peers tell nothing of their connection.
            let cells: Vec<String> = COLUMNS[..4].iter().map(ratio).collect();
            let _ =
                writeln!(out, "| {} | | ours / {} | {} | | |", case.name(), peer.name(), cells.join(" | "));
        }
    }
    out
}

fn cell(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

/// Writes the goals of the cases that were asked for.
fn goals(plan: &Plan, figures: &Figures) -> String {
    let mut out = format!(
        "| goal, {} caches | at most | seen | |\n|---|---|---|---|\n",
        if plan.is_cold { "cold" } else { "warm" }
    );
    for goal in GOALS.iter().filter(|goal| plan.cases.contains(&goal.case)) {
        let (seen, word) = match goal.judge(figures, plan.is_cold) {
            Verdict::Reached(seen) => (Some(seen), "reached"),
            Verdict::Missed(seen) => (Some(seen), "**missed**"),
            Verdict::NotSet(seen) => (Some(seen), "no goal for cold caches"),
            Verdict::NotMeasured => (None, "not measured"),
        };
        let show = |value: f64| match goal.measure {
            Measure::Memory => format!("{:.0} MB", value / MB),
            _ => format!("{value:.3}"),
        };
        let (most, seen) = (cell(goal.most(plan.is_cold).map(show)), cell(seen.map(show)));
        let _ = writeln!(out, "| {} | {most} | {seen} | {word}{} |", what(goal), scale(plan, goal));
    }
    out
}

fn what(goal: &Goal) -> String {
    let case = goal.case.name();
    match goal.measure {
        Measure::Wall(peer) => format!("{case}: time, in parts of that of {}", peer.name()),
        Measure::Connected(peer) => {
            format!("{case}: time once the connection is there, in parts of that of {}", peer.name())
        }
        Measure::Cpu(peer) => format!("{case}: CPU, in parts of that of {}", peer.name()),
        Measure::Wire => format!("{case}: wire, in parts of what changed"),
        Measure::Memory => format!("{case}: largest process"),
    }
}

/// Says so if the goal was set for more than what was measured.
fn scale(plan: &Plan, goal: &Goal) -> String {
    let files = if goal.scene() == Scene::Image { 0 } else { plan.home(goal.scene()).files() };
    match goal.scale {
        _ if goal.is_at_scale(files, plan.image().bytes()) => String::new(),
        Scale::Files(wanted) => format!(" (set for {wanted} files, measured with {files})"),
        Scale::Image(wanted) => {
            format!(" (set for {} MiB, measured with {})", wanted >> 20, plan.image().bytes() >> 20)
        }
    }
}

/// Writes every run and the goals.
pub fn json(plan: &Plan, figures: &Figures) -> Result<String, serde_json::Error> {
    let run = |case: Case, tool: Tool, run: &Run| {
        json!({
            "case": case.name(),
            "tool": tool.name(),
            "wall_seconds": run.wall(),
            "connected_seconds": run.connected(),
            "cpu_seconds": run.cpu(),
            "wire_bytes": run.wire_bytes,
            "changed_bytes": run.changed_bytes,
            "memory_bytes": run.memory,
        })
    };
    let of_case = |case: Case| {
        let of_tool = move |tool| figures.runs(case, tool).iter().map(move |it| run(case, tool, it));
        figures.tools(case).flat_map(of_tool).collect::<Vec<_>>()
    };
    let goal = |goal: &Goal| {
        let (seen, verdict) = match goal.judge(figures, plan.is_cold) {
            Verdict::Reached(seen) => (Some(seen), "reached"),
            Verdict::Missed(seen) => (Some(seen), "missed"),
            Verdict::NotSet(seen) => (Some(seen), "no goal"),
            Verdict::NotMeasured => (None, "not measured"),
        };
        let most = goal.most(plan.is_cold);
        json!({ "goal": what(goal), "at_most": most, "seen": seen, "verdict": verdict, "scale": scale(plan, goal).trim() })
    };
    let homes: Vec<Value> = plan
        .scenes()
        .into_iter()
        .map(|scene| match scene {
            Scene::Image => json!({ "home": scene.saved(), "bytes": plan.image().bytes() }),
            Scene::Home | Scene::Tiny => json!({ "home": scene.saved(), "files": plan.home(scene).files() }),
        })
        .collect();
    let left_out: Vec<Value> =
        plan.left_out.iter().map(|(tool, why)| json!({ "tool": tool.name(), "why": why })).collect();
    let all = json!({
        "homes": homes,
        "cold_caches": plan.is_cold,
        "left_out": left_out,
        "runs": Case::ALL.into_iter().flat_map(of_case).collect::<Vec<_>>(),
        "goals": GOALS.iter().map(goal).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::cli::Cli, *};

    fn plan(line: &str) -> Plan {
        let words = ["benches/run", "program"].into_iter().chain(line.split_whitespace());
        Plan::of(Cli::try_parse_from(words).unwrap()).unwrap()
    }

    fn figures() -> Figures {
        let mut figures = Figures::default();
        let ours = Run { wire_bytes: 2_000_000, changed_bytes: Some(1_000_000), ..Run::of_seconds(1) };
        figures.add(Case::Changed, Tool::PcSwitcher, ours);
        figures.add(Case::Changed, Tool::Rsync, Run { wire_bytes: 4_000_000, ..Run::of_seconds(10) });
        figures
    }

    #[test]
    fn medians_ratios_and_goals_stand_in_tables() {
        let text = text(&plan("--peers rsync --only changed --files 300000"), &figures());
        for line in [
            "| 1 % changed | 1 | pc-switcher | 1.000 | 0.00 | – | 2.00 | 2.00 | – |",
            "| 1 % changed | | ours / rsync | **0.100** | – | – | **0.500** | | |",
            "| 1 % changed: time, in parts of that of rsync | 0.125 | 0.100 | reached |",
            "| 1 % changed: time, in parts of that of btrfs send | 0.600 | – | not measured |",
            "| 1 % changed: wire, in parts of what changed | 1.060 | 2.000 | **missed** |",
        ] {
            assert!(text.contains(line), "`{line}` is not in:\n{text}");
        }
        assert!(!text.contains("directory renamed"), "{text}");
    }

    #[test]
    fn a_goal_for_more_files_says_so_and_cold_caches_have_no_goal_here() {
        let text = text(&plan("--peers rsync --only changed --files 3000 --cold"), &figures());
        let line = "| – | 0.100 | no goal for cold caches (set for 300000 files, measured with 3000) |";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn json_has_every_run_and_every_goal() {
        let text = json(&plan("--peers rsync --only changed"), &figures()).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["runs"].as_array().unwrap().len(), 2);
        assert_eq!(value["goals"].as_array().unwrap().len(), GOALS.len());
        assert_eq!(value["runs"][0]["changed_bytes"], 1_000_000);
    }
}
