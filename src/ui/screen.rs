//! The one owner of the terminal: reads the stream on a thread of its own and paints it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::ProgressDrawTarget;
use pc_switcher_contract::{Event, LogLevel, ModuleName};

use super::bars::Bars;
use super::json::Json;
use super::mode::Mode;
use super::plain::{Lines, Plain};
use crate::events::{Reader, lock};
use crate::session::Report;

/// How often bars are drawn anew.
const FRAME: Duration = Duration::from_millis(100);

/// One way to show the stream.
pub(super) trait Painter: Send {
    /// Shows one event.
    fn paint(&mut self, event: &Event);
    /// Draws what moves by itself.
    fn tick(&mut self) {}
    /// Takes away what would be drawn over; the next paint brings it back.
    fn hide(&mut self) {}
    /// Takes away all that moves, for good: nothing may be drawn below the report.
    fn close(&mut self) {}
    /// Shows the report, if that is this painter's business.
    fn report(&mut self, _report: &Report) {}
}

/// What to show and how.
#[derive(Debug, Clone)]
pub struct ScreenOptions {
    /// Bars, lines or JSON.
    pub mode: Mode,
    /// `log_cli_level`.
    pub level: LogLevel,
    /// Whether to colour.
    pub colours: bool,
    /// Names of modules in the user's words; others are shown without dashes.
    pub labels: Vec<(ModuleName, String)>,
}

/// Where it is shown.
pub struct Outputs {
    /// For people: stderr.
    pub human: Box<dyn Write + Send>,
    /// For data and the final report: stdout.
    pub data: Box<dyn Write + Send>,
    /// Where bars are drawn: stderr.
    pub bars: ProgressDrawTarget,
}

impl Outputs {
    /// Returns those of this process.
    pub fn standard() -> Self {
        Self {
            human: Box::new(std::io::stderr()),
            data: Box::new(std::io::stdout()),
            bars: ProgressDrawTarget::stderr_with_hz(10),
        }
    }
}

struct State {
    painter: Box<dyn Painter>,
    pauses: usize,
}

struct Shared {
    reader: Reader,
    state: Mutex<State>,
    resumed: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn unpaused(&self) -> MutexGuard<'_, State> {
        self.resumed
            .wait_while(lock(&self.state), |state| state.pauses > 0 && !self.stop.load(Ordering::Relaxed))
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Shows all that waits; taking and painting are one step, so the order stays.
    fn drain(&self, state: &mut State) {
        while let Some(event) = self.reader.try_next() {
            state.painter.paint(&event);
        }
    }
}

/// The running screen.
pub struct Screen {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    report: Option<Box<dyn Write + Send>>,
}

/// Pauses the screen for someone else who must write to the terminal.
#[derive(Clone)]
pub struct ScreenHandle {
    shared: Arc<Shared>,
}

impl Screen {
    /// Starts showing what `reader` gets.
    pub fn start(reader: Reader, options: ScreenOptions, outputs: Outputs) -> Self {
        let ScreenOptions { mode, level, colours, labels } = options;
        let lines = Lines { level, colours, labels };
        let (painter, report): (Box<dyn Painter>, _) = match mode {
            Mode::Bars => (Box::new(Bars::new(lines, outputs.bars)), Some(outputs.data)),
            Mode::Plain => (Box::new(Plain::new(lines, outputs.human)), Some(outputs.data)),
            Mode::Json => (Box::new(Json { level, output: outputs.data }), None),
        };
        let shared = Arc::new(Shared {
            reader,
            state: Mutex::new(State { painter, pauses: 0 }),
            resumed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let painting = shared.clone();
        let thread = std::thread::spawn(move || {
            loop {
                let more = painting.reader.wait(FRAME);
                let mut state = painting.unpaused();
                painting.drain(&mut state);
                if !more || painting.stop.load(Ordering::Relaxed) {
                    return;
                }
                state.painter.tick();
            }
        });
        Self { shared, thread, report }
    }

    /// Returns a handle for those who must pause the screen.
    pub fn handle(&self) -> ScreenHandle {
        ScreenHandle { shared: self.shared.clone() }
    }

    /// Shows what still waits, takes the bars away for good, and shows the report: as text, or as one more JSON line.
    pub fn finish(self, report: Option<&Report>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.resumed.notify_all();
        // A painter that panicked must not take the sync's ending with it.
        drop(self.thread.join());
        let mut state = lock(&self.shared.state);
        self.shared.drain(&mut state);
        state.painter.close();
        let Some(report) = report else { return };
        state.painter.report(report);
        if let Some(mut output) = self.report {
            let text = report.render().join("\n");
            // Whoever read stdout may be gone; the exit code still tells.
            writeln!(output, "{text}").and_then(|()| output.flush()).ok();
        }
    }
}

impl ScreenHandle {
    /// Shows what waits, takes the bars away and stands still until the guard is dropped.
    pub fn pause(&self) -> Pause {
        let mut state = lock(&self.shared.state);
        if state.pauses == 0 {
            self.shared.drain(&mut state);
            state.painter.hide();
        }
        state.pauses += 1;
        Pause { shared: self.shared.clone() }
    }
}

/// While it lives the screen writes nothing. May be held across an await, for ssh's own questions.
pub struct Pause {
    shared: Arc<Shared>,
}

impl Drop for Pause {
    fn drop(&mut self) {
        lock(&self.shared.state).pauses -= 1;
        self.shared.resumed.notify_all();
    }
}

#[cfg(test)]
mod tests;
