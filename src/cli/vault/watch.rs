//! A run that may take long: a bar on a terminal, Ctrl+C, questions.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pc_switcher_contract::{self as contract, Fraction, ModuleError};
use pc_switcher_vault::engine::{Observer, Progress};
use pc_switcher_vault::service::Ask;
use pc_switcher_vault::store::Stop;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::super::{CliError, Context, engine};
use super::passphrase::Source;
use crate::ui::{FdConsole, Prompter};

/// What a long run is handed.
pub(super) struct Watch {
    runtime: Runtime,
    prompter: Arc<Prompter>,
    cancel: CancellationToken,
    bar: ProgressBar,
    phase: Arc<Mutex<Phase>>,
    lines: Option<Arc<Lines>>,
    source: Source,
    known: Option<Vec<u8>>,
}

/// Hears how it goes on; may be shared by threads.
pub(super) struct Bar {
    bar: ProgressBar,
    phase: Arc<Mutex<Phase>>,
    lines: Option<Arc<Lines>>,
    cancel: CancellationToken,
}

impl Watch {
    /// Listens to Ctrl+C from here on.
    ///
    /// # Errors
    /// If the terminal or the signals cannot be used.
    pub(super) fn begin(source: Source, context: &Context<'_>) -> Result<Self, CliError> {
        let failed = |what: &str, error: std::io::Error| CliError::Failed(format!("cannot {what}: {error}"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| failed("start", error))?;
        let facts = engine::terminal_facts(&context.env);
        let console = FdConsole::standard(facts).map_err(|error| failed("use the terminal", error))?;
        let cancel = CancellationToken::new();
        let prompter = Arc::new(Prompter::new(Arc::new(console), cancel.clone()));
        let listening = runtime.block_on(async { engine::listen(&prompter, &cancel) });
        // Nobody asks which signal it was: the token is what counts.
        drop(listening.map_err(|error| failed("listen to signals", error))?);
        let drawn = facts.stderr && !facts.dumb && !context.global.json;
        let target = if drawn { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let lines = context.global.json.then(|| Arc::new(Lines::new(Instant::now())));
        let phase = Arc::default();
        Ok(Self { runtime, prompter, cancel, bar, phase, lines, source, known: None })
    }

    /// Returns what hears how the run goes on.
    pub(super) fn observer(&self) -> Bar {
        let (bar, phase) = (self.bar.clone(), self.phase.clone());
        Bar { bar, phase, lines: self.lines.clone(), cancel: self.cancel.clone() }
    }

    /// Returns what a Ctrl+C sets.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits for something that goes on beside; whether Ctrl+C ends it is its own matter.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Lets something begin that goes on beside.
    pub(super) fn beside<T>(&self, begin: impl FnOnce() -> T) -> T {
        let _guard = self.runtime.enter();
        begin()
    }

    /// Has a run that waits find out whether it shall end, and tells for what it waits.
    pub(super) fn heed(&self, stop: &Stop) {
        let (cancel, bar) = (self.cancel.clone(), self.bar.clone());
        stop.when(move || cancel.is_cancelled());
        stop.tell_waits(move |text| {
            // Nobody may be listening; the run goes on.
            bar.suspend(|| writeln!(std::io::stderr(), "note: {text}").ok());
        });
    }

    /// Returns a passphrase: from where the user said, or from the keyboard; asked for once in a run.
    ///
    /// # Errors
    /// If there is none, or nobody to ask.
    pub(super) fn passphrase(&mut self, ask: Ask) -> Result<Vec<u8>, ModuleError> {
        if let Some(known) = &self.known {
            return Ok(known.clone());
        }
        let word = match self.source.given()? {
            Some(word) => word,
            None => self.bar.suspend(|| self.runtime.block_on(self.source.typed(&self.prompter, &ask)))?,
        };
        if word.is_empty() {
            return Err(ModuleError::new(
                pc_switcher_contract::ErrorKind::Invalid,
                "the passphrase is empty",
            ));
        }
        self.known = Some(word.clone());
        Ok(word)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.prompter.restore_terminal();
    }
}

impl Observer for Bar {
    fn progress(&self, progress: Progress) {
        if let Some(line) = self.lines.as_ref().and_then(|lines| lines.line(&progress, Instant::now())) {
            // A reader that went away must not stop the work.
            writeln!(std::io::stderr(), "{line}").ok();
        }
        if self.bar.is_hidden() {
            return;
        }
        if self.bar.length().is_none() {
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
        // Before it somebody may have looked for the passphrase.
        if lock(&self.phase).begins_with(&progress, Instant::now()) {
            self.bar.set_position(progress.bytes);
            self.bar.reset_eta();
            self.bar.reset_elapsed();
        }
        let template = match progress.total_bytes {
            0 => "{spinner} {binary_bytes}, {binary_bytes_per_sec}  {wide_msg}",
            _ => {
                "{bar:20} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {wide_msg}"
            }
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("━╸ "));
        }
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.bytes);
        self.bar.set_message(crate::events::clean(&progress.item.display().to_string()).replace('\n', " "));
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn is_watched(&self) -> bool {
        self.lines.is_some() || !self.bar.is_hidden()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part of a run in which bytes are counted from their beginning: what comes before it, such as a question, is no work of it.
#[derive(Default)]
struct Phase {
    begun: Option<(Instant, u64)>,
    last: u64,
}

impl Phase {
    /// Takes a progress, and says whether one begins with it.
    fn begins_with(&mut self, progress: &Progress, now: Instant) -> bool {
        let is_first = self.begun.is_none() || progress.bytes < self.last;
        self.last = progress.bytes;
        if is_first {
            self.begun = Some((now, progress.bytes));
        }
        is_first
    }

    /// Returns how long the rest takes, if it goes on as it went since this began.
    fn left(&self, progress: &Progress, now: Instant) -> Option<Duration> {
        let (begun, from) = self.begun?;
        let (done, rest) =
            (progress.bytes.saturating_sub(from), progress.total_bytes.saturating_sub(progress.bytes));
        if progress.total_bytes == 0 || done == 0 {
            return None;
        }
        let seconds = now.duration_since(begun).as_secs_f64() * rest as f64 / done as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// How far a run is, for programs: a line of JSON a second on stderr, as an event of a sync has it.
struct Lines(Mutex<(Phase, Instant)>);

impl Lines {
    const PAUSE: Duration = Duration::from_secs(1);

    fn new(begun: Instant) -> Self {
        Self(Mutex::new((Phase::default(), begun)))
    }

    /// Returns the line, if it is time for one.
    fn line(&self, progress: &Progress, now: Instant) -> Option<String> {
        let mut held = lock(&self.0);
        let (phase, last) = &mut *held;
        phase.begins_with(progress, now);
        if now.duration_since(*last) < Self::PAUSE {
            return None;
        }
        *last = now;
        let (done, total) = (progress.bytes, progress.total_bytes);
        let item = progress.item.display().to_string();
        let progress = contract::Progress {
            fraction: (total > 0).then(|| Fraction::of(done, total)),
            item: item.chars().take(99).collect(),
            eta: phase.left(progress, now),
            bytes: Some((done, total)),
        };
        Some(serde_json::json!({ "type": "progress", "progress": progress }).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_hear_once_a_second_how_far_it_is_and_when_it_will_end() {
        let begun = Instant::now();
        let lines = Lines::new(begun);
        let at = |millis, bytes, total_bytes| {
            let progress = Progress { files: 1, bytes, total_bytes, item: "a/b".into() };
            let line = lines.line(&progress, begun + Duration::from_millis(millis))?;
            Some(serde_json::from_str::<serde_json::Value>(&line).unwrap())
        };
        assert_eq!(at(900, 10, 100), None);
        let line = at(1_900, 20, 100).unwrap();
        assert_eq!((&line["type"], &line["progress"]["item"]), (&"progress".into(), &"a/b".into()));
        assert_eq!(line["progress"]["bytes"], serde_json::json!([20, 100]));
        assert_eq!(line["progress"]["eta"]["secs"], 8);
        assert_eq!(at(2_800, 30, 100), None);
        let line = at(3_100, 30, 0).unwrap();
        assert!(line["progress"]["eta"].is_null() && line["progress"]["fraction"].is_null(), "{line}");
    }

    #[test]
    fn what_a_question_took_before_the_work_began_is_no_part_of_how_long_it_takes() {
        let begun = Instant::now();
        let lines = Lines::new(begun);
        let at = |seconds, bytes, total_bytes| {
            let progress = Progress { files: 1, bytes, total_bytes, item: "a".into() };
            let line = lines.line(&progress, begun + Duration::from_secs(seconds)).unwrap();
            serde_json::from_str::<serde_json::Value>(&line).unwrap()["progress"]["eta"]["secs"].clone()
        };
        assert!(at(300, 0, 100).is_null(), "five minutes for the passphrase");
        assert_eq!(at(302, 20, 100), 8);
        // What was copied into the stage is stored now, after another question.
        assert!(at(500, 0, 50).is_null());
        assert_eq!(at(501, 25, 50), 1);
    }
}
