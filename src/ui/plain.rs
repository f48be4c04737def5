//! Lines: for pipes and logs of other programs, and above the bars.

use std::io::Write;
use std::time::Duration;

use console::Style;
use jiff::Timestamp;
use pc_switcher_contract::{Event, EventKind, LogLevel, ModuleName, Plan};

use super::meter::Meter;
use super::screen::Painter;
use crate::session::text;

/// Least time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// What lines need to know.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    /// Least level that is shown; what is no log line counts as INFO.
    pub(super) level: LogLevel,
    /// Whether to colour.
    pub(super) colours: bool,
    /// Names of modules in the user's words.
    pub(super) labels: Vec<(ModuleName, String)>,
}

impl Lines {
    /// Returns the line of an event; progress has none here. `stage:`, `state:` and `module:` lines are stable.
    pub(super) fn line(&self, event: &Event) -> Option<String> {
        if let EventKind::Log { level, module, hostname, message, .. } = &event.kind {
            return (*level >= self.level).then(|| {
                let who = if module.as_str() == "core" {
                    hostname.to_string()
                } else {
                    format!("{hostname} {}", text::label(module, &self.labels))
                };
                let grade = match level {
                    LogLevel::Info => String::new(),
                    level => format!("{} ", self.style(*level).apply_to(level.as_str())),
                };
                // A line break in foreign text must not look like a line of ours.
                format!("{grade}{who}: {}", message.trim_end().replace('\n', "\n    "))
            });
        }
        if self.level > LogLevel::Info {
            return None;
        }
        match &event.kind {
            EventKind::Started { source, target, dry_run, .. } => Some(if *dry_run {
                format!("dry run: {source} → {target}, nothing is written")
            } else {
                format!("sync: {source} → {target}")
            }),
            EventKind::Connected { target } => Some(format!("connected: {target}")),
            EventKind::State { state } => Some(format!("state: {state}")),
            EventKind::Stage { stage } => Some(format!("stage: {stage}")),
            EventKind::Snapshots { set } => {
                let subvolumes: Vec<&str> = set.members.iter().map(|m| m.name.subvolume.as_str()).collect();
                Some(format!("snapshots: {} {}, {}", set.hostname, set.kind.in_name(), subvolumes.join(" ")))
            }
            EventKind::Plan { module, plan } => Some(plan_text(module, plan)),
            EventKind::Module { module, result, summary } if summary.is_empty() => {
                Some(format!("module: {module} {result}"))
            }
            EventKind::Module { module, result, summary } => {
                Some(format!("module: {module} {result}: {}", summary.replace('\n', "\n    ")))
            }
            EventKind::Log { .. } | EventKind::Progress { .. } | EventKind::Ended { .. } => None,
        }
    }

    fn style(&self, level: LogLevel) -> Style {
        let style = Style::new().force_styling(self.colours);
        match level {
            LogLevel::Debug | LogLevel::Full => style.dim(),
            LogLevel::Info => style,
            LogLevel::Warning => style.yellow(),
            LogLevel::Error | LogLevel::Critical => style.red().bold(),
        }
    }
}

/// Most changes of a plan that are shown one by one; `--json` has all.
const PLAN_ITEMS: usize = 40;

/// Writes a plan for people: numbers first, then the changes.
fn plan_text(module: &ModuleName, plan: &Plan) -> String {
    let mut lines = vec![format!("plan: {module}: {}", plan.summary)];
    for item in plan.items.iter().take(PLAN_ITEMS) {
        let bytes = if item.bytes > 0 { format!("  ({})", text::bytes(item.bytes)) } else { String::new() };
        lines.push(format!("    {:<8}  {}{bytes}", item.action, item.path));
    }
    if plan.items.len() > PLAN_ITEMS {
        lines.push(format!("    … and {} more; `--json` shows all", plan.items.len() - PLAN_ITEMS));
    }
    lines.extend(plan.warnings.iter().map(|warning| format!("    note: {warning}")));
    lines.join("\n")
}

/// Shows the stream as lines alone.
pub(super) struct Plain {
    lines: Lines,
    output: Box<dyn Write + Send>,
    meter: Meter,
    last_progress: Option<Timestamp>,
}

impl Plain {
    pub(super) fn new(lines: Lines, output: Box<dyn Write + Send>) -> Self {
        Self { lines, output, meter: Meter::default(), last_progress: None }
    }

    fn progress_line(&mut self, event: &Event) -> Option<String> {
        let EventKind::Progress { module, progress } = &event.kind else { return None };
        let state = self.meter.update(module, event.at, progress);
        let recent = self
            .last_progress
            .is_some_and(|last| event.at.duration_since(last).unsigned_abs() < PROGRESS_EVERY);
        if recent || self.lines.level > LogLevel::Info {
            return None;
        }
        self.last_progress = Some(event.at);
        let label = text::label(module, &self.lines.labels);
        let parts: Vec<&str> =
            [state.as_str(), &progress.item].into_iter().filter(|s| !s.is_empty()).collect();
        Some(format!("progress: {label} {}", parts.join(", ")))
    }
}

impl Painter for Plain {
    fn paint(&mut self, event: &Event) {
        let line = self.progress_line(event).or_else(|| self.lines.line(event));
        if let Some(line) = line {
            // A reader that went away must not stop the sync.
            writeln!(self.output, "{line}").and_then(|()| self.output.flush()).ok();
        }
    }
}
