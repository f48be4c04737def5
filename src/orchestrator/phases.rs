//! The phases of a run as types: what a later phase needs can only come from the one before it.

use std::sync::Arc;

use pc_switcher_agent::data::apply::PENDING;
use pc_switcher_agent::linux::rollback::POINTER;
use pc_switcher_agent::proto::{
    Healed, LockHolder, LockReply, LockRequest, MachineFacts, Patience, RollbackOrder,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    Attempt, ErrorKind, GateKind, Gatekeeper, Hostname, Machine, Module, ModuleContext, ModuleError,
    ModuleResult, Outcome, PairEnd, PairRecord, Problem, Role, RunMode, SessionBoard, SessionId,
    SnapshotKind, TargetMachine, UtcStamp, WriteLicence,
};
use tokio_util::sync::CancellationToken;

use super::deadman;
use super::met;
use super::records::{self, Intent};
use super::run::Deps;
use super::topology::{Past, Stranger, first_sync, out_of_order, past};

/// Both machines, reached and locked.
pub struct Prepared {
    /// The machine the user sits at.
    pub source: Machine,
    /// The machine the user moves to.
    pub target: TargetMachine,
    /// What the source says of itself.
    pub source_facts: MachineFacts,
    /// What the target says of itself.
    pub target_facts: MachineFacts,
    /// What modules leave for each other.
    pub board: Arc<SessionBoard>,
}

/// A prepared run without problems.
pub struct Validated {
    /// Both machines.
    pub prepared: Prepared,
    /// Asks at gates.
    pub gates: Arc<dyn Gatekeeper>,
}

/// A run whose modules have done their work and whose result was checked.
pub struct Executed {
    /// Both machines.
    pub prepared: Prepared,
}

/// Takes a machine's lock.
///
/// # Errors
/// [`ErrorKind::Busy`] with the holder, if another sync has it.
pub async fn lock(deps: &Deps, agent: &Agent, role: Role) -> Result<(), ModuleError> {
    let request = LockRequest {
        session: deps.session.clone(),
        role,
        from: deps.reach.own_name(),
        user: deps.reach.user(),
    };
    match agent.lock(request).await? {
        LockReply::Held => Ok(()),
        LockReply::Busy(holder) => Err(busy(agent.hostname(), holder)),
    }
}

/// Says who holds a machine's lock.
pub fn busy(hostname: &Hostname, holder: Option<LockHolder>) -> ModuleError {
    let who = match holder {
        Some(holder) => format!(
            "sync {} from {} by {} (process {}, since {})",
            holder.session, holder.from, holder.user, holder.pid, holder.since
        ),
        None => "another sync".into(),
    };
    let text = format!("{hostname} is busy: {who} holds its lock");
    ModuleError::new(ErrorKind::Busy, text).hint("wait for it, or end it with Ctrl+C where it runs")
}

/// Refuses a sync of a machine with itself, whatever alias was typed.
///
/// # Errors
/// [`ErrorKind::Usage`].
pub fn refuse_self(source: &MachineFacts, target: &MachineFacts) -> Result<(), ModuleError> {
    if source.machine_id == target.machine_id {
        if !source.hostname.same_machine(&target.hostname) {
            let (one, other) = (&source.hostname, &target.hostname);
            let text =
                format!("{one} and {other} have the same machine id: one is a copy of the other's disk");
            let hint = format!(
                "on {other}: sudo rm /etc/machine-id && sudo systemd-machine-id-setup, and start it again"
            );
            return Err(ModuleError::new(ErrorKind::Usage, text).hint(hint));
        }
        let text = format!("the target is this machine itself, {}", source.hostname);
        return Err(ModuleError::new(ErrorKind::Usage, text).hint("name the other machine"));
    }
    if source.hostname.same_machine(&target.hostname) {
        let text = format!("both machines call themselves {}", source.hostname);
        return Err(ModuleError::new(ErrorKind::Usage, text).hint("give one of them another hostname"));
    }
    Ok(())
}

/// Explains what a dead run left, on either machine, and brings its commit to an end before anybody looks at the machines:
/// neither its leftovers nor what it had not done yet is in the way of this run. A dry run changes nothing. Returns what the
/// target took back by itself.
///
/// # Errors
/// If an agent cannot read its state.
pub async fn explain_dead_runs(deps: &Deps, prepared: &Prepared) -> Result<Vec<Healed>, ModuleError> {
    for agent in [Agent::new(&prepared.target.agent), Agent::new(&prepared.source.agent)] {
        if !deps.request.dry_run {
            redo(deps, &agent).await?;
        } else if !agent.state_list(PENDING).await?.is_empty() {
            deps.log.on(agent.hostname()).warning(
                "a sync was cut off while it staged or committed; a real run brings it to its end before it compares anything",
            );
        }
    }
    let [source, target] = prepared.agents();
    if !deps.request.dry_run {
        for line in met::settle(&source, &target).await? {
            deps.log.warning(line);
        }
    }
    deadman::meet(deps, &source, Role::Source).await?;
    let healed = deadman::meet(deps, &target, Role::Target).await?;
    for agent in [source, target] {
        meet_rollback(deps, &agent).await?;
    }
    let mut told: Option<SessionId> = None;
    for agent in [Agent::new(&prepared.source.agent), Agent::new(&prepared.target.agent)] {
        if let Some(intent) =
            records::read_intent(&agent).await?.filter(|intent| told.as_ref() != Some(&intent.session))
        {
            // A run that was recorded did end, whatever became of its intent.
            if records::read_pairs(&agent).await?.iter().any(|pair| pair.session == intent.session) {
                continue;
            }
            deps.log
                .on(agent.hostname())
                .warning(format!("{}; this run goes on from there", intent.explain()));
            told = Some(intent.session);
        }
    }
    Ok(healed)
}

/// Refuses a sync of a machine that was rolled back and works on in the former tree: what a sync writes there does not come
/// along. Says that a machine took a rollback back by itself.
async fn meet_rollback(deps: &Deps, agent: &Agent) -> Result<(), ModuleError> {
    if agent.state_get(POINTER).await?.is_none() {
        return Ok(());
    }
    let look = agent.rollback(RollbackOrder::Look).await?;
    match look.forbids_sync() {
        None => {
            if let Some(said) = look.state.and_then(|state| state.explain_by_itself()) {
                deps.log.on(agent.hostname()).warning(said);
            }
            Ok(())
        }
        Some(why) => {
            let text = format!("{}: {why}", agent.hostname());
            Err(ModuleError::new(ErrorKind::Refused(GateKind::Rollback), text)
                .hint("or take it back: `pc-switcher rollback cancel`"))
        }
    }
}

/// Finishes or drops what sessions that were cut off left on a machine, and tells it.
async fn redo(deps: &Deps, agent: &Agent) -> Result<(), ModuleError> {
    let log = deps.log.on(agent.hostname());
    for redone in agent.redo_at_once(Patience::GiveUp).await? {
        log.warning(redone.explain());
        for conflict in &redone.report.conflicts {
            log.warning(format!("`{}` was left as it is: {}", conflict.path, conflict.why));
        }
        for path in &redone.report.kept {
            log.warning(format!("`{path}` is kept: it holds something that is not mirrored"));
        }
        for warning in &redone.report.warnings {
            log.warning(warning.clone());
        }
        redone.report.refused.lines(agent.hostname()).for_each(|line| log.warning(line));
        agent.state_put(redone.key(), None).await?;
    }
    Ok(())
}

/// Reads what both machines remember of each other, and looks whether the sets that it names are still there.
///
/// # Errors
/// If an agent is lost.
pub async fn recall(
    source: (&Agent, &MachineFacts),
    target: (&Agent, &MachineFacts),
) -> Result<Past, ModuleError> {
    let ours = records::read_pair(source.0, target.1).await?;
    let theirs = records::read_pair(target.0, source.1).await?;
    let ends = [(source.1, &ours), (target.1, &theirs)];
    let torn = ends.into_iter().find_map(|(facts, kept)| {
        let why = kept.as_ref()?.as_ref().err()?;
        Some(Stranger::Broken(format!("{}: its record cannot be read: {why}", facts.hostname)))
    });
    // One that cannot be read counts as none: the other machine's is as true.
    let past = past(ours.and_then(Result::ok), theirs.and_then(Result::ok));
    if let (Past::Stranger(Stranger::NoRecord), Some(torn)) = (&past, torn) {
        return Ok(Past::Stranger(torn));
    }
    let Past::Known { record, by_both } = &past else { return Ok(past) };
    for (agent, facts) in [source, target] {
        let whole = match record.end_of(&facts.machine_id) {
            Some(end) if !end.hostname.same_machine(&facts.hostname) => {
                Err(format!("it was called {} then", end.hostname))
            }
            Some(end) => check_end(agent, end).await?,
            None => Err("it names other machines".into()),
        };
        if let Err(why) = whole {
            return Ok(Past::Stranger(if *by_both {
                Stranger::Broken(format!("{}: {why}", facts.hostname))
            } else {
                Stranger::Differ
            }));
        }
    }
    Ok(past)
}

/// Judges the past of both machines and asks where it must be asked. A valid record goes to the board.
///
/// # Errors
/// If a gate stays shut or an agent is lost.
pub async fn judge_past(
    deps: &Deps,
    prepared: &Prepared,
    gates: &dyn Gatekeeper,
    healed: &[Healed],
) -> Result<(), ModuleError> {
    let (source, target) = (Agent::new(&prepared.source.agent), Agent::new(&prepared.target.agent));
    let past = recall((&source, &prepared.source_facts), (&target, &prepared.target_facts)).await?;
    match past {
        Past::Stranger(why) => {
            let overwrites: Vec<String> = deps.overwrites.clone();
            gates
                .pass(first_sync(&prepared.source.hostname, &prepared.target.hostname, &why, &overwrites))
                .await?;
        }
        Past::Known { record, .. } => {
            let others = records::read_pairs(&target).await?;
            let gate = out_of_order(&prepared.source.hostname, &prepared.target.hostname, &record, &others);
            if let Some(gate) = gate {
                gates.pass(gate).await?;
            }
            let mut attempts = records::read_attempts(&source, &prepared.target_facts, &record).await?;
            let common = record.end_of(&prepared.source_facts.machine_id).and_then(|end| end.set.as_ref());
            let here = &prepared.source.hostname;
            attempts.extend(deadman::attempts_of(healed, here, common, record.stamp));
            prepared.board.put_attempts(attempts);
            // Both machines keep the same list; the one here is the nearer.
            let proven = records::read_proven(&source, &prepared.target_facts, &record).await?;
            prepared.board.put_proven_then(proven);
            prepared.board.put_pair(*record);
        }
    }
    Ok(())
}

/// Whether all that a machine's end of a pair names is there and whole.
async fn check_end(agent: &Agent, end: &PairEnd) -> Result<Result<(), String>, ModuleError> {
    if let Some(set) = &end.set
        && let Err(why) = agent.check_set(set.clone()).await?
    {
        return Ok(Err(why));
    }
    for manifest in &end.manifests {
        if let Err(why) = agent.check_kept(manifest.key.clone()).await? {
            return Ok(Err(why));
        }
    }
    Ok(Ok(()))
}

impl Prepared {
    /// Makes the context of a module.
    pub fn context(
        &self,
        deps: &Deps,
        module: &dyn Module,
        gates: &Arc<dyn Gatekeeper>,
        cancel: &CancellationToken,
    ) -> ModuleContext {
        ModuleContext {
            session: deps.session.clone(),
            source: self.source.clone(),
            target: self.target.clone(),
            reporter: deps.log.reporter(module.name().clone()),
            cancel: cancel.clone(),
            mode: if deps.request.dry_run { RunMode::DryRun } else { RunMode::Real(WriteLicence::grant()) },
            gates: Arc::clone(gates),
            board: Arc::clone(&self.board),
            clock: Arc::clone(&deps.clock),
        }
    }

    /// Returns another handle on the same machines.
    pub fn share(&self) -> Prepared {
        Prepared {
            source: self.source.clone(),
            target: self.target.clone(),
            source_facts: self.source_facts.clone(),
            target_facts: self.target_facts.clone(),
            board: Arc::clone(&self.board),
        }
    }

    /// Returns both agents, the source's first.
    pub fn agents(&self) -> [Agent; 2] {
        [Agent::new(&self.source.agent), Agent::new(&self.target.agent)]
    }

    /// Writes the intent on both machines, the target's first.
    ///
    /// # Errors
    /// If an agent cannot write its state.
    pub async fn write_intent(&self, deps: &Deps) -> Result<(), ModuleError> {
        let intent = Intent {
            session: deps.session.clone(),
            source: self.source.hostname.clone(),
            target: self.target.hostname.clone(),
            started: (deps.clock)().to_string(),
        };
        let [source, target] = self.agents();
        records::write_intent(&target, &intent).await?;
        records::write_intent(&source, &intent).await
    }
}

impl Executed {
    /// Remembers what this run is about to bring over, in case that its end cannot be recorded.
    ///
    /// # Errors
    /// If the source's agent cannot write its state.
    pub async fn note_attempt(&self, deps: &Deps) -> Result<(), ModuleError> {
        let board = &self.prepared.board;
        let set = board.set(Role::Source, SnapshotKind::PreSync);
        let is_kept = board.without_snapshots().iter().any(|(role, ..)| *role == Role::Source);
        if set.is_none() && !is_kept {
            return Ok(());
        }
        let stamp = set.as_ref().map_or_else(|| UtcStamp::new((deps.clock)()), |set| set.stamp);
        let mut attempts = board.attempts();
        attempts.push(Attempt { session: deps.session.clone(), stamp, set });
        let [source, _] = self.prepared.agents();
        records::write_attempts(&source, &self.prepared.target_facts, &attempts).await
    }

    /// Records on both machines what they have in common now.
    ///
    /// # Errors
    /// If an agent cannot write its state.
    pub async fn write_pair(&self, deps: &Deps) -> Result<(), ModuleError> {
        let board = &self.prepared.board;
        let of = |role, kind| (board.set(role, kind), board.manifests(role));
        let ends = [of(Role::Source, SnapshotKind::PreSync), of(Role::Target, SnapshotKind::PostSync)];
        if ends.iter().any(|(set, manifests)| set.is_none() && manifests.is_empty()) {
            return Ok(());
        }
        let [source_end, target_end] = ends;
        // Nobody compared folders in this run, so it says nothing about what both machines have in common.
        let Some(rule_hash) = board.rule_hash() else { return Ok(()) };
        let end = |facts: &MachineFacts, (set, manifests)| PairEnd {
            hostname: facts.hostname.clone(),
            machine_id: facts.machine_id.clone(),
            set,
            manifests,
        };
        let record = PairRecord {
            format: PairRecord::FORMAT,
            session: deps.session.clone(),
            stamp: UtcStamp::new((deps.clock)()),
            source: end(&self.prepared.source_facts, source_end),
            target: end(&self.prepared.target_facts, target_end),
            rule_hash,
            unsettled: board.unsettled(),
            unsent: board.unsent(),
            apart: board.apart(),
            alien: board.alien(),
            lacking: board.lacking(),
            parts: board.parts(),
        };
        let [source, target] = self.prepared.agents();
        records::write_pair(&source, &target, &record).await?;
        let proven = board.proven();
        let is_kept = !proven.is_empty() || !board.proven_then().is_empty();
        if is_kept && let Err(error) = records::write_proven(&source, &target, &record, proven).await {
            // The next sync reads them whole.
            deps.log.debug(format!("which files were proven to be the same is not kept: {error}"));
        }
        if board.without_snapshots().is_empty() {
            return Ok(());
        }
        for agent in [&source, &target] {
            // What stays is removed by the next sync.
            if let Err(error) = records::prune_manifests(agent).await {
                deps.log.on(agent.hostname()).debug(format!("old manifests stay: {error}"));
            }
        }
        Ok(())
    }
}

/// What became of a module: its line for the report, and what failed though it went on.
pub type Ended = (ModuleResult, String, Option<ErrorKind>);

/// Runs one module's `execute` and puts a line for the report into words.
///
/// # Errors
/// What the module ended with.
pub async fn execute(module: &dyn Module, ctx: &ModuleContext) -> Result<Ended, ModuleError> {
    Ok(match module.execute(ctx).await? {
        Outcome::Done(text) => (ModuleResult::Success, text, None),
        Outcome::Partly(text, kind) => (ModuleResult::Failed, text, Some(kind)),
        Outcome::Skipped(why) => (ModuleResult::Skipped, why, None),
    })
}

/// Turns problems into the failure that ends the run.
pub fn invalid(problems: &[Problem]) -> ModuleError {
    let count = problems.len();
    let text = format!("{count} problem{} must be mended first", if count == 1 { "" } else { "s" });
    ModuleError::new(ErrorKind::Invalid, text)
}
