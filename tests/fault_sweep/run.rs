//! One sync between the two machines, watched.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher::cli::Exit;
use pc_switcher::config::{Config, Overrides, Source, SyncRequest, resolve};
use pc_switcher::events::{EventBus, Reader};
use pc_switcher::orchestrator::deadman::DeadmanSettings;
use pc_switcher::orchestrator::plan::RunPlan;
use pc_switcher::orchestrator::{Chronicle, Deps, Finished, run};
use pc_switcher::paths::Env;
use pc_switcher::registry::registry;
use pc_switcher::session::{Report, SyncSession};
use pc_switcher::signal::Escalation;
use pc_switcher_contract::{
    Answer, ErrorKind, Event, EventKind, Gate, GateKind, Gatekeeper, LogLevel, ModuleError, ModuleName,
    ModuleResult, SessionId, SessionState, Threshold,
};
use pc_switcher_testkit::model::{Fault, Script, Seen};

use crate::reach::ModelReach;
use crate::world::{World, is_free};

/// What a run is like.
#[derive(Default)]
pub struct Wish {
    /// What the config file says.
    pub config: String,
    /// Whether it is a dry run.
    pub dry_run: bool,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Whether the user presses Ctrl+C when something hangs.
    pub impatient: bool,
    /// When the user presses Ctrl+C anyway.
    pub ctrl_c_after: Option<Duration>,
    /// The gates that are open.
    pub open: Vec<GateKind>,
}

/// What came of it.
pub struct Ran {
    pub session: SessionId,
    pub exit: Exit,
    pub state: SessionState,
    pub events: Vec<Arc<Event>>,
    pub calls: Vec<Seen>,
    /// How long it went on after the last fault, if all happened.
    pub went_on: Option<Duration>,
    /// Gates that were met.
    pub asked: Vec<GateKind>,
    /// What became of each module, for example `user-data SUCCESS`.
    pub results: Vec<String>,
    /// What was wrong that must never be, whatever happens.
    pub wrong: Vec<String>,
}

impl Ran {
    pub fn criticals(&self) -> usize {
        let is_critical =
            |event: &&Arc<Event>| matches!(event.kind, EventKind::Log { level: LogLevel::Critical, .. });
        self.events.iter().filter(is_critical).count()
    }

    /// Returns the stages that were passed, in order.
    pub fn stages(&self) -> Vec<&str> {
        let events = self.events.iter();
        let stages = events.filter_map(|event| match &event.kind {
            EventKind::Stage { stage } => Some(stage.as_str()),
            _ => None,
        });
        stages.collect()
    }

    /// Returns the lines of the log from WARNING up.
    pub fn complaints(&self) -> Vec<String> {
        let line = |event: &Arc<Event>| match &event.kind {
            EventKind::Log { level, module, hostname, message, .. } if *level >= LogLevel::Warning => {
                Some(format!("{level} {module} {hostname}: {message}"))
            }
            _ => None,
        };
        self.events.iter().filter_map(line).collect()
    }
}

/// Collects the events, and knows from them where the run is.
struct Listener {
    reader: Reader,
    heard: Mutex<(Vec<Arc<Event>>, String)>,
}

impl Listener {
    /// Returns where the run is: a state, or within EXECUTING and INITIALIZING the stage.
    fn phase(&self) -> String {
        let mut heard = self.heard.lock().unwrap();
        while let Some(event) = self.reader.try_next() {
            match &event.kind {
                EventKind::State { state: SessionState::Executing } => heard.1 = "monitors".into(),
                EventKind::State { state } => heard.1 = state.as_str().to_lowercase(),
                EventKind::Stage { stage } => heard.1.clone_from(stage),
                _ => {}
            }
            heard.0.push(event);
        }
        heard.1.clone()
    }
}

/// Opens the gates it was told to, and remembers all.
struct Doors {
    open: Vec<GateKind>,
    asked: Arc<Mutex<Vec<GateKind>>>,
}

#[async_trait]
impl Gatekeeper for Doors {
    async fn pass(&self, gate: Gate) -> Result<Answer, ModuleError> {
        self.asked.lock().unwrap().push(gate.kind);
        match self.open.contains(&gate.kind) {
            true => Ok(Answer::ByFlag),
            false => {
                let found: Vec<String> = gate.summary.into_iter().chain(gate.findings).collect();
                Err(ModuleError::new(ErrorKind::Refused(gate.kind), found.join("; ")))
            }
        }
    }
}

/// Remembers how the session ended.
#[derive(Default)]
struct Notes(Mutex<Vec<SyncSession>>);

impl Chronicle for Notes {
    fn note(&self, _: &SyncSession) {}

    fn end(&self, session: &SyncSession, _: &Report) {
        self.0.lock().unwrap().push(session.clone());
    }

    fn row_for_target(&self, session: &SyncSession, _: &Report) -> Vec<u8> {
        session.id.to_string().into_bytes()
    }
}

/// Frees the front's lock.
struct FrontGuard(Arc<AtomicBool>);

impl Drop for FrontGuard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Calls that may come once a run is over.
const CLEANUP: [&str; 4] = ["terminate-all", "state-put", "history-put", "close"];

/// Returns the built modules for a config file, the test modules among them.
fn planned(text: &str) -> (Config, RunPlan) {
    let vars = [("PC_SWITCHER_TEST_MODULES".into(), "1".into())].into();
    let specs = registry(&Env { vars, ..Env::default() });
    let source = Source { path: "config.toml".into(), text: text.to_owned() };
    let config = resolve(Some(&source), &Overrides::default(), &specs).unwrap();
    let plan = RunPlan::build(&specs, &config.modules, &config).unwrap();
    (config, plan)
}

/// Syncs the laptop to the desk. Must be called in a runtime whose clock is paused.
pub async fn sync(world: &World, wish: Wish) -> Ran {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let session: SessionId = format!("{:08x}", NEXT.fetch_add(1, Ordering::SeqCst)).parse().unwrap();
    // An hour behind the files, so that no file is judged by its times alone.
    let clock: pc_switcher_contract::Clock =
        Arc::new(|| jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1));
    let bus = EventBus::new(session.clone(), clock.clone());
    let reader = bus.subscribe_bounded(1 << 20);
    let listener = Arc::new(Listener { reader, heard: Mutex::default() });
    let (press, interrupts) = tokio::sync::mpsc::channel(8);
    if let Some(after) = wish.ctrl_c_after {
        let press = press.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = press.send(("Ctrl+C".to_owned(), Escalation::Cancel)).await;
        });
    }
    let (phase_of, impatient) = (Arc::clone(&listener), wish.impatient);
    let script = Arc::new(Script::new(
        wish.faults,
        move || phase_of.phase(),
        move || {
            if impatient {
                press.try_send(("Ctrl+C".to_owned(), Escalation::Cancel)).unwrap();
            }
        },
    ));
    let reach = Arc::new(ModelReach::new(&world.laptop, &world.desk, Arc::clone(&script)));
    let (config, plan) = planned(&wish.config);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (open, asked_there) = (wish.open, Arc::clone(&asked));
    let notes = Arc::new(Notes::default());
    let front = Arc::new(AtomicBool::new(false));
    let front_there = Arc::clone(&front);
    let deps = Deps {
        session: session.clone(),
        request: SyncRequest {
            target: "desk".into(),
            dry_run: wish.dry_run,
            yes: false,
            open_gates: Vec::new(),
            json: false,
            progress: false,
            modules: config.modules.clone(),
        },
        reach: Arc::clone(&reach) as _,
        log: bus.core(world.laptop.hostname().clone()),
        clock,
        gates: Box::new(move |_, _| Arc::new(Doors { open: open.clone(), asked: Arc::clone(&asked_there) })),
        overwrites: Vec::new(),
        deadman: DeadmanSettings {
            mode: config.rollback.deadman,
            limit: config.rollback.limit(),
            required: config.rollback.health.clone(),
            reserve: Threshold::Bytes(0),
            keep_good: 0,
        },
        chronicle: (!wish.dry_run).then(|| Arc::clone(&notes) as _),
        front_lock: Box::new(move || {
            front_there.store(true, Ordering::SeqCst);
            Ok((Box::new(FrontGuard(Arc::clone(&front_there))), None))
        }),
        log_path: None,
    };
    let Finished { exit, .. } = run(deps, plan, interrupts).await;

    let went_on = script.fired().map(|fired| fired.elapsed());
    let made = script.seen().len();
    tokio::join!(reach.source.end(), reach.target.end());
    // Whoever still watches would look again by now.
    tokio::time::sleep(Duration::from_secs(600)).await;
    listener.phase();
    let (events, _) = std::mem::take(&mut *listener.heard.lock().unwrap());
    let calls = script.seen();
    let ended = notes.0.lock().unwrap().clone();
    let states: Vec<SessionState> = ended.iter().map(SyncSession::state).collect();
    let result = |(name, result): (&ModuleName, ModuleResult)| format!("{name} {result}");
    let results = ended.first().map(|session| session.results().into_iter().map(result).collect());
    let state_of = |event: &Arc<Event>| match event.kind {
        EventKind::State { state } => Some(state),
        _ => None,
    };
    let state = events.iter().rev().find_map(state_of).unwrap_or(SessionState::Initializing);
    let mut wrong = Vec::new();
    let mut check = |is_right: bool, text: String| {
        if !is_right {
            wrong.push(text);
        }
    };
    check(calls.len() == made, format!("calls after the end: {:?}", &calls[made..]));
    let is_over = |seen: &&Seen| is_after(&seen.key.phase);
    for seen in calls.iter().filter(is_over) {
        check(CLEANUP.contains(&seen.key.call.as_str()), format!("{} belongs to no cleanup", seen.key));
    }
    let is_noted = states == [state] || (wish.dry_run && states.is_empty());
    check(is_noted && state.is_terminal(), format!("it ends {state}, the history says {states:?}"));
    check(!front.load(Ordering::SeqCst), "the front's lock is held".into());
    for (disk, host) in world.disks().into_iter().zip([&reach.source, &reach.target]) {
        check(is_free(disk), format!("{} is locked", disk.hostname()));
        check(host.executor.running() == 0, format!("commands run on {}", disk.hostname()));
    }
    let asked = asked.lock().unwrap().clone();
    Ran { session, exit, state, events, calls, went_on, asked, results: results.unwrap_or_default(), wrong }
}

/// Whether a phase lies behind the run's work.
fn is_after(phase: &str) -> bool {
    ["cleanup", "completed", "aborted", "failed"].contains(&phase)
}
