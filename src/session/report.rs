//! What is said at the end: pure, from the session; as text of 80 columns and as JSON.

use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_contract::{
    GateKind, Hostname, LogLevel, ModuleName, ModuleResult, Problem, SessionId, SessionState, SnapshotSet,
};
use serde::{Deserialize, Serialize};

use super::SyncSession;
use super::text;
use crate::events::Tally;

const WIDTH: usize = 80;
/// The exit code of a sync that the target took back by itself.
const ROLLED_BACK: u8 = 8;
/// Most texts of one kind that are shown; the log has all.
const SHOWN: usize = 10;

/// The failure that ended a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed and where.
    pub message: String,
    /// What to try, one sentence each.
    pub hints: Vec<String>,
}

/// What the report adds to the session: known only at the end.
#[derive(Debug, Clone, Default)]
pub struct Closing {
    /// The exit code.
    pub exit_code: u8,
    /// Warnings and errors of the run.
    pub tally: Tally,
    /// The failure that ended the run.
    pub failure: Option<Failure>,
    /// All that validation found.
    pub problems: Vec<Problem>,
    /// Conflicts, a line each, with where the losing version is kept.
    pub conflicts: Vec<String>,
    /// What verification found: `None` if it did not run, empty if a second plan is empty.
    pub verified: Option<Vec<Problem>>,
    /// How many paths somebody changed on the target meanwhile.
    pub unsettled: usize,
    /// How many paths stay other than on the source, each with a warning.
    pub left: usize,
    /// What else was checked and found right.
    pub checks: Vec<String>,
    /// Where the log is.
    pub log: Option<String>,
    /// At which gates a real run would ask: of a dry run only.
    pub would_ask: Vec<GateKind>,
    /// Whether a module had something to do.
    pub changed: bool,
    /// Further steps, besides those that follow from the ending.
    pub next: Vec<String>,
}

/// One module in the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The module.
    pub module: ModuleName,
    /// How it went.
    pub result: ModuleResult,
    /// A line for people.
    pub summary: String,
}

/// The final report of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The session.
    pub session_id: SessionId,
    /// How it ended.
    pub state: SessionState,
    /// The exit code.
    pub exit_code: u8,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// When it began, UTC.
    pub started: Timestamp,
    /// When it was over, UTC.
    pub ended: Timestamp,
    /// Whole seconds from begin to end.
    pub duration_seconds: u64,
    /// The machine the user sat at.
    pub source_hostname: Hostname,
    /// The machine the user moved to; as typed, if it never said its name.
    pub target_hostname: String,
    /// Modules in order.
    pub modules: Vec<Block>,
    /// Sets of both machines.
    pub snapshots: Vec<SnapshotSet>,
    /// Warnings and errors, shown again.
    pub tally: Tally,
    /// The failure that ended the run.
    pub failure: Option<Failure>,
    /// All that validation found.
    pub problems: Vec<Problem>,
    /// Conflicts.
    pub conflicts: Vec<String>,
    /// What verification found.
    pub verified: Option<Vec<Problem>>,
    /// How many paths somebody changed on the target meanwhile: they stay as they are there.
    #[serde(default)]
    pub unsettled: usize,
    /// How many paths stay other than on the source, each with a warning.
    #[serde(default)]
    pub left: usize,
    /// What else was checked and found right.
    #[serde(default)]
    pub checks: Vec<String>,
    /// Where the log is.
    pub log: Option<String>,
    /// At which gates a real run would ask: of a dry run only.
    #[serde(default)]
    pub would_ask: Vec<GateKind>,
    /// What to do next.
    pub next: Vec<String>,
}

impl Report {
    /// Makes the report of a session; one that is still running counts as ended at `now`.
    pub fn new(session: &SyncSession, closing: Closing, now: Timestamp) -> Self {
        let ended = session.ended.unwrap_or(now);
        let block = |(module, result): (&ModuleName, ModuleResult)| Block {
            module: module.clone(),
            result,
            summary: session.summaries.get(module).cloned().unwrap_or_default(),
        };
        let mut next = next_steps(session, &closing);
        next.extend(closing.next);
        Self {
            session_id: session.id.clone(),
            state: session.state(),
            exit_code: closing.exit_code,
            dry_run: session.dry_run,
            started: session.started,
            ended,
            duration_seconds: ended.duration_since(session.started).unsigned_abs().as_secs(),
            source_hostname: session.source_hostname.clone(),
            target_hostname: session.target_name().to_owned(),
            modules: session.results().into_iter().map(block).collect(),
            snapshots: session.snapshots.clone(),
            tally: closing.tally,
            failure: closing.failure,
            problems: closing.problems,
            conflicts: closing.conflicts,
            verified: closing.verified,
            unsettled: closing.unsettled,
            left: closing.left,
            checks: closing.checks,
            log: closing.log,
            would_ask: closing.would_ask,
            next,
        }
    }

    /// Returns the report as lines of at most 80 columns; only paths may be wider.
    pub fn render(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        lines.extend(text::wrap(&self.headline(), WIDTH, "  "));
        self.failure_lines(&mut lines);
        self.module_lines(&mut lines);
        self.snapshot_lines(&mut lines);
        let checked = self.verified.iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
        match &self.verified {
            Some(found) if found.is_empty() => {
                let empty = match self.unsettled {
                    0 if self.left > 0 => {
                        format!(
                            "a second plan is empty but for {} left as told above",
                            text::count(self.left as u64, "path")
                        )
                    }
                    0 => "a second plan is empty, both machines are the same".to_owned(),
                    n => format!(
                        "a second plan is empty but for {} that changed on {} meanwhile",
                        text::count(n as u64, "path"),
                        self.target_hostname
                    ),
                };
                let checks: Vec<String> = [vec![empty], self.checks.clone()].concat();
                lines.push(String::new());
                lines.extend(text::wrap(&format!("Checked: {}.", checks.join("; ")), WIDTH, "  "));
            }
            Some(_) => list(&mut lines, "Checked, and different:", &checked),
            None => {}
        }
        list(&mut lines, "Conflicts:", &self.conflicts);
        self.warning_lines(&mut lines);
        list(&mut lines, "Next:", &self.next);
        if let Some(log) = &self.log {
            lines.extend([String::new(), format!("Log: {log}")]);
        }
        lines
    }

    fn headline(&self) -> String {
        let way = format!("{} → {}", self.source_hostname, self.target_hostname);
        let time = text::duration(Duration::from_secs(self.duration_seconds));
        let session = &self.session_id;
        let warnings = match self.tally.warnings {
            0 => String::new(),
            n => format!(", with {}", text::count(n, "warning")),
        };
        match (self.state, self.dry_run) {
            (SessionState::Completed, true) => {
                format!("Dry run {way}: nothing was written{warnings} (session {session}, {time})")
            }
            (SessionState::Completed, false) => {
                format!("Synced {way} in {time}{warnings} (session {session})")
            }
            (SessionState::Aborted, _) => format!("Stopped by you: {way}, after {time} (session {session})"),
            (SessionState::Failed, _) if self.exit_code == ROLLED_BACK => {
                let target = &self.target_hostname;
                format!(
                    "Rolled back: {way}: {target} is what it was before, after {time} (session {session})"
                )
            }
            (SessionState::Failed, _) => format!("Failed: {way}, after {time}{warnings} (session {session})"),
            (state, _) => format!("{state}: {way}, since {time} (session {session})"),
        }
    }

    fn failure_lines(&self, lines: &mut Vec<String>) {
        if let Some(failure) = &self.failure {
            lines.push(String::new());
            lines.extend(text::wrap(&format!("Reason: {}", failure.message), WIDTH, "  "));
            for hint in &failure.hints {
                lines.extend(text::wrap(&format!("  try: {hint}"), WIDTH, "       "));
            }
        }
        let problems: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        list_all(lines, "To mend first:", &problems);
    }

    fn module_lines(&self, lines: &mut Vec<String>) {
        if self.modules.is_empty() {
            return;
        }
        lines.push(String::new());
        let widest = self.modules.iter().map(|block| block.module.as_str().len()).max().unwrap_or(0);
        for Block { module, result, summary } in &self.modules {
            let line =
                format!("  {module:<widest$}  {:<7}  {summary}", result.as_str(), module = module.as_str());
            lines.extend(text::wrap_after(line.trim_end(), WIDTH, widest + 13));
        }
    }

    fn snapshot_lines(&self, lines: &mut Vec<String>) {
        if self.snapshots.is_empty() {
            return;
        }
        lines.extend([String::new(), "Snapshots:".to_owned()]);
        for set in &self.snapshots {
            let names: Vec<&str> = set.members.iter().map(|member| member.name.subvolume.as_str()).collect();
            let line =
                format!("  {} {} {}: {}", set.hostname, set.kind.in_name(), set.stamp, names.join(" "));
            lines.extend(text::wrap(&line, WIDTH, "    "));
        }
    }

    fn warning_lines(&self, lines: &mut Vec<String>) {
        // The failure that ended the run is said once, as the reason.
        let critical = self.tally.remembered.iter().filter(|kept| kept.level == LogLevel::Critical).count();
        let errors = self.tally.errors.saturating_sub(critical as u64);
        let again: Vec<String> = self
            .tally
            .remembered
            .iter()
            .filter(|kept| kept.level != LogLevel::Critical)
            .map(|kept| format!("{} {} {}: {}", kept.level, kept.hostname, kept.module, kept.message))
            .collect();
        let counts: Vec<String> = [(errors, "error"), (self.tally.warnings, "warning")]
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, noun)| text::count(number, noun))
            .collect();
        if !again.is_empty() {
            list(lines, &format!("{}:", counts.join(", ")), &again);
        }
    }
}

fn list(lines: &mut Vec<String>, heading: &str, items: &[String]) {
    list_all(lines, heading, &items[..items.len().min(SHOWN)]);
    if items.len() > SHOWN {
        lines.push(format!("  and {} more, all in the log", items.len() - SHOWN));
    }
}

fn list_all(lines: &mut Vec<String>, heading: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    lines.extend([String::new(), heading.to_owned()]);
    for item in items {
        lines.extend(text::wrap(&format!("  {item}"), WIDTH, "    "));
    }
}

/// Says where the target keeps what it had before.
fn kept(session: &SyncSession) -> String {
    let sets = format!("in its pre-sync snapshots of session {}", session.id);
    match session.without_snapshots {
        false => sets,
        true => format!(
            "{sets}; where there are none, `.pc-switcher/undo-{}` keeps what was replaced until the next sync",
            session.id
        ),
    }
}

/// What follows from the ending alone.
fn next_steps(session: &SyncSession, closing: &Closing) -> Vec<String> {
    let target = session.target_name();
    let changed = !session.dry_run && (!session.snapshots.is_empty() || session.without_snapshots);
    match session.state() {
        SessionState::Completed if session.dry_run => {
            let flags: Vec<&str> = closing.would_ask.iter().filter_map(|gate| gate.flag()).collect();
            let plain = format!("`pc-switcher sync {}`", session.target);
            match flags.as_slice() {
                [] => vec![format!("{plain} does it")],
                flags => vec![format!(
                    "{plain} asks about what is warned of above, and does it if you say yes; without a terminal it takes \
                     `{}`",
                    flags.join(" ")
                )],
            }
        }
        SessionState::Completed => {
            let mut next = vec![
                format!("sit down at {target}; programs that ran there during the sync may need a restart"),
                format!("what {target} had before is {}", kept(session)),
            ];
            if closing.changed && !session.without_snapshots {
                next.push(format!(
                    "`pc-switcher undo {}` on {target} takes this sync back and leaves later work alone",
                    session.id
                ));
            }
            next
        }
        SessionState::Aborted | SessionState::Failed if changed && closing.exit_code != ROLLED_BACK => vec![
            format!("`pc-switcher sync {}` again plans anew and brings what is missing", session.target),
            format!("what {target} had before is {}", kept(session)),
        ],
        SessionState::Failed if closing.exit_code == ROLLED_BACK => {
            vec![format!(
                "the next sync brings all of it again: mend what it broke on {} first",
                session.source_hostname
            )]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
