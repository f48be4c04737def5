//! Bars at the bottom of the terminal, lines above them.
//!
//! Nothing ticks by itself: bars are drawn only while the screen holds the terminal.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pc_switcher_contract::{Event, EventKind, ModuleName, ModuleResult};

use super::meter::Meter;
use super::plain::Lines;
use super::screen::Painter;
use crate::session::text;

/// Steps of a bar.
const STEPS: u64 = 1000;

/// Shows bars for modules that report progress, and one for the whole.
pub(super) struct Bars {
    lines: Lines,
    multi: MultiProgress,
    overall: ProgressBar,
    modules: BTreeMap<ModuleName, ProgressBar>,
    meter: Meter,
}

impl Bars {
    pub(super) fn new(lines: Lines, target: ProgressDrawTarget) -> Self {
        let multi = MultiProgress::with_draw_target(target);
        Self { lines, multi, overall: bar("in all"), modules: BTreeMap::new(), meter: Meter::default() }
    }

    fn progress(&mut self, event: &Event) {
        let EventKind::Progress { module, progress } = &event.kind else { return };
        if self.modules.is_empty() {
            self.overall = self.multi.add(self.overall.clone());
        }
        let state = self.meter.update(module, event.at, progress);
        let label = text::label(module, &self.lines.labels);
        let bar = self
            .modules
            .entry(module.clone())
            .or_insert_with(|| self.multi.insert_before(&self.overall, bar(&label)));
        if let Some(fraction) = progress.fraction {
            bar.set_position(steps(fraction.get()));
        }
        let parts: Vec<&str> =
            [state.as_str(), &progress.item].into_iter().filter(|s| !s.is_empty()).collect();
        bar.set_message(parts.join("  ").replace('\n', " "));
        self.show_overall();
    }

    fn finish(&mut self, module: &ModuleName, result: ModuleResult) {
        self.meter.finish(module);
        if let Some(bar) = self.modules.get(module) {
            match result {
                ModuleResult::Success => {
                    bar.set_position(STEPS);
                    bar.finish_with_message("100 %, done");
                }
                ModuleResult::Skipped => bar.abandon_with_message("skipped"),
                ModuleResult::Failed => bar.abandon_with_message("failed"),
            }
            self.show_overall();
        }
    }

    fn show_overall(&self) {
        self.overall.set_position(steps(self.meter.overall()));
        self.overall.set_message(self.meter.overall_text());
    }
}

impl Painter for Bars {
    fn paint(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Started { modules, .. } => self.meter.expect(modules),
            EventKind::Progress { .. } => self.progress(event),
            EventKind::Module { module, result, .. } => self.finish(module, *result),
            _ => {}
        }
        if let Some(line) = self.lines.line(event) {
            // A terminal that went away must not stop the sync.
            self.multi.println(line).ok();
        }
    }

    fn tick(&mut self) {
        for bar in self.modules.values().filter(|bar| !bar.is_finished()) {
            bar.tick();
        }
    }

    fn hide(&mut self) {
        self.multi.clear().ok();
    }

    fn close(&mut self) {
        self.hide();
        // A bar that is dropped unfinished draws itself once more.
        self.multi.set_draw_target(ProgressDrawTarget::hidden());
    }
}

fn bar(label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<16} {bar:20} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ");
    ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::hidden())
        .with_style(style)
        .with_prefix(label.to_owned())
}

fn steps(fraction: f64) -> u64 {
    (fraction.clamp(0.0, 1.0) * STEPS as f64) as u64
}

#[cfg(test)]
mod tests;
