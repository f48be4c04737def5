//! `rollback`: takes whole subvolumes of a machine back to a set of snapshots.

mod again;
mod choose;
mod confirm;
pub(super) mod marks;
mod render;
mod stray;
mod trial;
mod which;

use pc_switcher_agent::proto::{
    DeadmanOrder, GoodBy, LockReply, LockRequest, Patience, Redone, RedoneHow, RollbackLook, RollbackOrder,
    RollbackPhase, RollbackWish, TakeSet, Together,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{
    BytePath, Hostname, ModuleError, Role, SessionId, SetId, SnapshotKind, SubvolumeName, UtcStamp,
};
use serde_json::json;

pub(super) use self::trial::Asked;
use self::which::Which;

use super::contact::{Contact, with_machines};
use super::guard::open::Open;
use super::snapshots::{self, Found, Where, settings, with_agent};
use super::{CliError, Context, Exit, sync};
use crate::clock;
use crate::orchestrator::reach::Reach as _;
use crate::orchestrator::{met, phases};

/// Take whole subvolumes of a machine back to a set of snapshots
///
/// Everything in them becomes what it was when the set was taken, but for what belongs to the machine: its name and keys,
/// who may log in, and what pc-switcher remembers. Subvolumes inside of them are in no snapshot of theirs and come along as
/// they are. A subvolume that nobody uses goes back at once; what runs works on in the former tree of any other until the machine
/// is started anew, or until the same command is given again when nobody uses it any more.
/// The former tree is kept: `rollback cancel` puts it back, `rollback confirm` removes it. `undo` is gentler: it takes a
/// sync back path by path, while people work.
///
/// Where systemd runs, nearly always a restart is needed: its own services see the trees.
///
/// Where the system itself goes back, the machine takes that back again by itself unless `rollback confirm` comes within
/// some minutes of the restart: nobody may be able to get in any more. `[rollback] deadman` and `restart_limit` say so.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    to: To,
    #[command(flatten)]
    place: Place,
}

/// On which machines.
#[derive(Debug, Clone, Default, clap::Args)]
struct Place {
    /// `source`, `target` or `both` machines of that sync, or what your ssh understands, for example `desk`; both unless
    /// told, by one decision. For a set that is no sync's: this machine
    #[arg(long, value_name = "WHICH", value_parser = sync::target)]
    machine: Option<String>,
}

/// Back to what.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct To {
    /// A sync: back to what was before it. Or a set: `good` for the last known good one, its name, or as `snapshots list
    /// --json` names it
    #[arg(value_name = "SESSION|SET|good")]
    what: Option<String>,
    /// Only this subvolume of the set; may be given more than once
    #[arg(long = "subvol", value_name = "SUBVOLUME")]
    subvolumes: Vec<SubvolumeName>,
    /// Say what would be done and what stands in the way, and write nothing
    #[arg(long)]
    plan: bool,
    /// For the next start only: the one after it finds the trees of now again, unless `rollback confirm` comes in between
    #[arg(long)]
    boot_once: bool,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Show the rollback that is not confirmed yet, or the sync that the machine would take back by itself
    Status(Where),
    /// Keep a rollback for good: the former trees are removed. Or keep a sync that the machine would take back by itself
    Confirm(confirm::Args),
    /// Take a rollback back: the former trees are put in place again
    Cancel(Where),
}

impl To {
    /// Back to a set, in these subvolumes.
    pub(super) fn set(id: &SetId, subvolumes: Vec<SubvolumeName>) -> Self {
        Self { what: Some(id.to_string()), subvolumes, plan: false, boot_once: false }
    }
}

/// Returns what is said of a rollback that was done.
pub(super) fn told(done: &Done) -> Vec<String> {
    render::status(done)
}

/// What was done on a machine, or would be.
pub(super) struct Done {
    hostname: Hostname,
    /// The set that is gone back to, with its subvolumes, if a rollback was asked for.
    to: Option<(SetId, Vec<SubvolumeName>)>,
    /// Who marked that set as good, if the good one was asked for.
    good: Option<GoodBy>,
    /// What of that set stays as it is, since it lies on another disk.
    on_another_disk: Vec<SubvolumeName>,
    /// What is said of how long it holds, before it is done.
    trial: Option<String>,
    /// The set that keeps the state of now.
    safety: Option<SetId>,
    pub(super) look: RollbackLook,
}

/// Rolls back, and prints what became of it.
///
/// # Errors
/// If there is no such set, something stands in the way, a sync runs, or the machine cannot be reached.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    match &args.command {
        None => roll_back(args, context),
        Some(Command::Status(place)) => {
            let (mut armed, mut open) = (None, None);
            let dir = settings(context).map(|config| BytePath::from(config.snapshot_dir.as_path())).ok();
            let done = with_agent(place, context, async |agent, _| {
                open = Open::of(agent).await?.and_then(|open| open.explain());
                armed = agent.deadman(DeadmanOrder::Look).await?.armed;
                let look = agent.rollback(RollbackOrder::Look).await?;
                Ok(Done::of(agent, stray::find(agent, dir.as_ref(), look).await))
            })?;
            let armed = armed.map(|armed| format!("{}: {}", done.hostname, armed.explain()));
            let open = open.map(|open| format!("{}: {open}", done.hostname));
            let lines = render::status(&done).into_iter().chain(armed).chain(open);
            let lines = lines.chain(stray::told(&done, dir.as_ref()));
            let exit = say(context, &done, lines.collect())?;
            // A machine without its homes is not as it should be, and nothing else may say so.
            Ok(if done.look.not_mounted.is_empty() { exit } else { Exit::Failed })
        }
        Some(Command::Confirm(args)) => confirm::run(args, context),
        Some(Command::Cancel(place)) => {
            let config = settings(context)?;
            let done = with_agent(place, context, async |agent, contact| {
                begin(agent, contact).await?;
                cancel(agent, &config).await
            })?;
            say(context, &done, render::cancelled(&done))
        }
    }
}

impl Done {
    fn of(agent: &Agent, look: RollbackLook) -> Self {
        Self {
            hostname: agent.hostname().clone(),
            to: None,
            good: None,
            on_another_disk: Vec::new(),
            trial: None,
            safety: None,
            look,
        }
    }
}

fn say(context: &mut Context<'_>, done: &Done, lines: Vec<String>) -> Result<Exit, CliError> {
    if context.global.json {
        context.print_json(&render::json(done))?;
        return Ok(Exit::Completed);
    }
    for line in lines {
        writeln!(context.out, "{line}")?;
    }
    Ok(Exit::Completed)
}

fn roll_back(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let Some(what) = &args.to.what else {
        return Err(CliError::Usage {
            message: "say what to go back to: a sync's session, or a set of snapshots".into(),
            help: Some(
                "`pc-switcher snapshots list` shows both; `rollback status` shows one that is not confirmed"
                    .into(),
            ),
        });
    };
    let config = context.load_config(&[], &[])?;
    let asked = Asked::of(&config.rollback, args.to.boot_once);
    let config = snapshots::of(&config)?;
    let which = which::which(what, args.place.machine.as_deref(), context)?;
    let all = with_machines(which.other(), &context.env, async |contact| {
        let agents = agents(&which, contact).await?;
        let waiting = again::waiting(&agents).await?;
        for agent in &agents {
            begin(agent, contact).await?;
        }
        // What waits for a word goes on when that is heard, which is no plan.
        if let ([here, there], false) = (agents.as_slice(), args.to.plan) {
            met::settle(here, there).await?;
        }
        if let Some(all) = again::of(&agents, &args.to, &waiting, &config).await? {
            return Ok(Ok(all));
        }
        go_back(&agents, &args.to, asked, &config).await
    })??;
    let problems: Vec<String> = all
        .iter()
        .flat_map(|done| done.look.problems.iter().map(|problem| format!("{}: {problem}", done.hostname)))
        .collect();
    if !problems.is_empty() {
        return Err(CliError::Refused { message: problems.join("\n"), help: None });
    }
    if context.global.json {
        let all: Vec<_> = all.iter().map(render::json).collect();
        context.print_json(&json!({ "machines": all }))?;
        return Ok(Exit::Completed);
    }
    for done in &all {
        for line in if args.to.plan { render::plan(done) } else { render::status(done) } {
            writeln!(context.out, "{line}")?;
        }
    }
    Ok(Exit::Completed)
}

/// Returns the agents of the machines that are meant; the first one leads.
async fn agents(which: &Which, contact: &Contact) -> Result<Vec<Agent>, ModuleError> {
    let mut agents = Vec::new();
    if !matches!(which, Which::There(_)) {
        agents.push(Agent::new(&contact.reach.source(&contact.cancel).await?.agent));
    }
    if which.other().is_some() {
        agents.push(Agent::new(&contact.reach.target(&contact.cancel).await?.agent));
    }
    Ok(agents)
}

/// Rolls one machine back, or two by one decision, that of the first.
pub(super) async fn go_back(
    agents: &[Agent],
    to: &To,
    asked: Asked,
    config: &BtrfsSnapshotsConfig,
) -> Result<Result<Vec<Done>, CliError>, ModuleError> {
    let what = to.what.as_deref().unwrap_or_default();
    let session = SessionId::from_uuid(uuid::Uuid::new_v4());
    let stamp = UtcStamp::new(clock::system()());
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let (mut wishes, mut all) = (Vec::new(), Vec::new());
    for (at, agent) in agents.iter().enumerate() {
        let sets = Found::read(agent, config).await?;
        let (set, subvolumes) = match choose::choose(&sets, what, &to.subvolumes) {
            Ok(chosen) => chosen,
            Err(error) => return Ok(Err(error)),
        };
        let on_another_disk = choose::on_another_disk(&set, &to.subvolumes, &subvolumes);
        let partner = agents.iter().find(|other| !other.hostname().same_machine(agent.hostname()));
        let mut wish = RollbackWish {
            session: session.clone(),
            stamp,
            snapshot_dir: snapshot_dir.clone(),
            subvolumes: subvolumes.clone(),
            together: partner.map(|other| Together { partner: other.hostname().clone(), leads: at == 0 }),
            to: set,
            trial: None,
            fallback: None,
        };
        let mut look = agent.rollback(RollbackOrder::Check(wish.clone())).await?;
        look.problems.extend(asked.problem(&look));
        wish.trial = asked.trial(&look);
        if wish.trial.is_some() {
            look.wait_for_trial();
        }
        let trial = render::trial(wish.trial, asked.unattended(&look));
        let good = match what {
            "good" => sets
                .sets
                .iter()
                .find(|stored| stored.set.id() == wish.to.id())
                .map(|stored| stored.words.good_by),
            _ => None,
        };
        let to = Some((wish.to.id(), subvolumes));
        all.push(Done { to, good, on_another_disk, trial, ..Done::of(agent, look) });
        wishes.push(wish);
    }
    if to.plan || all.iter().any(|done| !done.look.problems.is_empty()) {
        return Ok(Ok(all));
    }
    for ((agent, wish), done) in agents.iter().zip(&wishes).zip(&mut all) {
        // Without it nothing would lead back once the rollback is confirmed.
        done.safety = Some(take_safety_set(agent, config, wish.subvolumes.clone()).await?);
    }
    let mut judged = Vec::new();
    for (agent, wish) in agents.iter().zip(&wishes) {
        // Before the state is carried over: what a guard could not judge any more is judged by this.
        if let Some(open) = Open::of(agent).await?.filter(|open| open.set == wish.to.id()) {
            Open::forget(agent).await?;
            judged.push((agent, open));
        }
    }
    for (at, (agent, wish)) in agents.iter().zip(wishes).enumerate() {
        if let Err(error) = agent.rollback(RollbackOrder::Prepare(wish)).await {
            for ready in &agents[..at] {
                // Whoever comes next drops it otherwise: nothing was decided.
                let _ = ready.rollback(RollbackOrder::Abort).await;
            }
            for (agent, open) in judged {
                // Nothing went back, so it still waits for somebody.
                let _ = open.put(agent).await;
            }
            return Err(error.into());
        }
    }
    for (at, (agent, done)) in agents.iter().zip(&mut all).enumerate() {
        done.look = match agent.rollback(RollbackOrder::Commit).await {
            Ok(look) => look,
            Err(error) if at > 0 => {
                let hint = format!(
                    "{} went back; {} follows by itself when a sync or a rollback reaches both",
                    agents[0].hostname(),
                    agent.hostname()
                );
                return Err(ModuleError::from(error).hint(hint));
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(Ok(all))
}

/// Takes a rollback back. What was done since the machine was started anew is kept as a set first.
async fn cancel(agent: &Agent, config: &BtrfsSnapshotsConfig) -> Result<Done, ModuleError> {
    let mut done = Done::of(agent, agent.rollback(RollbackOrder::Look).await?);
    if done.look.state.as_ref().is_some_and(|state| state.phase == RollbackPhase::Cancelled) {
        // Nothing more is to be done.
        return Ok(done);
    }
    if let Some(state) = &done.look.state
        && done.look.in_use.is_empty()
    {
        let subvolumes = state.members.iter().map(|member| member.name.clone()).collect();
        done.safety = Some(take_safety_set(agent, config, subvolumes).await?);
    }
    done.look = agent.rollback(RollbackOrder::Cancel).await?;
    Ok(done)
}

/// Keeps the state of now as a set.
async fn take_safety_set(
    agent: &Agent,
    config: &BtrfsSnapshotsConfig,
    subvolumes: Vec<SubvolumeName>,
) -> Result<SetId, ModuleError> {
    let request = TakeSet {
        session: SessionId::from_uuid(uuid::Uuid::new_v4()),
        stamp: UtcStamp::new(clock::system()()),
        kind: SnapshotKind::PreRollback,
        snapshot_dir: BytePath::from(config.snapshot_dir.as_path()),
        subvolumes,
    };
    Ok(agent.take_set(request).await?.id())
}

/// Takes the machine's lock, free again when the agent ends, and finishes what was cut off. Subvolumes of a rollback that was done stay
/// as they are, whether anybody uses them or not: nobody has asked for that one yet.
pub(super) async fn begin(agent: &Agent, contact: &Contact) -> Result<(), ModuleError> {
    let request = LockRequest {
        session: SessionId::from_uuid(uuid::Uuid::new_v4()),
        role: Role::Target,
        from: contact.reach.own_name(),
        user: format!("{}, rollback", contact.reach.user()),
    };
    if let LockReply::Busy(holder) = agent.lock(request).await? {
        return Err(phases::busy(agent.hostname(), holder));
    }
    finished(agent, &agent.redo(Patience::TryAgainLater).await?)
}

fn finished(agent: &Agent, redone: &[Redone]) -> Result<(), ModuleError> {
    match redone.iter().find(|redone| matches!(redone.how, RedoneHow::Pending(_))) {
        None => Ok(()),
        Some(pending) => Err(ModuleError::failed(format!("{}: {}", agent.hostname(), pending.explain()))),
    }
}
