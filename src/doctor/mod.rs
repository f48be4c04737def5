//! What `doctor` finds: pure judgements over what was seen on one machine or on both, each with its fix.

mod alone;
mod boot;
mod both;
mod fstab;
mod good;
mod leftovers;
mod look;
mod render;
mod seen;
mod settle;

use pc_switcher_contract::Hostname;
use serde::Serialize;

pub(crate) use self::alone::quoted;
pub(crate) use self::fstab::escaped as fstab_field;
pub use self::look::{Place, look_at, problems_of, way_back};
pub use self::render::{json, text};
pub use self::seen::{Doubt, Seen};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gravity {
    /// A sync will fail.
    Fault,
    /// A sync works, and something else will not or may surprise.
    Warning,
    /// Good to know; nothing to mend.
    Note,
}

impl Gravity {
    fn word(self) -> &'static str {
        match self {
            Gravity::Fault => "fault",
            Gravity::Warning => "warning",
            Gravity::Note => "note",
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The machine it was found on.
    pub hostname: Hostname,
    /// How much it matters.
    pub gravity: Gravity,
    /// What was looked at, one word.
    pub check: &'static str,
    /// What is wrong: a fragment without a period.
    pub text: String,
    /// How it is mended: commands to type there, or a sentence.
    pub fix: Vec<String>,
}

impl Finding {
    fn new(hostname: &Hostname, gravity: Gravity, check: &'static str, text: impl Into<String>) -> Self {
        Self { hostname: hostname.clone(), gravity, check, text: text.into(), fix: Vec::new() }
    }

    #[must_use]
    fn fix(mut self, line: impl Into<String>) -> Self {
        self.fix.push(line.into());
        self
    }
}

/// Judges one or two machines: the one where the command was typed comes first.
pub fn judge(machines: &[Seen]) -> Vec<Finding> {
    let one = |seen| {
        let found = alone::findings(seen).into_iter().chain(boot::findings(seen));
        found.chain(good::findings(seen)).chain(leftovers::findings(seen))
    };
    let mut found: Vec<Finding> = machines.iter().flat_map(one).collect();
    if let [source, target] = machines {
        found.extend(both::findings(source, target));
    }
    found.sort_by(|a, b| {
        let place = |finding: &Finding| machines.iter().position(|seen| seen.hostname() == &finding.hostname);
        (place(a), a.gravity).cmp(&(place(b), b.gravity))
    });
    found
}

/// Whether anything is to be mended.
pub fn is_ill(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.gravity != Gravity::Note)
}

#[cfg(test)]
mod tests;
