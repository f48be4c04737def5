//! Takes events from everyone, numbers and stamps them, and hands them on.

use std::sync::{Arc, Mutex};

use pc_switcher_contract::{Event, EventKind, Hostname, LogLevel, SessionId, Sink};

use super::core::CoreLog;
use super::queue::{Queue, Reader};
use super::tally::Tally;
use super::{Now, lock, redact};

/// How many events wait for one reader before emitters are slowed down.
const CAPACITY: usize = 4096;

/// The one stream of a session.
pub struct EventBus {
    session: SessionId,
    now: Now,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seq: u64,
    readers: Vec<Arc<Queue>>,
    tally: Tally,
    closed: bool,
}

impl EventBus {
    /// Makes the stream of `session`.
    pub fn new(session: SessionId, now: Now) -> Arc<Self> {
        Arc::new(Self { session, now, state: Mutex::default() })
    }

    /// Returns the session whose stream this is.
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// Returns the clock that stamps the events.
    pub fn clock(&self) -> Now {
        self.now.clone()
    }

    /// Adds a reader; it sees every later event.
    pub fn subscribe(&self) -> Reader {
        self.subscribe_bounded(CAPACITY)
    }

    /// Adds a reader for which at most `capacity` events wait before emitters are slowed down.
    pub fn subscribe_bounded(&self, capacity: usize) -> Reader {
        let queue = Arc::new(Queue::new(capacity));
        let mut state = lock(&self.state);
        if state.closed {
            queue.close();
        } else {
            state.readers.push(queue.clone());
        }
        Reader::new(queue)
    }

    /// Returns the orchestrator's own voice: module `core`, the only one that may say CRITICAL.
    pub fn core(self: &Arc<Self>, hostname: Hostname) -> CoreLog {
        CoreLog::new(self.clone(), hostname)
    }

    /// Whether an ERROR was logged so far.
    pub fn has_errors(&self) -> bool {
        lock(&self.state).tally.has_errors()
    }

    /// Returns counts and texts of warnings and errors so far.
    pub fn tally(&self) -> Tally {
        lock(&self.state).tally.clone()
    }

    /// Ends the stream: readers get what waits, then the end. Later events are counted and seen by nobody.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        for reader in state.readers.drain(..) {
            reader.close();
        }
    }

    /// Emits what only the orchestrator may.
    pub(super) fn emit_any(&self, mut kind: EventKind) {
        redact::event(&mut kind);
        let readers = lock(&self.state).readers.clone();
        for reader in &readers {
            reader.wait_for_room();
        }
        let at = (self.now)();
        // Numbering and handing on are one step: every reader sees the numbers in order.
        let mut state = lock(&self.state);
        state.seq += 1;
        let event = Arc::new(Event { seq: state.seq, at, session: self.session.clone(), kind });
        state.tally.count(&event);
        for reader in &state.readers {
            reader.push(event.clone());
        }
    }
}

impl Sink for EventBus {
    fn emit(&self, mut kind: EventKind) {
        if let EventKind::Log { level, .. } = &mut kind {
            *level = (*level).min(LogLevel::Error);
        }
        self.emit_any(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_contract::{Fraction, ModuleName, Progress, Reporter};
    use proptest::prelude::*;
    use std::time::Duration;

    fn bus() -> Arc<EventBus> {
        EventBus::new("abc12345".parse().unwrap(), Arc::new(|| jiff::Timestamp::UNIX_EPOCH))
    }

    fn all(reader: &Reader) -> Vec<Arc<Event>> {
        std::iter::from_fn(|| reader.try_next()).collect()
    }

    fn host() -> Hostname {
        "desk".parse().unwrap()
    }

    fn reporter(bus: &Arc<EventBus>, name: &'static str) -> Reporter {
        Reporter::new(ModuleName::literal(name), bus.clone())
    }

    fn step(percent: u64) -> Progress {
        Progress { fraction: Some(Fraction::of(percent, 100)), item: "x".into(), eta: None, bytes: None }
    }

    #[test]
    fn every_reader_sees_every_line_in_order() {
        let bus = bus();
        let readers = [bus.subscribe(), bus.subscribe()];
        std::thread::scope(|scope| {
            for name in ["one", "two", "three"] {
                let voice = reporter(&bus, name);
                scope.spawn(move || {
                    for n in 0..200 {
                        voice.log(LogLevel::Info, &host(), format!("{n}"));
                    }
                });
            }
        });
        for reader in readers {
            let numbers: Vec<u64> = all(&reader).iter().map(|event| event.seq).collect();
            assert_eq!(numbers, (1..=600).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_standing_reader_holds_nobody_up_and_loses_nothing_but_progress() {
        let bus = bus();
        let standing = bus.subscribe_bounded(4);
        let voice = reporter(&bus, "user-data");
        let began = std::time::Instant::now();
        for n in 0..1000 {
            voice.log(LogLevel::Info, &host(), format!("{n}"));
            voice.progress(step(n / 10));
        }
        assert!(began.elapsed() < Duration::from_secs(2));
        let events = all(&standing);
        assert_eq!(events.iter().filter(|e| matches!(e.kind, EventKind::Log { .. })).count(), 1000);
        assert_eq!(events.iter().filter(|e| matches!(e.kind, EventKind::Progress { .. })).count(), 1);
    }

    #[test]
    fn an_error_counts_and_a_module_cannot_say_critical() {
        let bus = bus();
        let reader = bus.subscribe();
        reporter(&bus, "user-data").log(LogLevel::Warning, &host(), "w");
        assert!(!bus.has_errors());
        bus.emit(EventKind::Log {
            level: LogLevel::Critical,
            module: ModuleName::literal("core"),
            hostname: host(),
            message: "not the orchestrator".into(),
            context: serde_json::Map::new(),
        });
        bus.core(host()).critical("the one");
        let levels: Vec<LogLevel> = all(&reader)
            .iter()
            .filter_map(|event| match event.kind {
                EventKind::Log { level, .. } => Some(level),
                _ => None,
            })
            .collect();
        assert_eq!(levels, [LogLevel::Warning, LogLevel::Error, LogLevel::Critical]);
        let tally = bus.tally();
        assert_eq!((tally.warnings, tally.errors, tally.remembered.len()), (1, 2, 3));
        assert!(bus.has_errors());
    }

    #[test]
    fn an_error_after_a_hundred_warnings_is_still_remembered() {
        let bus = bus();
        let voice = reporter(&bus, "user-data");
        for _ in 0..150 {
            voice.log(LogLevel::Warning, &host(), "w");
        }
        voice.log(LogLevel::Error, &host(), "the cause");
        let tally = bus.tally();
        assert_eq!((tally.warnings, tally.remembered.len()), (150, Tally::KEPT));
        assert_eq!(tally.remembered.last().unwrap().message, "the cause");
    }

    #[test]
    fn a_closed_stream_ends_its_readers_after_what_waited() {
        let bus = bus();
        let reader = bus.subscribe();
        bus.core(host()).info("last words");
        bus.close();
        bus.core(host()).info("too late");
        assert_eq!(all(&reader).len(), 1);
        assert!(!reader.wait(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn only_progress_is_missing_and_the_newest_of_each_module_is_there(
            script in proptest::collection::vec((0_u8..3, any::<bool>(), 0_u64..100), 0..200),
            reads in proptest::collection::vec(0_usize..4, 0..50),
        ) {
            let bus = bus();
            let reader = bus.subscribe_bounded(1000);
            let voices = ["a", "b", "c"].map(|name| reporter(&bus, name));
            let mut seen = Vec::new();
            let mut newest = std::collections::BTreeMap::new();
            let mut logged = Vec::new();
            let mut reads = reads.into_iter();
            for (seq, (voice, is_log, percent)) in (1_u64..).zip(script) {
                let voice_name = usize::from(voice);
                if is_log {
                    voices[voice_name].log(LogLevel::Info, &host(), "x");
                    logged.push(seq);
                } else {
                    voices[voice_name].progress(step(percent));
                    newest.insert(voice, seq);
                }
                for _ in 0..reads.next().unwrap_or(0) {
                    seen.extend(reader.try_next());
                }
            }
            seen.extend(all(&reader));
            let numbers: Vec<u64> = seen.iter().map(|event| event.seq).collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
            for seq in logged.iter().chain(newest.values()) {
                prop_assert!(numbers.contains(seq), "{seq} is missing of {numbers:?}");
            }
        }
    }
}
