//! Gathers what is judged. Writes nothing on any machine, but for the end of a sync that was cut off (see [`super::settle`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pc_switcher_agent::proto::{
    BootLook, BootOrder, Counted, HoldingsRequest, LayoutRequest, RollbackLook, RollbackOrder, SpaceReport,
    StoredSet,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    Action, AgentLink, Answer, BytePath, Cmd, ErrorKind, ExecError, Executor, Gate, Gatekeeper, Hostname,
    Machine, ModuleContext, ModuleError, Problem, RunMode, SessionBoard, SubvolumeName, TargetMachine,
};
use pc_switcher_disk_monitor::parts::Parts;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::seen::{Doubt, Seen};
use super::settle::settle;
use crate::clock;
use crate::config::Config;
use crate::events::EventBus;
use crate::orchestrator::plan::RunPlan;
use crate::orchestrator::records;

/// How long a question to another machine may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where and for whom to look.
pub struct Place<'a> {
    /// The machine's elevated half.
    pub agent: &'a Arc<dyn AgentLink>,
    /// Runs commands as the user.
    pub executor: &'a dyn Executor,
    /// The user there.
    pub user: String,
    /// Whether sudo wanted a password there.
    pub sudo_asked: bool,
    /// The config of the machine where the command was typed.
    pub config: &'a Config,
    /// Whether this is that machine.
    pub is_here: bool,
    /// The machine where the command was typed.
    pub from: Hostname,
}

/// Looks at one machine, after a sync that was cut off there was brought to its end.
///
/// # Errors
/// If its agent does not answer.
pub async fn look_at(place: &Place<'_>) -> Result<Seen, ModuleError> {
    let agent = Agent::new(place.agent);
    let asked = Instant::now();
    let facts = agent.facts().await?;
    let (clock_ms, doubt) = (facts.clock_seconds * 1000, asked.elapsed());
    let intent = records::read_intent(&agent).await?;
    let settled = settle(&agent, &place.from, &place.user, intent.is_some()).await?;
    let snapshot_dir =
        text_of(place.config, "btrfs-snapshots", "snapshot_dir").unwrap_or_else(|| "/.snapshots".into());
    let subvolumes: Vec<SubvolumeName> = list_of(place.config, "btrfs-snapshots", "subvolumes")
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    let layout = agent
        .layout(LayoutRequest {
            folders: list_of(place.config, "user-data", "folders")
                .iter()
                .map(|path| BytePath::from(path.as_str()))
                .collect(),
            subvolumes: subvolumes.clone(),
            snapshot_dir: BytePath::from(snapshot_dir.as_str()),
            nested: Vec::new(),
        })
        .await?;
    let diagnosis = agent.diagnose().await?;
    let stable = pc_switcher_installer::STABLE_PATH;
    let installed = say(place.executor, Cmd::new(stable).arg("--version")).await.and_then(|text| {
        let version = text.trim().strip_prefix("pc-switcher ").map(str::to_owned);
        version.ok_or_else(|| format!("`{stable}` is something else"))
    });
    let config = if place.is_here {
        Ok(values(&place.config.effective))
    } else {
        their_config(place.executor, &installed).await
    };
    Ok(Seen {
        layout,
        diagnosis,
        problems: Vec::new(),
        user: place.user.clone(),
        sudo_asked: place.sudo_asked,
        sshd: say(place.executor, Cmd::new("sshd").arg("-T").sudo()).await,
        installed,
        own_version: env!("CARGO_PKG_VERSION").to_owned(),
        markers: intent.iter().filter(|_| !settled.is_busy).map(records::Intent::explain).collect(),
        redone: settled.redone,
        rollback: rollback(&agent, &snapshot_dir).await.map_err(|error| error.to_string()),
        boot: boot(&agent, &snapshot_dir).await.map_err(|error| error.to_string()),
        room: room(&agent, &snapshot_dir, subvolumes).await,
        good: good(&agent, &snapshot_dir).await,
        is_busy: settled.is_busy,
        config,
        clock_ms: clock_ms - clock::system()().as_millisecond(),
        // Whole seconds on their side, and the way there and back.
        clock_doubt_ms: 1000 + i64::try_from(doubt.as_millis()).unwrap_or(i64::MAX / 4),
        way_back: None,
        stranger: None,
        snapshot_dir,
        facts,
    })
}

/// How a rollback stands, with journals that nothing names.
async fn rollback(agent: &Agent, snapshot_dir: &str) -> Result<RollbackLook, ExecError> {
    let look = agent.rollback(RollbackOrder::Look).await?;
    Ok(match agent.rollback(RollbackOrder::Strays(snapshot_dir.into())).await {
        Ok(found) => RollbackLook { strays: found.strays, ..look },
        // One that cannot be read keeps no sync from starting.
        Err(error) => RollbackLook { problems: vec![error.to_string()], ..look },
    })
}

/// How boot protection stands; where it is off that is all.
async fn boot(agent: &Agent, snapshot_dir: &str) -> Result<BootLook, ExecError> {
    let counted = agent.boot(snapshot_dir.into(), BootOrder::Count).await?;
    match counted.counted {
        Counted::Off => Ok(counted),
        _ => agent.boot(snapshot_dir.into(), BootOrder::Look).await,
    }
}

/// What the file system of the snapshots is taken up by.
async fn room(
    agent: &Agent,
    snapshot_dir: &str,
    subvolumes: Vec<SubvolumeName>,
) -> Doubt<(SpaceReport, Parts)> {
    let snapshot_dir = BytePath::from(snapshot_dir);
    let reports = agent.space(vec![snapshot_dir.clone()]).await.map_err(|error| error.to_string())?;
    let held = agent.holdings(HoldingsRequest { snapshot_dir, subvolumes }).await;
    let held = held.map_err(|error| error.to_string())?;
    let report = reports.into_iter().next().ok_or_else(|| "no file system is there".to_owned())?;
    let parts = Parts::of(&report, &held);
    Ok((report, parts))
}

/// The sets that are marked as good.
async fn good(agent: &Agent, snapshot_dir: &str) -> Doubt<Vec<StoredSet>> {
    let (mut sets, _) = agent.sets(snapshot_dir.into()).await.map_err(|error| error.to_string())?;
    sets.retain(|stored| stored.words.good);
    Ok(sets)
}

/// Tries whether ssh leads from the other machine to this one without a question.
pub async fn way_back(executor: &dyn Executor, to: &Hostname) -> Doubt<()> {
    let options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "StrictHostKeyChecking=yes"];
    say(executor, Cmd::new("ssh").args(options).arg(to.as_str()).arg("true").timeout(PATIENCE))
        .await
        .map(drop)
}

/// Lets every module look for what a sync would refuse.
pub async fn problems_of(plan: &RunPlan, source: &Machine, target: &TargetMachine) -> Vec<Problem> {
    let session = pc_switcher_contract::SessionId::from_uuid(uuid::Uuid::new_v4());
    let core = EventBus::new(session.clone(), clock::system()).core(source.hostname.clone());
    let board = Arc::new(SessionBoard::default());
    let mut found = Vec::new();
    for module in plan.validating() {
        let ctx = ModuleContext {
            session: session.clone(),
            source: source.clone(),
            target: target.clone(),
            reporter: core.reporter(module.name().clone()),
            cancel: CancellationToken::new(),
            mode: RunMode::DryRun,
            gates: Arc::new(NoGates),
            board: Arc::clone(&board),
            clock: clock::system(),
        };
        match module.validate(&ctx).await {
            Ok(problems) => found.extend(problems),
            Err(error) => found.push(Problem {
                hostname: None,
                message: error.message.clone(),
                hint: (!error.hints.is_empty()).then(|| error.hints.join("; ")),
            }),
        }
    }
    found
}

/// Nobody is asked while a doctor looks.
struct NoGates;

#[async_trait]
impl Gatekeeper for NoGates {
    async fn pass(&self, gate: Gate) -> Result<Answer, ModuleError> {
        Err(ModuleError::new(ErrorKind::Refused(gate.kind), gate.consequence))
    }
}

async fn their_config(executor: &dyn Executor, installed: &Doubt<String>) -> Doubt<Value> {
    installed.as_ref().map_err(Clone::clone)?;
    let program = pc_switcher_installer::STABLE_PATH;
    let text = say(executor, Cmd::new(program).args(["config", "show", "--json"])).await?;
    let whole: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    whole.get("values").cloned().ok_or_else(|| "it says nothing of its values".to_owned())
}

fn values(tables: &[crate::config::Table]) -> Value {
    crate::config::json(tables).get_mut("values").map(Value::take).unwrap_or_default()
}

/// Runs a command that only reads, and returns what it says.
async fn say(executor: &dyn Executor, cmd: Cmd) -> Doubt<String> {
    let output =
        executor.run(Action::Read(cmd.timeout(PATIENCE))).await.map_err(|error| error.to_string())?;
    if output.ok() {
        return Ok(output.stdout_text());
    }
    let said = output.stderr_text();
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(last.map_or_else(
        || format!("`{}` ended with {}", output.command, output.code),
        |line| line.trim().to_owned(),
    ))
}

fn field<'a>(config: &'a Config, module: &str, key: &str) -> Option<&'a Value> {
    config.tables.iter().find(|(name, _)| name.as_str() == module)?.1.get(key)
}

fn text_of(config: &Config, module: &str, key: &str) -> Option<String> {
    field(config, module, key)?.as_str().map(str::to_owned)
}

fn list_of(config: &Config, module: &str, key: &str) -> Vec<String> {
    let items = field(config, module, key).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}
