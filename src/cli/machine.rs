//! What this machine remembers: the user's own history, and through the local agent what came here from others.
//!
//! The agent is asked only if that needs no password; without it the command says what it does not show.

use std::time::Duration;

use pc_switcher_agent::data::apply::{PENDING, RESULTS};
use pc_switcher_agent::linux::lock::{LOCK_PATH, MachineLock};
use pc_switcher_agent::linux::rollback::POINTER;
use pc_switcher_agent::proto::{
    DeadmanState, LockHolder, Redone, RollbackOrder, RollbackPhase, RollbackState, decode,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{AgentLink, Hostname, ModuleError};
use tokio_util::sync::CancellationToken;

use super::guard::open::Open;
use super::{CliError, Context, engine};
use crate::history::{SessionRow, Store, merge};
use crate::orchestrator::records;
use crate::paths::{self, Env};
use crate::remote::Reach;

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A look at this machine.
pub(super) struct Machine {
    /// The newest sessions that were started here or came here, newest first.
    pub(super) rows: Vec<SessionRow>,
    /// Who holds the machine's lock, in words.
    pub(super) lock_holder: Option<String>,
    /// What dead runs left, a sentence each.
    pub(super) markers: Vec<String>,
    /// That the machine went back, or took a rollback back, by itself; one of the markers, too.
    returned: Option<String>,
    missing: Option<String>,
}

impl Machine {
    /// Looks; returns at most `count` sessions.
    ///
    /// # Errors
    /// If the user's own history cannot be read.
    pub(super) fn look(context: &Context<'_>, count: usize) -> Result<Self, CliError> {
        let store = Store::open_existing(&paths::history_db(&context.env)?)?;
        let own = store.map(|store| store.list(count)).transpose()?.unwrap_or_default();
        let lock_holder = MachineLock::look(LOCK_PATH.as_ref()).map(in_words);
        let (found, missing) = match ask_agent(&context.env, count) {
            Ok(found) => (found, None),
            Err(why) => (Found::default(), why),
        };
        let Found { came, markers, returned } = found;
        Ok(Self { rows: merge(own, came, count), lock_holder, markers, returned, missing })
    }

    /// Says on standard error what the machine exchanged by itself: no session says so.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn tell_what_came_back(&self, context: &mut Context<'_>) -> Result<(), CliError> {
        if let Some(said) = &self.returned {
            writeln!(context.err, "note: {said}")?;
        }
        Ok(())
    }

    /// Says on standard error what could not be shown, if anything.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn tell_what_is_missing(&self, context: &mut Context<'_>) -> Result<(), CliError> {
        if let Some(why) = &self.missing {
            writeln!(context.err, "note: syncs that came here from other machines are not shown: {why}")?;
        }
        Ok(())
    }
}

fn in_words(holder: Option<LockHolder>) -> String {
    match holder {
        Some(holder) => format!(
            "sync {} from {} by {} (process {}, since {})",
            holder.session, holder.from, holder.user, holder.pid, holder.since
        ),
        None => "a sync that is just starting".to_owned(),
    }
}

/// What the agent knows.
#[derive(Default)]
struct Found {
    /// Sessions that came here.
    came: Vec<SessionRow>,
    markers: Vec<String>,
    returned: Option<String>,
}

/// Asks the agent of this machine. `Err(None)`: nothing was ever installed here, so nothing can be missing.
fn ask_agent(env: &Env, count: usize) -> Result<Found, Option<String>> {
    let remote = engine::quiet_env(env);
    if env.uid != 0 && !remote.stable_path.exists() {
        return Err(None);
    }
    let failed = |error: &dyn std::fmt::Display| Some(error.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| failed(&error))?;
    let found = runtime.block_on(async {
        let own = engine::own_name().map_err(Some)?;
        let asked = tokio::time::timeout(PATIENCE, ask(Reach::new(remote, None), &own, count)).await;
        match asked {
            Ok(found) => found.map_err(|error| Some(error.message)),
            Err(_) => Err(Some(format!("the agent did not answer within {} s", PATIENCE.as_secs()))),
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    found
}

async fn ask(reach: Reach, own: &Hostname, count: usize) -> Result<Found, ModuleError> {
    let started = reach.start_local_agent(own, &CancellationToken::new()).await?;
    let link: std::sync::Arc<dyn AgentLink> = std::sync::Arc::clone(&started.link) as _;
    let agent = Agent::new(&link);
    let rows = agent.history_list(u32::try_from(count).unwrap_or(u32::MAX)).await?;
    let rows = rows.iter().filter_map(|row| serde_json::from_slice(row).ok()).collect();
    // While a sync runs its mark is no leftover.
    let running = MachineLock::look(LOCK_PATH.as_ref()).is_some();
    let intent = if running { None } else { records::read_intent(&agent).await? };
    let mut returned = None;
    let mut markers: Vec<String> = intent.iter().map(records::Intent::explain).collect();
    if !running {
        markers.extend(cut_off(&agent).await?);
        if let Some((marker, came_back)) = rolled_back(&agent).await? {
            markers.push(marker);
            returned = came_back;
        }
        markers.extend(deadman(&agent).await?);
        markers.extend(Open::of(&agent).await?.and_then(|open| open.explain()));
    }
    started.process.close(Duration::from_secs(2)).await;
    Ok(Found { came: rows, markers, returned })
}

/// Says that a rollback is not confirmed yet, if so, and what of it the machine did by itself.
async fn rolled_back(agent: &Agent) -> Result<Option<(String, Option<String>)>, ModuleError> {
    if agent.state_get(POINTER).await?.is_none() {
        return Ok(None);
    }
    let look = agent.rollback(RollbackOrder::Look).await?;
    let not_confirmed =
        || "a rollback is not confirmed yet; `pc-switcher rollback status` says more".to_owned();
    let line = |state: &RollbackState| match (look.forbids_sync(), state.phase) {
        (None, RollbackPhase::Cancelled) => state
            .explain_returned()
            .map_or_else(not_confirmed, |why| format!("{why}; `pc-switcher rollback status` says more")),
        (Some(why), _) => format!("no sync can start: {why}"),
        (None, RollbackPhase::Confirmed) => {
            "former trees of a rollback are not removed yet; `pc-switcher rollback confirm` says why"
                .to_owned()
        }
        (None, _) => state
            .explain_fallback()
            .map_or_else(not_confirmed, |why| format!("{why}; `pc-switcher rollback status` says more")),
    };
    Ok(look.state.as_ref().map(|state| (line(state), state.explain_by_itself())))
}

/// Says that a sync waits to be confirmed, and which were taken back since nobody did.
async fn deadman(agent: &Agent) -> Result<Vec<String>, ModuleError> {
    let Some(bytes) = agent.state_get(DeadmanState::KEY).await? else { return Ok(Vec::new()) };
    let DeadmanState { armed, healed } = DeadmanState::read(&bytes);
    let armed = armed.iter().map(|armed| armed.explain());
    Ok(armed.chain(healed.iter().map(|healed| healed.explain())).collect())
}

/// Says what became of the commits of syncs that were cut off, or that they are still to be finished.
async fn cut_off(agent: &Agent) -> Result<Vec<String>, ModuleError> {
    let mut lines = Vec::new();
    for key in agent.state_list(PENDING).await? {
        let session = key.rsplit('/').next().unwrap_or_default();
        lines.push(format!(
            "sync {session} was cut off while it staged or committed here; `pc-switcher doctor` brings it to its end now, the \
             next boot or the next sync does otherwise"
        ));
    }
    for key in agent.state_list(RESULTS).await? {
        let result = agent.state_get(key).await?.and_then(|bytes| decode::<Redone>(&bytes).ok());
        lines.extend(result.map(|result| result.explain()));
    }
    Ok(lines)
}
