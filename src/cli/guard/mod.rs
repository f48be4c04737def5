//! `guard`: takes a set, runs a command, looks whether the machine still works, and goes back if it does not.

mod child;
pub(super) mod open;
mod render;

use std::path::Path;

use clap::ValueEnum;
use pc_switcher_agent::proto::{CopyOrder, CreateSet, GoodBy, GoodMark, LayoutRequest, TakeSet, Words};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{
    BytePath, ErrorKind, Hostname, Machine, ModuleError, ModuleName, SessionId, SetId, SnapshotKind,
    SubvolumeName, UtcStamp,
};
use pc_switcher_disk_monitor::config::DiskConfig;
use serde::Deserialize as _;

use self::child::Ended;
use self::open::Open;
use super::contact::{Contact, with_machines};
use super::rollback::{self, Asked, To};
use super::{CliError, Context, Exit};
use crate::clock;
use crate::config::HealthCheck;
use crate::health::{self, Checked, Finding, HEALTH_DIR, Place, Weight};
use crate::orchestrator::reach::Reach as _;
use crate::paths;

/// Longest note of a set, in characters.
const NOTE_MAX: usize = 200;

/// Run a command that may break this machine, and go back if it does
///
/// Takes a set of snapshots, runs the command, and then looks whether packages are whole, sshd still lets you in, no unit
/// failed, your home can be read and the disk is not full; programs in /etc/pc-switcher/health/required.d and wanted.d are
/// asked as well. If all is well the state after it is marked as the last known good one. If the command failed or something
/// broke, you are asked whether to go back (--yes goes back unasked): the subvolume of `/`, or those of --subvol, become
/// what they were, after a restart. Where nobody can be asked (no terminal, as in a script) and --yes is not given, nothing is
/// taken back: what broke is said, with the `rollback` that goes back later. Exit code 8 if it went back, 1 if something broke
/// and it did not. If no set can be taken, the command is not run.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What it is for; sets of both kinds are kept by the rules of `keep`, each kind by itself
    #[arg(long, value_enum, default_value = "auto-update")]
    kind: Kind,
    /// Go back in this subvolume instead of that of `/`; may be given more than once
    #[arg(long = "subvol", value_name = "SUBVOLUME")]
    subvolumes: Vec<SubvolumeName>,
    /// The command and its arguments, after `--`
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

/// Kinds of sets that a guard takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Before packages change.
    AutoUpdate,
    /// Before something changes how the machine boots.
    AutoBoot,
}

impl From<Kind> for SnapshotKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::AutoUpdate => SnapshotKind::AutoUpdate,
            Kind::AutoBoot => SnapshotKind::AutoBoot,
        }
    }
}

/// What the config says of it.
struct Settings {
    snapshots: BtrfsSnapshotsConfig,
    disk: DiskConfig,
    /// Checks that count.
    required: Vec<HealthCheck>,
}

/// How it was before.
struct Before {
    hostname: Hostname,
    set: SetId,
    /// What to go back in.
    subvolumes: Vec<SubvolumeName>,
    health: Vec<Checked>,
}

/// What became of it.
struct Guarded {
    before: Before,
    ended: Ended,
    broken: Vec<Finding>,
    /// The set that is marked as good.
    good: Option<SetId>,
    rolled_back: Option<rollback::Done>,
    /// Why it could not go back.
    refused: Option<String>,
}

impl Guarded {
    fn is_well(&self) -> bool {
        self.ended.is_ok() && self.broken.iter().all(|finding| finding.weight == Weight::Wanted)
    }

    fn exit(&self) -> Exit {
        match (self.is_well(), &self.rolled_back) {
            (_, Some(_)) => Exit::RolledBack,
            (true, None) => Exit::Completed,
            (false, None) => Exit::Failed,
        }
    }
}

/// Guards a command, and prints what became of it.
///
/// # Errors
/// If no set can be taken, the command cannot be run, or the machine does not let us look.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let settings = settings(context)?;
    let words: Vec<String> = args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let command = words.join(" ");
    let home = paths::home(&context.env);
    let place = home.as_deref();
    let before = with_machines(None, &context.env, async |contact| {
        before(args, &settings, &command, contact, place).await
    })?;
    for finding in health::red(&before.health) {
        writeln!(
            context.err,
            "warning: {}: red already, so it counts for nothing: {finding}",
            before.hostname
        )?;
    }
    writeln!(context.err, "{}: set {} is taken; running `{command}`", before.hostname, before.set)?;
    let ended = match child::run(&args.command, context.global.json) {
        Ok(ended) => ended,
        Err(error) => {
            // Nothing ran, so there is nothing to judge. If this fails, too, the machine says so.
            let _ = with_machines(None, &context.env, async |contact| {
                let machine = contact.reach.source(&contact.cancel).await?;
                Ok(Open::forget(&Agent::new(&machine.agent)).await?)
            });
            return Err(error);
        }
    };
    let yes = context.global.yes;
    let guarded = with_machines(None, &context.env, async |contact| {
        after(before, ended, &settings, &command, contact, place, yes).await
    })??;
    match context.global.json {
        true => context.print_json(&render::json(&guarded))?,
        false => {
            for line in render::text(&guarded) {
                writeln!(context.out, "{line}")?;
            }
        }
    }
    Ok(guarded.exit())
}

fn settings(context: &mut Context<'_>) -> Result<Settings, CliError> {
    let config = context.load_config(&[], &[])?;
    let table = |name| config.table(&ModuleName::literal(name));
    let wrong = |error: serde_json::Error| CliError::Failed(error.to_string());
    Ok(Settings {
        required: config.rollback.health.clone(),
        snapshots: BtrfsSnapshotsConfig::deserialize(table("btrfs-snapshots")).map_err(wrong)?,
        disk: DiskConfig::deserialize(table("disk-monitor")).map_err(wrong)?,
    })
}

async fn look(machine: &Machine, agent: &Agent, settings: &Settings, home: Option<&Path>) -> Vec<Checked> {
    let place = Place {
        executor: machine.executor.as_ref(),
        agent,
        is_here: true,
        home: home.map(Path::to_owned),
        reserve: settings.disk.reserve_minimum,
        scripts: Path::new(HEALTH_DIR),
    };
    health::weigh(health::look(&place).await, &settings.required)
}

async fn before(
    args: &Args,
    settings: &Settings,
    command: &str,
    contact: &Contact,
    home: Option<&Path>,
) -> Result<Before, ModuleError> {
    let machine = contact.reach.source(&contact.cancel).await?;
    let agent = Agent::new(&machine.agent);
    let subvolumes = match args.subvolumes.is_empty() {
        false => args.subvolumes.clone(),
        true => vec![root_subvolume(&agent, &settings.snapshots).await?],
    };
    if let Some(missing) =
        subvolumes.iter().find(|name| !settings.snapshots.subvolumes.as_slice().contains(name))
    {
        let held: Vec<String> =
            settings.snapshots.subvolumes.as_slice().iter().map(|name| format!("`{name}`")).collect();
        return Err(ModuleError::new(
            ErrorKind::Usage,
            format!("no set holds `{missing}`, so there would be no way back"),
        )
        .hint(format!("[btrfs-snapshots] subvolumes names {}", held.join(", "))));
    }
    let set = take(&agent, settings, args.kind.into(), format!("before `{command}`")).await?;
    let health = look(&machine, &agent, settings, home).await;
    // From now on the machine knows that something runs that nobody has judged yet.
    Open::new(command, &set, &subvolumes).put(&agent).await?;
    Ok(Before { hostname: agent.hostname().clone(), set, subvolumes, health })
}

/// Returns the subvolume that `/` is.
async fn root_subvolume(agent: &Agent, config: &BtrfsSnapshotsConfig) -> Result<SubvolumeName, ModuleError> {
    let request = LayoutRequest {
        folders: Vec::new(),
        subvolumes: config.subvolumes.as_slice().to_vec(),
        snapshot_dir: BytePath::from(config.snapshot_dir.as_path()),
        nested: Vec::new(),
    };
    let layout = agent.layout(request).await?;
    let root = layout.subvolumes.into_iter().find(|fact| fact.mount_point == BytePath::from("/"));
    root.map(|fact| fact.name).ok_or_else(|| {
        ModuleError::failed("`/` is no subvolume that a set holds, so there would be no way back")
            .hint("name it in [btrfs-snapshots] subvolumes, or say which ones matter: `--subvol`")
    })
}

async fn take(
    agent: &Agent,
    settings: &Settings,
    kind: SnapshotKind,
    note: String,
) -> Result<SetId, ModuleError> {
    let config = &settings.snapshots;
    let set = TakeSet {
        session: SessionId::from_uuid(uuid::Uuid::new_v4()),
        stamp: UtcStamp::new(clock::system()()),
        kind,
        snapshot_dir: BytePath::from(config.snapshot_dir.as_path()),
        subvolumes: config.subvolumes.clone(),
    };
    let note: String = note.chars().filter(|c| !c.is_control()).take(NOTE_MAX).collect();
    let words = Words { note: Some(note), ..Words::default() };
    let request = CreateSet { set, words, pinned: false, copies: CopyOrder::default() };
    Ok(agent.create_set(request).await?.set.id())
}

async fn after(
    before: Before,
    ended: Ended,
    settings: &Settings,
    command: &str,
    contact: &Contact,
    home: Option<&Path>,
    yes: bool,
) -> Result<Result<Guarded, CliError>, ModuleError> {
    let machine = contact.reach.source(&contact.cancel).await?;
    let agent = Agent::new(&machine.agent);
    let now = look(&machine, &agent, settings, home).await;
    let broken = health::broken(&before.health, &now);
    let mut guarded = Guarded { before, ended, broken, good: None, rolled_back: None, refused: None };
    if guarded.is_well() {
        let id = take(&agent, settings, guarded.before.set.kind, format!("after `{command}`, all is well"))
            .await?;
        let keep = settings.snapshots.keep_good;
        let mark = GoodMark::Set { id: id.clone(), by: GoodBy::Guard, keep };
        agent.mark_good(BytePath::from(settings.snapshots.snapshot_dir.as_path()), mark).await?;
        guarded.good = Some(id);
        Open::forget(&agent).await?;
        return Ok(Ok(guarded));
    }
    let question = format!("{}\nGo back to before `{command}`?", render::trouble(&guarded).join("\n"));
    // Without a terminal nobody has said so.
    let wanted = yes || contact.prompter.can_ask() && contact.prompter.confirm(&question).await?;
    if !wanted {
        Open::forget(&agent).await?;
        return Ok(Ok(guarded));
    }
    let to = To::set(&guarded.before.set, guarded.before.subvolumes.clone());
    rollback::begin(&agent, contact).await?;
    let done = match rollback::go_back(std::slice::from_ref(&agent), &to, Asked::ForGood, &settings.snapshots)
        .await?
    {
        Ok(done) => done,
        Err(error) => return Ok(Err(error)),
    };
    let Some(done) = done.into_iter().next() else { return Ok(Ok(guarded)) };
    match done.look.problems.is_empty() {
        true => guarded.rolled_back = Some(done),
        false => {
            let why =
                format!("{} cannot go back: {}", guarded.before.hostname, done.look.problems.join("; "));
            Open::forget(&agent).await?;
            guarded.refused = Some(why);
        }
    }
    Ok(Ok(guarded))
}
