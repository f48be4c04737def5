//! The stream as JSON lines on stdout, for programs.

use std::io::Write;

use pc_switcher_contract::{Event, EventKind, LogLevel};

use super::screen::Painter;
use crate::session::Report;

/// Shows each event as the contract serialises it; log lines from the given level on.
pub(super) struct Json {
    pub(super) level: LogLevel,
    pub(super) output: Box<dyn Write + Send>,
}

impl Json {
    fn line(&mut self, value: &impl serde::Serialize) {
        if let Ok(line) = serde_json::to_string(value) {
            // A reader that went away must not stop the sync.
            writeln!(self.output, "{line}").and_then(|()| self.output.flush()).ok();
        }
    }
}

impl Painter for Json {
    fn paint(&mut self, event: &Event) {
        if matches!(&event.kind, EventKind::Log { level, .. } if *level < self.level) {
            return;
        }
        self.line(event);
    }

    fn report(&mut self, report: &Report) {
        #[derive(serde::Serialize)]
        struct Last<'a> {
            r#type: &'static str,
            #[serde(flatten)]
            report: &'a Report,
        }
        self.line(&Last { r#type: "report", report });
    }
}
