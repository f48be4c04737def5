//! Findings for people and for programs.

use serde_json::json;

use super::{Finding, Seen, is_ill};
use crate::session::text as words;

const WIDTH: usize = 80;

/// Returns the findings as lines of 80 columns, machine by machine.
pub fn text(machines: &[Seen], findings: &[Finding]) -> Vec<String> {
    let mut lines = Vec::new();
    for seen in machines {
        let own: Vec<&Finding> =
            findings.iter().filter(|finding| &finding.hostname == seen.hostname()).collect();
        lines.push(if own.is_empty() {
            format!("{}: nothing found", seen.hostname())
        } else {
            format!("{}:", seen.hostname())
        });
        for finding in own {
            let line = format!("  {:<7}  {}: {}", finding.gravity.word(), finding.check, finding.text);
            lines.extend(words::wrap(&line, WIDTH, "           "));
            // Commands are typed or copied: never broken.
            lines.extend(finding.fix.iter().map(|fix| format!("           fix: {fix}")));
        }
    }
    let to_mend = findings.iter().filter(|finding| is_ill(std::slice::from_ref(finding))).count();
    lines.push(String::new());
    lines.push(match to_mend {
        0 => "Nothing to mend.".to_owned(),
        count => format!("{} to mend.", words::count(count as u64, "finding")),
    });
    lines
}

/// Returns the findings as one JSON value.
pub fn json(machines: &[Seen], findings: &[Finding]) -> serde_json::Value {
    let hostnames: Vec<_> = machines.iter().map(Seen::hostname).collect();
    json!({ "machines": hostnames, "findings": findings, "ill": is_ill(findings) })
}
