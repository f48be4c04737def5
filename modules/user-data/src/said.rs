//! Plans in words and numbers, for reports and dry runs: pure.

use pc_switcher_agent::proto::{Body, Op};
use pc_switcher_contract::{BytePath, PlanItem, Role, human_bytes};

use crate::parts::PartPair;
use crate::steps::Stats;
use crate::survey::Survey;

/// Adds up what all plans come to.
pub(crate) fn total(surveys: &[Survey]) -> Stats {
    let mut stats = Stats::default();
    for survey in surveys {
        stats.add(survey.steps.stats);
    }
    stats
}

/// Writes the numbers for people, for example `12 new, 3 changed, 1 gone, 84.0 MiB`.
pub(crate) fn describe(stats: Stats) -> String {
    if stats.is_empty() {
        return "nothing to change".into();
    }
    let counts = [
        (stats.created, "new"),
        (stats.updated, "changed"),
        (stats.metadata, "metadata"),
        (stats.moved, "moved"),
        (stats.deleted, "gone"),
    ];
    let mut words: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if stats.bytes > 0 {
        words.push(human_bytes(stats.bytes));
    }
    words.join(", ")
}

/// Returns a line of the plan per step that a person would call a change.
pub(crate) fn plan_items(part: &PartPair, survey: &Survey) -> Vec<PlanItem> {
    let item = |action: &str, path: &BytePath, bytes: u64| PlanItem {
        action: action.to_owned(),
        path: part.root.join(path.as_bytes()),
        bytes,
    };
    let mut items: Vec<PlanItem> =
        survey.conflicts.iter().map(|conflict| item("conflict", &conflict.path, 0)).collect();
    if part.is_missing(Role::Target) {
        items.push(item("create", &BytePath::default(), 0));
    }
    if part.is_missing(Role::Source) {
        items.push(item("delete", &BytePath::default(), 0));
    }
    for op in &survey.steps.ops {
        items.push(match op {
            Op::Put { path, body, replaces, .. } => {
                let bytes = match body {
                    Body::File { size, .. }
                    | Body::Patched { size, .. }
                    | Body::Built { size, .. }
                    | Body::Proven { size, .. } => *size,
                    _ => 0,
                };
                item(if replaces.is_some() { "update" } else { "create" }, path, bytes)
            }
            Op::Link { path, .. } => item("link", path, 0),
            Op::Remove { path, .. } | Op::RemoveDir { path } => item("delete", path, 0),
            Op::SetMeta { path, expect: Some(_), .. } => item("metadata", path, 0),
            Op::SetMeta { expect: None, .. }
            | Op::SetDir { .. }
            | Op::Move { .. }
            | Op::Swap { .. }
            | Op::Aside { .. } => {
                continue;
            }
        });
    }
    let moved = survey.moves.pairs.iter().map(|(_, to)| item("move", to, 0));
    items.extend(moved);
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_only_when_they_are_not_zero() {
        assert_eq!(describe(Stats::default()), "nothing to change");
        let stats = Stats { created: 2, deleted: 1, bytes: 3 << 20, ..Stats::default() };
        assert_eq!(describe(stats), "2 new, 1 gone, 3.0 MiB");
    }
}
