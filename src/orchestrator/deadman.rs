//! The dead man of a sync: armed on the target before the first change, disarmed when the target works as before and lets us in
//! anew; otherwise the target takes the sync back by itself (docs/adr/0016).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_agent::proto::{DeadmanOrder, DeadmanState, DeadmanWish, GoodBy, GoodMark, Healed};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    Area, Attempt, ErrorKind, GateKind, Hostname, ModuleError, Role, Sentinel, SessionBoard, SessionId,
    SnapshotKind, SnapshotSet, TargetMachine, Threshold, UtcStamp,
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::login::First;
use super::phases::Prepared;
use super::run::{Deps, Engine};
use crate::config::{DeadmanMode, HealthCheck};
use crate::events::CoreLog;
use crate::health::{self, Checked, Finding, HEALTH_DIR, Place, Weight};

/// How long it waits between two tries of a new login.
const BETWEEN_LOGINS: Duration = Duration::from_secs(1);

/// So often what is red is looked at again, and after how long: packages may be half way through an update.
const LOOKS: usize = 2;
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// What the config says of it.
#[derive(Debug, Clone)]
pub struct DeadmanSettings {
    /// When it is armed.
    pub mode: DeadmanMode,
    /// How long a sync may stay unconfirmed.
    pub limit: Duration,
    /// Shipped checks that count.
    pub required: Vec<HealthCheck>,
    /// Below this a disk counts as full.
    pub reserve: Threshold,
    /// So many states of the target stay marked as good that syncs have marked; 0: none is.
    pub keep_good: u32,
}

/// The dead man of one sync.
pub(super) struct Deadman {
    settings: DeadmanSettings,
    session: SessionId,
    source: Hostname,
    target: TargetMachine,
    home: Option<PathBuf>,
    /// What is gone back to.
    pre: Option<SnapshotSet>,
    log: CoreLog,
    /// Whether a new login works as long as nothing is changed.
    first: First,
    cancel: CancellationToken,
    /// How the target was when it was armed.
    before: Mutex<Option<Vec<Checked>>>,
}

impl fmt::Debug for Deadman {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deadman({})", self.session)
    }
}

impl Deadman {
    /// Makes the one of a sync whose pre sets are taken.
    pub(super) fn of(deps: &Deps, prepared: &Prepared, first: First, cancel: CancellationToken) -> Self {
        let user = deps.reach.user();
        let home = prepared.target_facts.users.iter().find(|fact| fact.name == user);
        Self {
            settings: deps.deadman.clone(),
            session: deps.session.clone(),
            source: prepared.source.hostname.clone(),
            target: prepared.target.clone(),
            home: home.map(|fact| fact.home.as_path().to_owned()),
            pre: prepared.board.set(Role::Target, SnapshotKind::PreSync),
            log: deps.log.on(&prepared.target.hostname),
            first,
            cancel,
            before: Mutex::default(),
        }
    }

    fn agent(&self) -> Agent {
        Agent::new(&self.target.agent)
    }

    /// Looks whether the target works.
    async fn look(&self) -> Vec<Checked> {
        let agent = self.agent();
        let place = Place {
            executor: self.target.executor.as_ref(),
            agent: &agent,
            is_here: false,
            home: self.home.clone(),
            reserve: self.settings.reserve,
            scripts: Path::new(HEALTH_DIR),
        };
        health::weigh(health::look(&place).await, &self.settings.required)
    }

    /// Waits until it is known whether a new login works: once something is changed nobody can tell any more.
    async fn first_login(&self) -> Result<(), ModuleError> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(ModuleError::cancelled()),
            _ = self.first.clone() => Ok(()),
        }
    }

    /// Arms it, once.
    async fn arm(&self, why: &str) -> Result<(), ModuleError> {
        let mut before = self.before.lock().await;
        if before.is_some() {
            return Ok(());
        }
        let Some(pre) = &self.pre else {
            let host = &self.target.hostname;
            self.log.warning(format!("without snapshots {host} cannot take this sync back by itself"));
            return Ok(());
        };
        let found = self.look().await;
        let wish = DeadmanWish {
            session: self.session.clone(),
            from: self.source.clone(),
            limit_seconds: self.settings.limit.as_secs(),
            pre: pre.clone(),
        };
        self.agent().deadman(DeadmanOrder::Arm(wish)).await?;
        self.log.full(format!("the dead man is armed: {why}"));
        *before = Some(found);
        Ok(())
    }

    /// Arms it before the first module, if each sync is to be confirmed.
    pub(super) async fn begin(&self) -> Result<(), ModuleError> {
        match self.settings.mode {
            DeadmanMode::Always => {
                self.first_login().await?;
                self.arm("each sync is to be confirmed").await
            }
            DeadmanMode::Auto | DeadmanMode::Off => Ok(()),
        }
    }

    /// Whether it is armed.
    pub(super) async fn is_armed(&self) -> bool {
        self.before.lock().await.is_some()
    }

    /// Disarms it: nothing was changed, so nothing has to be confirmed.
    pub(super) async fn disarm(&self) {
        match self.agent().deadman(DeadmanOrder::Confirm).await {
            Ok(_) => *self.before.lock().await = None,
            Err(error) => self.log.debug(format!("the dead man stays armed: {error}")),
        }
    }

    /// Says what becomes of a sync that leaves it armed.
    pub(super) fn leave(&self) {
        let (host, limit) = (&self.target.hostname, self.settings.limit.as_secs());
        self.log.warning(format!(
            "this sync is not confirmed: {host} takes it back by itself in {limit} s, unless another sync reaches it before"
        ));
    }

    /// Turns what became of it into the end of the run, if it was taken back.
    fn taken_back(&self, state: &DeadmanState) -> Result<(), ModuleError> {
        let Some(healed) = state.healed(&self.session) else { return Ok(()) };
        Err(ModuleError::new(
            ErrorKind::RolledBack,
            format!("{}: {}", self.target.hostname, healed.explain()),
        )
        .hint(format!("mend it on {}, then sync again", self.source)))
    }
}

impl Deadman {
    /// The error of a sync that should have been taken back, and was not.
    fn stays(&self, why: &str) -> ModuleError {
        let host = &self.target.hostname;
        ModuleError::failed(format!(
            "{host}: {why}, and {host} knows nothing of this sync that it could take back"
        ))
        .hint("`pc-switcher rollback SESSION` goes back as a whole")
    }
}

#[async_trait]
impl Sentinel for Deadman {
    async fn about_to_change(&self, areas: &[Area]) -> Result<(), ModuleError> {
        if areas.is_empty() {
            return Ok(());
        }
        self.first_login().await?;
        if self.settings.mode == DeadmanMode::Off {
            return Ok(());
        }
        let words: Vec<String> = areas.iter().map(ToString::to_string).collect();
        self.arm(&format!("this sync touches {}", words.join(", "))).await
    }
}

/// Returns why a sync is taken back at once, if it broke something that counts, and what is only worth a word.
fn judge(before: &[Checked], now: &[Checked]) -> (Option<String>, Vec<Finding>) {
    let (required, wanted): (Vec<Finding>, Vec<Finding>) =
        health::broken(before, now).into_iter().partition(|finding| finding.weight == Weight::Required);
    let words: Vec<String> = required.iter().map(ToString::to_string).collect();
    let why = (!words.is_empty()).then(|| format!("it broke what worked before ({})", words.join("; ")));
    (why, wanted)
}

impl Engine {
    /// Puts the dead man in charge: modules tell it what they are about to touch.
    pub(super) async fn put_deadman(&mut self, prepared: &Prepared) -> Result<(), ModuleError> {
        let deadman =
            Arc::new(Deadman::of(&self.deps, prepared, self.logins.first(), self.watch.cancel.clone()));
        prepared.board.put_sentinel(Arc::clone(&deadman) as _);
        self.deadman = Some(Arc::clone(&deadman));
        self.watch.drive(deadman.begin()).await
    }

    /// Whether the sync has to be confirmed.
    pub(super) async fn is_armed(&self) -> bool {
        match &self.deadman {
            Some(deadman) => deadman.is_armed().await,
            None => false,
        }
    }

    /// Confirms the sync: the target works as before, and lets us in anew. Otherwise waits until the target has taken it back.
    pub(super) async fn confirm(&mut self, board: &SessionBoard) -> Result<(), ModuleError> {
        let Some(deadman) = self.deadman.clone() else { return Ok(()) };
        let Some(before) = deadman.before.lock().await.clone() else { return Ok(()) };
        self.deps.log.stage("confirm");
        let cancel = self.watch.cancel.clone();
        let reach = Arc::clone(&self.deps.reach);
        let first = deadman.first.clone();
        let changed = board.commit_was_asked();
        let confirmed = async {
            let mut now = deadman.look().await;
            let (mut why, mut wanted) = judge(&before, &now);
            for _ in 0..LOOKS {
                let Some(red) = &why else { break };
                deadman.log.warning(format!("{}: {red}; looking once more", deadman.target.hostname));
                tokio::time::sleep(BETWEEN_LOOKS).await;
                now = deadman.look().await;
                (why, wanted) = judge(&before, &now);
            }
            // What was red before is no reason to go back, but nothing to come back to either.
            let is_well = health::red(&now).iter().all(|finding| finding.weight != Weight::Required);
            for finding in wanted {
                deadman.log.warning(format!("worse than before: {finding}"));
            }
            match why {
                Some(why) if changed => {
                    let state = deadman.agent().deadman(DeadmanOrder::Heal(why.clone())).await?;
                    deadman.taken_back(&state)?;
                    return Err(deadman.stays(&why));
                }
                Some(why) => deadman.log.warning(format!("this sync changed nothing, and yet {why}")),
                None => {}
            }
            let logs_in = matches!(first.await, Some(Ok(())));
            if logs_in {
                let host = &deadman.target.hostname;
                let agent = deadman.agent();
                let new_login = async {
                    let mut tries = 0;
                    while let Some(Err(why)) = reach.fresh_login().await {
                        tries += 1;
                        if tries == 1 {
                            let limit = deadman.settings.limit.as_secs();
                            deadman.log.warning(format!(
                                "a new ssh login to {host} does not work any more: {why}; if none does within {limit} s, \
                                 {host} takes this sync back"
                            ));
                        }
                        tokio::time::sleep(BETWEEN_LOGINS).await;
                    }
                };
                tokio::select! {
                    state = agent.deadman(DeadmanOrder::Count) => {
                        deadman.taken_back(&state?)?;
                        return Err(deadman.stays("no new ssh login worked in time"));
                    }
                    () = new_login => {}
                }
            }
            let state = deadman.agent().deadman(DeadmanOrder::Confirm).await?;
            deadman.taken_back(&state)?;
            Ok::<(bool, bool), ModuleError>((logs_in, is_well))
        };
        let stopped = async {
            cancel.cancelled().await;
            Err::<(bool, bool), ModuleError>(ModuleError::cancelled())
        };
        let confirmed = async {
            tokio::select! {
                done = confirmed => done,
                stopped = stopped => stopped,
            }
        };
        let result = self.watch.drive(confirmed).await;
        let is_over = match &result {
            Ok(_) => true,
            Err(error) => error.kind == ErrorKind::RolledBack,
        };
        if is_over {
            *deadman.before.lock().await = None;
        }
        let (logs_in, is_well) = result?;
        self.is_green = logs_in && is_well;
        let host = &deadman.target.hostname;
        board.add_check(format!("{host} works as it did before"));
        board.add_check(match logs_in {
            true => format!("a new ssh login to {host} works"),
            false => format!("a new ssh login to {host} was not tried: it takes a person"),
        });
        Ok(())
    }

    /// Marks what the target became as known to be good, if that was seen: an older mark of a sync falls away, one that a person
    /// or `guard` gave stays. It is a help for later, so a failure is a warning.
    pub(super) async fn mark_good(&mut self, board: &SessionBoard) {
        let keep = self.deps.deadman.keep_good;
        let (Some(deadman), true) = (self.deadman.clone(), self.is_green && keep > 0) else { return };
        let Some(set) = board.set(Role::Target, SnapshotKind::PostSync) else { return };
        let Some(dir) = set.dir() else { return };
        let host = &deadman.target.hostname;
        let mark = GoodMark::Set { id: set.id(), by: GoodBy::Sync, keep };
        let said = async {
            match deadman.agent().mark_good(dir, mark).await {
                Ok(_) => board.add_check(format!(
                    "{host} as it is now is marked as good: `rollback good` leads back here"
                )),
                Err(error) => {
                    deadman.log.warning(format!("{host} could not mark this state as good: {error}"));
                }
            }
        };
        self.watch.bounded(super::cleanup::CLOSE, said).await;
    }

    /// A sync that ends unconfirmed: one that changed nothing has nothing to be taken back.
    pub(super) async fn leave_deadman(&mut self) {
        let Some(deadman) = self.deadman.take() else { return };
        if !deadman.is_armed().await {
            return;
        }
        let changed = self.prepared.as_ref().is_some_and(|prepared| prepared.board.commit_was_asked());
        if changed {
            deadman.leave();
        } else {
            self.watch.bounded(super::cleanup::CLOSE, deadman.disarm()).await;
        }
    }

    /// Forgets what the target took back of this machine's syncs: both machines have something in common again.
    pub(super) async fn forget_healed(&mut self, prepared: &Prepared) {
        if std::mem::take(&mut self.healed).is_empty() {
            return;
        }
        let (agent, from) = (Agent::new(&prepared.target.agent), prepared.source.hostname.clone());
        if let Err(error) = agent.deadman(DeadmanOrder::Told(from)).await {
            self.deps.log.debug(format!("what was taken back is said once more: {error}"));
        }
    }
}

/// Sees to what an older sync has left armed on a machine, and says what became of it and of others. Returns what was taken back.
///
/// # Errors
/// If it is not over yet and this machine cannot confirm it, or the agent is lost.
pub(super) async fn meet(deps: &Deps, agent: &Agent, role: Role) -> Result<Vec<Healed>, ModuleError> {
    let Some(bytes) = agent.state_get(DeadmanState::KEY).await? else { return Ok(Vec::new()) };
    let mut state = DeadmanState::read(&bytes);
    let log = deps.log.on(agent.hostname());
    if let Some(armed) = state.armed.clone() {
        if deps.request.dry_run {
            log.warning(armed.explain());
        } else {
            state = agent.deadman(DeadmanOrder::Settle { from_elsewhere: role == Role::Target }).await?;
            let session = &armed.wish.session;
            if state.armed.is_some() {
                let text = format!("{}: {}", agent.hostname(), armed.explain());
                let hint = format!("or try again in {} s", armed.wish.limit_seconds);
                return Err(ModuleError::new(ErrorKind::Refused(GateKind::Rollback), text).hint(hint));
            }
            if state.healed(session).is_none() {
                log.warning(format!(
                    "sync {session} from {} was not confirmed; that {} can be reached confirms it now",
                    armed.wish.from,
                    agent.hostname()
                ));
            }
        }
    }
    for healed in &state.healed {
        log.warning(healed.explain());
    }
    Ok(state.healed)
}

/// Returns what the source had in common with the target before the syncs that were taken back, as attempts: what the target got
/// back by itself is nobody's own work, and the source's set holds it.
pub(super) fn attempts_of(
    healed: &[Healed],
    source: &Hostname,
    common: Option<&SnapshotSet>,
    stamp: UtcStamp,
) -> Vec<Attempt> {
    let ours = healed.iter().filter(|healed| healed.from.same_machine(source));
    let attempt = |healed: &Healed| Attempt { session: healed.session.clone(), stamp, set: common.cloned() };
    if common.is_none() { Vec::new() } else { ours.map(attempt).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;

    #[test]
    fn what_counts_takes_the_sync_back_and_the_rest_is_said() {
        let checked = |name: &str, weight, state| Checked { name: name.into(), weight, state };
        let red = || State::Red("it is broken".into());
        let before = [
            checked("packages", Weight::Required, State::Green),
            checked("required.d/mine", Weight::Required, State::Green),
            checked("wanted.d/mine", Weight::Wanted, State::Green),
            checked("home", Weight::Required, red()),
        ];
        assert_eq!(judge(&before, &before), (None, Vec::new()));
        let now = before.clone().map(|one| Checked { state: red(), ..one });
        let (why, wanted) = judge(&before, &now);
        let words = "it broke what worked before (packages: it is broken; required.d/mine: it is broken)";
        assert_eq!(why.as_deref(), Some(words));
        assert_eq!(
            wanted.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["wanted.d/mine: it is broken"]
        );
    }
}
