//! Judgements over what syncs left that did not end.

use pc_switcher_agent::proto::{Redone, RedoneHow};
use pc_switcher_contract::BytePath;

use super::seen::Seen;
use super::{Finding, Gravity};

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let mut found: Vec<Finding> = seen.redone.iter().flat_map(|redone| cut_off(seen, redone)).collect();
    if seen.is_busy {
        let text = "a sync is under way: what it has staged is not looked at";
        found.push(Finding::new(seen.hostname(), Gravity::Note, "syncs", text));
    } else {
        found.extend(staging(seen));
    }
    found
}

/// A sync that was cut off: what was done about it, and what it left alone.
fn cut_off(seen: &Seen, redone: &Redone) -> Vec<Finding> {
    let finding = |gravity, text: String| Finding::new(seen.hostname(), gravity, "syncs", text);
    let ended = match &redone.how {
        RedoneHow::Dropped | RedoneHow::Finished => finding(Gravity::Note, redone.explain()),
        RedoneHow::GivenUp(_) => finding(Gravity::Warning, redone.explain())
            .fix("the same sync again plans anew and brings what is missing"),
        RedoneHow::Pending(_) => finding(Gravity::Warning, redone.explain()).fix(
            "mend that, and `pc-switcher doctor` finishes it; a sync to this machine plans anew instead",
        ),
    };
    let mut found = vec![ended];
    for conflict in &redone.report.conflicts {
        let text = format!("`{}` was left as it is: {}", conflict.path, conflict.why);
        found.push(finding(Gravity::Warning, text).fix("the next sync asks about it"));
    }
    let kept = redone.report.kept.iter();
    let kept = kept.map(|path| format!("`{path}` is kept: it holds something that is not mirrored"));
    let refused = redone.report.refused.lines(seen.hostname());
    let notes = kept.chain(redone.report.warnings.iter().cloned()).chain(refused);
    found.extend(notes.map(|text| finding(Gravity::Note, text)));
    found
}

/// Staging that no session knows any more, and versions that wait for their owner.
fn staging(seen: &Seen) -> Vec<Finding> {
    let is_pending = |name: &str| {
        let pending = seen.redone.iter().filter(|redone| matches!(redone.how, RedoneHow::Pending(_)));
        pending.into_iter().any(|redone| name.ends_with(redone.session.as_str()))
    };
    let mut found = Vec::new();
    for part in &seen.layout.parts {
        for name in &part.leftovers {
            let place = part.root.join(b".pc-switcher").join(name.as_bytes());
            if !is_pending(&name.to_string()) {
                found.extend(leftover(seen, name, &place));
            }
        }
    }
    found
}

fn leftover(seen: &Seen, name: &BytePath, place: &BytePath) -> Option<Finding> {
    let name = name.to_string();
    let remove = format!("sudo rm -r {}", super::alone::quoted(place));
    let warn = |text: String| Finding::new(seen.hostname(), Gravity::Warning, "staging", text);
    Some(match name.split_once('-')? {
        ("kept", _) => {
            warn(format!("`{place}` keeps versions that were written to while they were replaced"))
                .fix(format!("take what you need, then: {remove}"))
        }
        ("undo", _) => warn(format!("`{place}` holds what a sync displaced that did not end"))
            .fix("the next sync to this machine keeps what nobody else has, and removes the rest"),
        ("stage" | "deep", _) => warn(format!("`{place}` is left of a sync that did not end")).fix(remove),
        _ => return None,
    })
}
