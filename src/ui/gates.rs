//! The gates of a session: flag, then dry run, then the person at the terminal, else refusal.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use pc_switcher_contract::{Answer, ErrorKind, Gate, GateKind, Gatekeeper, Hostname, ModuleError};

use super::prompt::Prompter;
use crate::events::CoreLog;
use crate::session::text;

/// Most findings shown in one question.
const SHOWN: usize = 20;
/// Columns of a question.
const WIDTH: usize = 80;

/// Opens gates by flag or by asking. `--yes` is not known here: it never opens one.
pub struct Gates {
    /// Who asks.
    pub prompter: Arc<Prompter>,
    /// Gates opened by their own flag, or by config.
    pub flags: HashSet<GateKind>,
    /// Whether nothing will be written.
    pub dry_run: bool,
    /// The machine the user sits at.
    pub source: Hostname,
    /// The machine the user moves to.
    pub target: Hostname,
    /// Says how each gate was passed.
    pub log: CoreLog,
}

impl Gates {
    fn question(&self, gate: &Gate) -> String {
        let mut lines = vec![format!("{} → {}: {}", self.source, self.target, text::gate(gate.kind))];
        lines.extend(
            gate.summary.iter().flat_map(|summary| text::wrap(&format!("  {summary}:"), WIDTH, "  ")),
        );
        for finding in gate.findings.iter().take(SHOWN) {
            lines.extend(text::wrap(&format!("  - {finding}"), WIDTH, "    "));
        }
        lines.extend(more(gate).map(|more| format!("  - {more}")));
        lines.extend(text::wrap(&format!("If you say yes: {}", gate.consequence), WIDTH, "  "));
        lines.push("Go on?".to_owned());
        lines.join("\n")
    }

    /// Names what was found, a line each: nobody may have to look into a log for what a sync would overwrite.
    fn name(&self, gate: &Gate, say: fn(&CoreLog, String)) {
        let heading = text::gate(gate.kind);
        for (at, finding) in gate.findings.iter().enumerate() {
            let say = if at < SHOWN { say } else { CoreLog::full };
            say(&self.log, format!("{heading}: {finding}"));
        }
        if let Some(more) = more(gate) {
            say(&self.log, format!("{heading}: {more}"));
        }
    }

    /// One line for logs and errors.
    fn brief(&self, gate: &Gate) -> String {
        let first = gate.summary.as_ref().or(gate.findings.first());
        let first = first.map_or_else(String::new, |first| format!(": {first}"));
        let more = match gate.findings.len() {
            n if n > 1 && gate.summary.is_none() => format!(" (and {} more)", n - 1),
            _ => String::new(),
        };
        format!("{} → {}: {}{first}{more}", self.source, self.target, text::gate(gate.kind))
    }
}

/// What is said instead of the findings that are not shown.
fn more(gate: &Gate) -> Option<String> {
    let hidden = gate.findings.len().saturating_sub(SHOWN);
    (hidden > 0).then(|| format!("and {hidden} more; `--dry-run --json` names them all"))
}

#[async_trait]
impl Gatekeeper for Gates {
    async fn pass(&self, gate: Gate) -> Result<Answer, ModuleError> {
        let brief = self.brief(&gate);
        let refused = |why: &str| ModuleError::new(ErrorKind::Refused(gate.kind), format!("{why}: {brief}"));
        let Some(flag) = gate.kind.flag() else {
            self.name(&gate, CoreLog::warning);
            return Err(refused("refused"));
        };
        if self.flags.contains(&gate.kind) {
            self.name(&gate, CoreLog::info);
            self.log.info(format!("allowed by `{flag}`: {brief}"));
            return Ok(Answer::ByFlag);
        }
        if self.dry_run {
            self.name(&gate, CoreLog::warning);
            self.log.warning(format!("a real run would ask (or want `{flag}`): {brief}"));
            return Ok(Answer::DryRun);
        }
        let hint = format!("add `{flag}` if that is what you want");
        if !self.prompter.can_ask() {
            self.name(&gate, CoreLog::warning);
            return Err(refused("not allowed, and no terminal to ask on").hint(hint));
        }
        // The question names them.
        self.name(&gate, CoreLog::full);
        if self.prompter.confirm(&self.question(&gate)).await? {
            self.log.info(format!("allowed by the user: {brief}"));
            return Ok(Answer::ByUser);
        }
        Err(refused("declined").hint(hint))
    }
}

#[cfg(test)]
mod tests;
