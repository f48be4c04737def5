//! What became of a guarded command, for people and for programs: pure.

use serde_json::{Value, json};

use super::Guarded;
use super::child::Ended;
use crate::cli::rollback;
use crate::health::Weight;

/// Returns what went wrong, a line each.
pub(super) fn trouble(guarded: &Guarded) -> Vec<String> {
    let host = &guarded.before.hostname;
    let ended = match guarded.ended {
        Ended::With(0) => None,
        Ended::With(code) => Some(format!("{host}: the command ended with {code}")),
        Ended::By(signal) => Some(format!("{host}: the command was ended by signal {signal}")),
    };
    let word = |weight| if weight == Weight::Required { "broken" } else { "worse than before" };
    let broken = guarded.broken.iter().map(|finding| format!("{host}: {}: {finding}", word(finding.weight)));
    ended.into_iter().chain(broken).collect()
}

/// Returns all of it for people.
pub(super) fn text(guarded: &Guarded) -> Vec<String> {
    let host = &guarded.before.hostname;
    let mut said = trouble(guarded);
    if let Some(good) = &guarded.good {
        said.push(format!("{host}: all is well; {good} is the last known good one"));
    } else if let Some(done) = &guarded.rolled_back {
        said.extend(rollback::told(done));
    } else {
        // As the guard would have: the set holds more than what the command was about.
        let subvolumes = guarded.before.subvolumes.iter().map(|name| format!(" --subvol {name}"));
        said.push(format!(
            "{host}: nothing is taken back; `pc-switcher rollback {}{}` does",
            guarded.before.set,
            subvolumes.collect::<String>()
        ));
    }
    said
}

/// Returns all of it for a program.
pub(super) fn json(guarded: &Guarded) -> Value {
    let finding = |finding: &crate::health::Finding| {
        json!({
            "check": finding.name,
            "required": finding.weight == Weight::Required,
            "why": finding.why,
        })
    };
    json!({
        "machine": guarded.before.hostname,
        "before": guarded.before.set,
        "command_exit": guarded.ended.code(),
        "broken": guarded.broken.iter().map(finding).collect::<Vec<_>>(),
        "good": guarded.good,
        "rolled_back": guarded.rolled_back.is_some(),
        "refused": guarded.refused,
        "needs_restart": guarded.rolled_back.as_ref().map(|done| &done.look.in_use),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Before;
    use super::*;
    use crate::cli::Exit;
    use crate::health::Finding;

    fn guarded(ended: Ended, broken: Vec<Finding>) -> Guarded {
        let before = Before {
            hostname: "desk".parse().unwrap(),
            set: "20251115T120000Z-abc12345-autoupdate".parse().unwrap(),
            subvolumes: vec!["@".parse().unwrap()],
            health: Vec::new(),
        };
        Guarded { before, ended, broken, good: None, rolled_back: None, refused: None }
    }

    #[test]
    fn what_broke_is_named_with_the_way_back_and_what_is_only_wanted_breaks_nothing() {
        let red = |weight| Finding { name: "ssh".into(), weight, why: "nobody answers".into() };
        let bad = guarded(Ended::With(100), vec![red(Weight::Required)]);
        assert_eq!(
            text(&bad),
            [
                "desk: the command ended with 100",
                "desk: broken: ssh: nobody answers",
                "desk: nothing is taken back; `pc-switcher rollback 20251115T120000Z-abc12345-autoupdate --subvol @` does",
            ]
        );
        assert_eq!((bad.exit(), json(&bad)["command_exit"].as_i64()), (Exit::Failed, Some(100)));
        let fine = guarded(Ended::With(0), vec![red(Weight::Wanted)]);
        assert_eq!(trouble(&fine), ["desk: worse than before: ssh: nobody answers"]);
        assert_eq!(fine.exit(), Exit::Completed);
    }
}
