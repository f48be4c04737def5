//! One sync from its first state to its last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pc_switcher_agent::proto::Healed;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    Clock, Ending, ErrorKind, Gatekeeper, Hostname, Module, ModuleContext, ModuleError, ModuleResult,
    Problem, Role, Room, SessionBoard, SessionId, SessionState, Step, Threshold,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::asked::Asked;
use super::deadman::{Deadman, DeadmanSettings};
use super::ending::{Facts, verdict};
use super::login::Logins;
use super::phases::{self, Executed, Prepared, Validated};
use super::plan::RunPlan;
use super::reach::SharedReach;
use super::room;
use super::watch::Watch;
use crate::cli::Exit;
use crate::config::SyncRequest;
use crate::events::CoreLog;
use crate::session::{Closing, Failure, Report, SyncSession};
use crate::signal::Escalation;

/// How long a module may tidy up.
const TIDY: Duration = Duration::from_secs(30);

/// Makes the gatekeeper once both machines have said their names: source, target.
pub type GatesOf = Box<dyn Fn(&Hostname, &Hostname) -> Arc<dyn Gatekeeper> + Send + Sync>;

/// Keeps the history of this machine.
pub trait Chronicle: Send + Sync {
    /// Notes that a session began, or how it stands now.
    fn note(&self, session: &SyncSession);
    /// Notes how it ended.
    fn end(&self, session: &SyncSession, report: &Report);
    /// Notes that the other machine took a session back by itself.
    fn learn(&self, _healed: &Healed) {}
    /// Returns the row for the other machine's history.
    fn row_for_target(&self, session: &SyncSession, report: &Report) -> Vec<u8>;
}

/// Takes the front's own lock; the guard frees it.
pub type FrontLock =
    Box<dyn Fn() -> Result<(Box<dyn std::any::Any + Send>, Option<PathBuf>), ModuleError> + Send + Sync>;

/// All that a run needs, injected.
pub struct Deps {
    /// The session's id.
    pub session: SessionId,
    /// What the user asked for.
    pub request: SyncRequest,
    /// How to get at the machines.
    pub reach: SharedReach,
    /// The orchestrator's voice.
    pub log: CoreLog,
    /// Tells the time.
    pub clock: Clock,
    /// Makes the gatekeeper.
    pub gates: GatesOf,
    /// Per module, what a first sync overwrites.
    pub overwrites: Vec<String>,
    /// The history; `None` in a dry run.
    pub chronicle: Option<Arc<dyn Chronicle>>,
    /// When the target takes a sync back by itself.
    pub deadman: DeadmanSettings,
    /// The front's own lock.
    pub front_lock: FrontLock,
    /// Where the log file is.
    pub log_path: Option<PathBuf>,
}

/// A run that is over.
pub struct Finished {
    /// How it ended, for the shell.
    pub exit: Exit,
    /// How it ended, for people.
    pub report: Report,
}

/// What accumulates while a run goes on.
pub(super) struct Engine {
    pub(super) deps: Deps,
    pub(super) session: SyncSession,
    pub(super) watch: Watch,
    pub(super) background: mpsc::Sender<ModuleError>,
    pub(super) monitors: Vec<(Arc<dyn Module>, JoinHandle<()>)>,
    pub(super) monitors_stop: CancellationToken,
    pub(super) running: Option<(Arc<dyn Module>, ModuleContext)>,
    pub(super) prepared: Option<Prepared>,
    pub(super) intent_written: bool,
    pub(super) attempt_noted: bool,
    /// Held by whoever takes or removes sets: a machine lets one do so at a time.
    pub(super) alone: Arc<tokio::sync::Mutex<()>>,
    pub(super) background_failed: bool,
    pub(super) deadman: Option<Arc<Deadman>>,
    /// Whether the target was seen to be well after this sync, a new login included.
    pub(super) is_green: bool,
    /// What the target took back by itself since the last sync that was recorded.
    pub(super) healed: Vec<Healed>,
    failures: Vec<ErrorKind>,
    failure: Option<Failure>,
    problems: Vec<Problem>,
    verified: Option<Vec<Problem>>,
    asked: Asked,
    pub(super) logins: Logins,
}

/// Runs a sync. Always ends in a terminal state, with the locks freed.
pub async fn run(deps: Deps, plan: RunPlan, interrupts: mpsc::Receiver<(String, Escalation)>) -> Finished {
    let (background, failures) = mpsc::channel(16);
    let cancel = CancellationToken::new();
    let names = plan.sequential.iter().map(|module| module.name().clone()).collect();
    let mut session = SyncSession::new(
        deps.session.clone(),
        (deps.clock)(),
        deps.reach.own_name(),
        deps.request.target.clone(),
        names,
    );
    session.dry_run = deps.request.dry_run;
    let watch = Watch::new(interrupts, failures, cancel.clone(), deps.log.clone());
    let mut engine = Engine {
        deps,
        session,
        watch,
        background,
        monitors: Vec::new(),
        monitors_stop: cancel.child_token(),
        running: None,
        prepared: None,
        intent_written: false,
        attempt_noted: false,
        alone: Arc::default(),
        background_failed: false,
        deadman: None,
        is_green: false,
        healed: Vec::new(),
        failures: Vec::new(),
        failure: None,
        problems: Vec::new(),
        verified: None,
        asked: Asked::default(),
        logins: Logins::default(),
    };
    engine.deps.log.started(
        engine.deps.request.target.clone(),
        engine.session.enabled_modules.clone(),
        engine.session.dry_run,
    );
    engine.deps.log.state(SessionState::Initializing);
    engine.note();
    let result = engine.work(&plan).await;
    engine.finish(result).await
}

impl Engine {
    fn note(&self) {
        if let Some(chronicle) = &self.deps.chronicle {
            chronicle.note(&self.session);
        }
    }

    /// Takes a step that the table of states allows; an illegal one is a fault of ours and ends the run.
    fn step(&mut self, step: Step) -> Result<(), ModuleError> {
        let state = self.session.step(step).map_err(|error| ModuleError::failed(error.to_string()))?;
        self.deps.log.state(state);
        self.note();
        Ok(())
    }

    async fn work(&mut self, plan: &RunPlan) -> Result<(), ModuleError> {
        let (front, lock_path) = (self.deps.front_lock)()?;
        self.session.lock_path = lock_path;
        let result = self.work_locked(plan).await;
        drop(front);
        result
    }

    async fn work_locked(&mut self, plan: &RunPlan) -> Result<(), ModuleError> {
        let gates = self.initialize().await?;
        self.step(Step::Initialized)?;
        let validated = self.validate(plan, gates).await?;
        self.step(Step::Validated)?;
        if self.session.dry_run {
            return self.plan_only(plan, &validated).await;
        }
        self.execute(plan, validated).await
    }

    /// Reaches and locks both machines and judges their past.
    async fn initialize(&mut self) -> Result<Arc<dyn Gatekeeper>, ModuleError> {
        let cancel = self.watch.cancel.clone();
        self.deps.log.stage("start-agent");
        let reach = Arc::clone(&self.deps.reach);
        let source = self.watch.drive(reach.source(&cancel)).await?;
        let agent = Agent::new(&source.agent);
        let source_facts = self.watch.drive(async { Ok(agent.facts().await?) }).await?;
        self.watch.drive(phases::lock(&self.deps, &agent, Role::Source)).await?;
        self.deps.log.stage("connect");
        let target = self.watch.drive(reach.target(&cancel)).await?;
        self.session.target_hostname = Some(target.hostname.clone());
        self.deps.log.connected(target.hostname.clone());
        self.watch_connection();
        if !self.session.dry_run {
            self.logins.begin(&self.deps.reach, self.deps.log.on(&target.hostname));
        }
        let agent = Agent::new(&target.agent);
        let target_facts = self.watch.drive(async { Ok(agent.facts().await?) }).await?;
        let board = Arc::new(SessionBoard::default());
        self.prepared = Some(Prepared { source, target, source_facts, target_facts, board });
        let Some(prepared) = &self.prepared else { return Err(ModuleError::failed("nothing was prepared")) };
        phases::refuse_self(&prepared.source_facts, &prepared.target_facts)?;
        self.watch.drive(phases::lock(&self.deps, &agent, Role::Target)).await?;
        let gates = (self.deps.gates)(&prepared.source.hostname, &prepared.target.hostname);
        let gates = self.asked.note_at(gates);
        self.deps.log.stage("history");
        self.healed = self.watch.drive(phases::explain_dead_runs(&self.deps, prepared)).await?;
        for healed in &self.healed {
            if let Some(chronicle) = &self.deps.chronicle {
                chronicle.learn(healed);
            }
        }
        let judged = phases::judge_past(&self.deps, prepared, gates.as_ref(), &self.healed);
        self.watch.drive(judged).await?;
        Ok(gates)
    }

    /// From here on a lost machine ends the run, whatever it is doing.
    fn watch_connection(&mut self) {
        let (reach, background, stop) =
            (Arc::clone(&self.deps.reach), self.background.clone(), self.monitors_stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                lost = reach.lost() => drop(background.send(lost).await),
            }
        });
    }

    /// Lets every module look for problems, and reports all of them at once.
    async fn validate(
        &mut self,
        plan: &RunPlan,
        gates: Arc<dyn Gatekeeper>,
    ) -> Result<Validated, ModuleError> {
        let mut prepared = self.prepared.take().ok_or_else(|| ModuleError::failed("nothing was prepared"))?;
        let mut first: Option<ModuleError> = None;
        let mut stopped = None;
        for module in plan.validating() {
            let ctx = prepared.context(&self.deps, module.as_ref(), &gates, &self.watch.cancel);
            let mut judged = self.watch.drive(module.validate(&ctx)).await;
            let is_short = |error: &ModuleError| error.kind == ErrorKind::DiskSpace;
            // For a sync that is refused anyway nothing goes.
            let may_begin = self.problems.is_empty() && first.is_none() && !self.session.dry_run;
            let wanted =
                prepared.board.min_free().filter(|_| may_begin && judged.as_ref().is_err_and(is_short));
            if let Some(wanted) = wanted {
                judged = match self.make_room(plan, &prepared, &gates, wanted).await {
                    Ok(Room::Nothing) => judged,
                    Ok(Room::Some | Room::Enough) => self.watch.drive(module.validate(&ctx)).await,
                    Err(error) => Err(error),
                };
            }
            match judged {
                Ok(problems) => self.problems.extend(problems),
                Err(error) if self.watch.is_stopping() => {
                    stopped = Some(error);
                    break;
                }
                Err(error) => {
                    self.failures.push(error.kind);
                    first.get_or_insert(error);
                }
            }
        }
        prepared.board = Arc::clone(&prepared.board);
        for problem in &self.problems {
            let log = problem
                .hostname
                .as_ref()
                .map_or_else(|| self.deps.log.clone(), |host| self.deps.log.on(host));
            log.error(Problem { hostname: None, ..problem.clone() }.to_string());
        }
        let failed = stopped
            .or_else(|| (!self.problems.is_empty()).then(|| phases::invalid(&self.problems)))
            .or(first);
        match failed {
            Some(error) => {
                self.prepared = Some(prepared);
                Err(error)
            }
            None => Ok(Validated { prepared, gates }),
        }
    }

    /// Lets the brackets remove what they can spare.
    async fn make_room(
        &mut self,
        plan: &RunPlan,
        prepared: &Prepared,
        gates: &Arc<dyn Gatekeeper>,
        wanted: Threshold,
    ) -> Result<Room, ModuleError> {
        let cancel = &self.watch.cancel;
        let brackets = room::brackets(plan, |module| prepared.context(&self.deps, module, gates, cancel));
        self.watch.drive(room::make(&brackets, wanted)).await
    }

    /// Takes a result's error as the reason for the end, and tells people.
    fn blame(&mut self, error: ModuleError) {
        let error = match self.watch.failure.take() {
            Some(background)
                if error.kind == ErrorKind::Cancelled || error.kind == ErrorKind::Unreachable =>
            {
                background
            }
            Some(background) => {
                self.failures.push(background.kind);
                error
            }
            None => error,
        };
        if self.watch.abort_requested && error.kind == ErrorKind::Cancelled {
            return;
        }
        self.failures.push(error.kind);
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(below) = cause {
            text = format!("{text}: {below}");
            cause = below.source();
        }
        match error.kind {
            // Expected endings are no catastrophe: one line, at warning level.
            ErrorKind::Refused(_) | ErrorKind::Busy | ErrorKind::Cancelled | ErrorKind::Usage => {
                self.deps.log.warning(text.clone());
            }
            _ => self.deps.log.critical(text.clone()),
        }
        self.failure = Some(Failure { message: text, hints: error.hints });
    }

    async fn finish(mut self, result: Result<(), ModuleError>) -> Finished {
        self.background_failed = self.watch.failure.is_some();
        self.logins = Logins::default();
        if let Err(error) = result {
            self.blame(error);
        } else if let Some(error) = self.watch.failure.take() {
            self.blame(error);
        }
        if let Err(error) = self.step(Step::Stop) {
            self.deps.log.error(error.to_string());
        }
        self.stop_everything().await;
        self.session.skip_rest("not reached");
        self.session.has_errors = self.deps.log.bus().has_errors();
        self.session.abort_requested = self.watch.abort_requested;
        let results = self.session.module_results.values().copied().collect();
        let facts = Facts {
            abort_requested: self.watch.abort_requested,
            failures: std::mem::take(&mut self.failures),
            has_errors: self.session.has_errors,
            results,
        };
        let (ending, exit) = verdict(&facts);
        self.session.ended = Some((self.deps.clock)());
        if self.session.step(Step::End(ending)).is_ok() {
            self.deps.log.state(self.session.state());
        }
        let report = self.report(exit);
        if let Some(chronicle) = &self.deps.chronicle {
            chronicle.end(&self.session, &report);
            self.tell_target(chronicle.row_for_target(&self.session, &report), ending).await;
        }
        let reach = Arc::clone(&self.deps.reach);
        let grace = super::cleanup::CLOSE;
        self.watch.bounded(grace * 2, reach.close(grace)).await;
        self.deps.log.ended(self.session.state(), exit.code());
        Finished { exit, report }
    }

    fn report(&self, exit: Exit) -> Report {
        let closing = Closing {
            exit_code: exit.code(),
            tally: self.deps.log.bus().tally(),
            failure: self.failure.clone(),
            problems: self.problems.clone(),
            conflicts: self.prepared.as_ref().map(|prepared| prepared.board.conflicts()).unwrap_or_default(),
            verified: self.verified.clone(),
            unsettled: self.prepared.as_ref().map_or(0, |prepared| prepared.board.unsettled().len()),
            left: self.prepared.as_ref().map_or(0, |prepared| prepared.board.left()),
            checks: self.prepared.as_ref().map(|prepared| prepared.board.checks()).unwrap_or_default(),
            log: self.deps.log_path.as_ref().map(|path| path.display().to_string()),
            would_ask: self.asked.gates(),
            changed: self.prepared.as_ref().is_some_and(|prepared| {
                self.session.enabled_modules.iter().any(|name| !prepared.board.is_idle(name))
            }),
            next: Vec::new(),
        };
        Report::new(&self.session, closing, (self.deps.clock)())
    }

    /// Puts the row into the other machine's history, if it can still be reached.
    async fn tell_target(&mut self, row: Vec<u8>, _ending: Ending) {
        let Some(prepared) = &self.prepared else { return };
        let target = Agent::new(&prepared.target.agent);
        let hostname = prepared.target.hostname.clone();
        let log = self.deps.log.on(&hostname);
        let put = async move {
            if let Err(error) = target.history_put(row).await {
                log.debug(format!("its history could not be written: {error}"));
            }
        };
        self.watch.bounded(super::cleanup::CLOSE, put).await;
    }

    /// Notes what became of a module, in the session and for people.
    pub(super) fn record(&mut self, module: &dyn Module, result: ModuleResult, text: &str) {
        self.session.record(module.name().clone(), result, text);
        self.deps.log.module(module.name().clone(), result, text);
    }

    /// Does the work between the first and the last snapshot.
    async fn execute(&mut self, plan: &RunPlan, validated: Validated) -> Result<(), ModuleError> {
        let Validated { prepared, gates } = validated;
        // Cleanup needs the machines, wherever this ends.
        let executed = Executed { prepared: prepared.share() };
        self.prepared = Some(prepared);
        let prepared = &executed.prepared;
        self.start_monitors(plan, prepared, &gates);
        self.intent_written = true;
        self.watch.drive(prepared.write_intent(&self.deps)).await?;
        self.deps.log.stage("pre-snapshots");
        self.bracket(&plan.pre, prepared, &gates).await?;
        self.watch.drive(executed.note_attempt(&self.deps)).await?;
        self.attempt_noted = true;
        self.activate().await?;
        self.put_deadman(prepared).await?;
        for module in &plan.sequential {
            self.deps.log.stage(format!("module:{}", module.name()));
            self.one(module, prepared, &gates).await?;
        }
        if !self.is_armed().await {
            self.logins.again(&self.deps.reach, plan, prepared);
        }
        self.deps.log.stage("post-snapshots");
        self.bracket(&plan.post_target, prepared, &gates).await?;
        self.confirm(&prepared.board).await?;
        self.deps.log.stage("verify");
        self.verify(plan, prepared, &gates).await?;
        self.bracket(&plan.post_source, prepared, &gates).await?;
        if self.deps.log.bus().has_errors() {
            self.deps.log.warning(
                "errors were logged, so this sync is not recorded as the common past of both machines",
            );
            return Ok(());
        }
        self.deps.log.stage("record");
        self.watch.drive(executed.write_pair(&self.deps)).await?;
        self.mark_good(&prepared.board).await;
        self.forget_healed(prepared).await;
        self.tidy(plan, prepared, &gates).await;
        Ok(())
    }

    /// Lets modules tidy up. The sync is done: whatever fails here is a warning.
    async fn tidy(&mut self, plan: &RunPlan, prepared: &Prepared, gates: &Arc<dyn Gatekeeper>) {
        self.deps.log.stage("tidy");
        let alone = Arc::clone(&self.alone);
        let Ok(_alone) = self.watch.drive(async { Ok(alone.lock().await) }).await else { return };
        for module in plan.pre.iter().chain(&plan.sequential).chain(&plan.background) {
            let ctx = prepared.context(&self.deps, module.as_ref(), gates, &self.watch.cancel);
            let log = self.deps.log.clone();
            let tidied = async {
                if let Err(error) = module.tidy(&ctx).await {
                    log.warning(format!("`{}` could not tidy up: {error}", module.name()));
                }
            };
            if !self.watch.bounded(TIDY, tidied).await {
                self.deps.log.warning(format!("`{}` did not tidy up in time", module.name()));
            }
        }
    }

    /// Runs the instances of a bracket; its result is the worst of its phases.
    async fn bracket(
        &mut self,
        modules: &[Arc<dyn Module>],
        prepared: &Prepared,
        gates: &Arc<dyn Gatekeeper>,
    ) -> Result<(), ModuleError> {
        let alone = Arc::clone(&self.alone);
        let _alone = self.watch.drive(async { Ok(alone.lock().await) }).await?;
        for module in modules {
            self.one(module, prepared, gates).await?;
        }
        self.session.without_snapshots =
            prepared.board.without_snapshots().iter().any(|(role, ..)| *role == Role::Target);
        self.session.snapshots = prepared.board.sets().into_iter().map(|(_, set)| set).collect();
        self.note();
        Ok(())
    }

    async fn one(
        &mut self,
        module: &Arc<dyn Module>,
        prepared: &Prepared,
        gates: &Arc<dyn Gatekeeper>,
    ) -> Result<(), ModuleError> {
        let ctx = prepared.context(&self.deps, module.as_ref(), gates, &self.watch.cancel);
        self.running = Some((Arc::clone(module), ctx.clone()));
        let done = self.watch.drive(phases::execute(module.as_ref(), &ctx)).await;
        match done {
            Ok((result, text, failed)) => {
                self.running = None;
                self.failures.extend(failed);
                self.record(module.as_ref(), result, &text);
                // A failure in the background may have come with the module's last breath.
                if self.watch.is_stopping() { Err(ModuleError::cancelled()) } else { Ok(()) }
            }
            Err(error) => {
                self.record(module.as_ref(), ModuleResult::Failed, &self.why_failed(&error));
                Err(error)
            }
        }
    }

    /// Says why a module failed: one that was cancelled because of a failure beside it has that reason.
    fn why_failed(&self, error: &ModuleError) -> String {
        match &self.watch.failure {
            Some(failure) if error.kind == ErrorKind::Cancelled => format!("stopped: {failure}"),
            _ => error.to_string(),
        }
    }

    async fn activate(&mut self) -> Result<(), ModuleError> {
        let reach = Arc::clone(&self.deps.reach);
        match self.watch.drive(reach.activate()).await {
            Ok(changes) => changes.into_iter().for_each(|change| self.deps.log.info(change)),
            Err(error) if self.watch.is_stopping() => return Err(error),
            Err(error) => {
                self.deps.log.warning(format!("the program was not installed for the next time: {error}"))
            }
        }
        Ok(())
    }

    async fn verify(
        &mut self,
        plan: &RunPlan,
        prepared: &Prepared,
        gates: &Arc<dyn Gatekeeper>,
    ) -> Result<(), ModuleError> {
        let mut found = Vec::new();
        for module in plan.sequential.iter().chain(&plan.pre) {
            let ctx = prepared.context(&self.deps, module.as_ref(), gates, &self.watch.cancel);
            self.running = Some((Arc::clone(module), ctx.clone()));
            match self.watch.drive(module.verify(&ctx)).await {
                Ok(problems) => {
                    self.running = None;
                    if !problems.is_empty() {
                        let text = format!("verification found {} differences", problems.len());
                        self.record(module.as_ref(), ModuleResult::Failed, &text);
                    }
                    found.extend(problems);
                }
                Err(error) => {
                    self.record(module.as_ref(), ModuleResult::Failed, &self.why_failed(&error));
                    return Err(error);
                }
            }
        }
        found.extend(self.logins.judge(&mut self.watch, prepared, &self.deps.log).await?);
        for problem in &found {
            let log = problem
                .hostname
                .as_ref()
                .map_or_else(|| self.deps.log.clone(), |host| self.deps.log.on(host));
            log.error(Problem { hostname: None, ..problem.clone() }.to_string());
        }
        self.verified = Some(found);
        Ok(())
    }
}
