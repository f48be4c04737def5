//! `undo`: takes back what the last sync changed on a machine, as far as nobody touched it since.

mod choose;
mod render;

use pc_switcher_agent::proto::{
    LockReply, LockRequest, Patience, RedoneHow, RollbackOrder, TakeSet, UndoLine, UndoReport, UndoRequest,
    UndoWord,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{
    BytePath, ErrorKind, GateKind, Hostname, ModuleError, ModuleName, Role, SessionId, SetId, SnapshotKind,
    SnapshotSet, UtcStamp,
};
use serde::Deserialize;

use self::choose::{Chosen, choose};
use super::contact::{Contact, with_machines};
use super::rollback::marks;
use super::{CliError, Context, Exit, engine, sync};
use crate::clock;
use crate::orchestrator::phases;
use crate::orchestrator::reach::Reach as _;

/// Take back what a sync changed here and nobody touched since
///
/// Runs on the machine that was the sync's target, while people work there: every file that still is as the sync left it
/// becomes what it was before, with its old times and rights; what was changed since is named and stays. The state before
/// the undo is kept as a set of snapshots. The next sync asks about every path that was taken back. Exit code 7 if
/// everything that was left to take back was changed since.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// The sync, by its session; the last one that changed the machine if none is named
    #[arg(value_name = "SESSION")]
    session: Option<SessionId>,
    /// Show what would be taken back and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Another machine than this one: what your ssh understands, for example `desk`
    #[arg(long, value_name = "HOSTNAME", value_parser = sync::target)]
    machine: Option<String>,
}

/// What an undo did, or would do.
struct Undone {
    hostname: Hostname,
    sync: SessionId,
    /// When the sync began.
    stamp: UtcStamp,
    dry_run: bool,
    /// The set that holds the state before the undo.
    safety: Option<SetId>,
    lines: Vec<UndoLine>,
    report: UndoReport,
    /// The marks that it took away.
    unmarked: marks::Unmarked,
}

impl Undone {
    fn has_undone(&self) -> bool {
        self.lines.iter().any(|line| matches!(line.word, UndoWord::Undone(_)))
    }

    fn exit(&self) -> Exit {
        match self.report.commit.failed {
            Some(_) => Exit::Failed,
            None if !self.has_undone() && !self.lines.is_empty() => Exit::Refused,
            None => Exit::Completed,
        }
    }

    /// What changed between plan and commit stays, so it is not taken back.
    fn settle(&mut self) {
        let commit = &self.report.commit;
        let of = |path: &BytePath| commit.conflicts.iter().find(|conflict| conflict.path == *path);
        for line in &mut self.lines {
            if let Some(conflict) = of(&line.path) {
                line.word = UndoWord::Touched(conflict.why.clone());
            } else if commit.kept.contains(&line.path) {
                line.word = UndoWord::Touched("it holds what was made after the sync".into());
            }
        }
    }
}

/// Undoes, and prints what became of what.
///
/// # Errors
/// If there is no such sync here, its snapshots are gone, another sync runs, or the machine cannot be reached.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = context.load_config(&[], &[])?;
    let table = config.table(&ModuleName::literal("btrfs-snapshots"));
    let config =
        BtrfsSnapshotsConfig::deserialize(table).map_err(|error| CliError::Failed(error.to_string()))?;
    let own = engine::own_name().map_err(CliError::Failed)?;
    let is_other = |name: &&str| name.parse::<Hostname>().map_or(true, |name| !name.same_machine(&own));
    let target = args.machine.as_deref().filter(is_other);
    let undone = with_machines(target, &context.env, async |contact| {
        let link = match target {
            Some(_) => contact.reach.target(&contact.cancel).await?.agent,
            None => contact.reach.source(&contact.cancel).await?.agent,
        };
        undo(&Agent::new(&link), contact, args, &config).await
    })??;
    match context.global.json {
        true => context.print_json(&render::json(&undone))?,
        false => {
            for line in render::text(&undone) {
                writeln!(context.out, "{line}")?;
            }
            for line in render::warnings(&undone) {
                writeln!(context.err, "{line}")?;
            }
        }
    }
    Ok(undone.exit())
}

async fn undo(
    agent: &Agent,
    contact: &Contact,
    args: &Args,
    config: &BtrfsSnapshotsConfig,
) -> Result<Result<Undone, CliError>, ModuleError> {
    let session = SessionId::from_uuid(uuid::Uuid::new_v4());
    lock(agent, contact, &session).await?;
    if !args.dry_run {
        finish_what_was_cut_off(agent).await?;
    }
    if let Some(why) = agent.rollback(RollbackOrder::Look).await?.forbids_sync() {
        let text = format!("{}: {why}", agent.hostname());
        return Err(ModuleError::new(ErrorKind::Refused(GateKind::Rollback), text));
    }
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let (sets, _) = agent.sets(snapshot_dir.clone()).await?;
    let Chosen { pre, post } = match choose(&sets, args.session.as_ref(), agent.hostname()) {
        Ok(chosen) => chosen,
        Err(error) => return Ok(Err(error)),
    };
    for set in [&pre, &post] {
        if let Err(why) = agent.check_set(set.clone()).await? {
            let text = format!("{}: set `{}` cannot be trusted: {why}", agent.hostname(), set.id());
            return Err(ModuleError::new(ErrorKind::Invalid, text));
        }
    }
    let ask = |now| UndoRequest { session: session.clone(), pre: pre.clone(), post: post.clone(), now };
    let (lines, report) = agent.undo(ask(None)).await?;
    let mut undone = Undone {
        hostname: agent.hostname().clone(),
        sync: pre.session.clone(),
        stamp: pre.stamp,
        dry_run: args.dry_run,
        safety: None,
        lines,
        report,
        unmarked: marks::Unmarked::default(),
    };
    if args.dry_run || !undone.has_undone() {
        return Ok(Ok(undone));
    }
    let now = take_safety_set(agent, &session, snapshot_dir.clone(), &pre).await?;
    undone.safety = Some(now.id());
    (undone.lines, undone.report) = agent.undo(ask(Some(now))).await?;
    undone.settle();
    if undone.report.commit.failed.is_none() && undone.has_undone() {
        let left = post.id();
        undone.unmarked = marks::take(agent, snapshot_dir, |set| set.id() == left).await;
    }
    Ok(Ok(undone))
}

/// Keeps the state of now: what the undo replaces is in there.
async fn take_safety_set(
    agent: &Agent,
    session: &SessionId,
    snapshot_dir: BytePath,
    like: &SnapshotSet,
) -> Result<SnapshotSet, ModuleError> {
    let request = TakeSet {
        session: session.clone(),
        stamp: UtcStamp::new(clock::system()()),
        kind: SnapshotKind::PreRollback,
        snapshot_dir,
        subvolumes: like.members.iter().map(|member| member.name.subvolume.clone()).collect(),
    };
    Ok(agent.take_set(request).await?)
}

/// Takes the machine's lock; it is free again when the agent ends.
async fn lock(agent: &Agent, contact: &Contact, session: &SessionId) -> Result<(), ModuleError> {
    let request = LockRequest {
        session: session.clone(),
        role: Role::Target,
        from: contact.reach.own_name(),
        user: format!("{}, undo", contact.reach.user()),
    };
    match agent.lock(request).await? {
        LockReply::Held => Ok(()),
        LockReply::Busy(holder) => Err(phases::busy(agent.hostname(), holder)),
    }
}

/// Brings a commit that was cut off to its end: until then nothing says what the sync did.
async fn finish_what_was_cut_off(agent: &Agent) -> Result<(), ModuleError> {
    let redone = agent.redo(Patience::TryAgainLater).await?;
    match redone.iter().find(|redone| matches!(redone.how, RedoneHow::Pending(_))) {
        None => Ok(()),
        Some(pending) => Err(ModuleError::failed(format!("{}: {}", agent.hostname(), pending.explain()))),
    }
}
