//! `snapshots`: the sets that syncs take, on this machine or another.

mod change;
mod list;
mod prune;
mod render;

use pc_switcher_agent::proto::{LockReply, LockRequest, StoredSet, Strays};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{
    BytePath, Hostname, ModuleError, ModuleName, Role, SessionId, SetId, SnapshotKind,
};
use serde::Deserialize;

use super::contact::{Contact, with_machines};
use super::{CliError, Context, Exit, engine, sync};
use crate::orchestrator::phases;
use crate::orchestrator::reach::Reach as _;

/// See, pin and remove the snapshots that syncs take
///
/// A sync takes a set of snapshots before and after it, on both machines; the sets of one sync stay and go together. What
/// `keep` in [btrfs-snapshots] does not keep is removed after each sync that completed.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    List(list::ListArgs),
    Show(list::ShowArgs),
    /// Keep a set whatever the rules say
    Pin(SetArgs),
    /// Let the rules decide again over a set that was pinned
    Unpin(SetArgs),
    /// Remove sets; never pinned ones, or those that the next sync needs
    Delete(SetArgs),
    Prune(prune::PruneArgs),
}

/// On which machine.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Where {
    /// Another machine than this one: what your ssh understands, for example `desk`
    #[arg(long, value_name = "HOSTNAME", value_parser = sync::target)]
    machine: Option<String>,
}

/// Which sets, on which machine.
#[derive(Debug, Clone, clap::Args)]
pub struct SetArgs {
    /// A set as `snapshots list --json` names it, or a session: then all its sets
    #[arg(required = true, value_name = "SET")]
    sets: Vec<String>,
    #[command(flatten)]
    place: Where,
}

/// Runs the command.
///
/// # Errors
/// If the config is wrong, a machine cannot be reached, or what was asked for cannot be done.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    match &args.command {
        Command::List(args) => list::list(args, context),
        Command::Show(args) => list::show(args, context),
        Command::Pin(args) => change::pin(args, true, context),
        Command::Unpin(args) => change::pin(args, false, context),
        Command::Delete(args) => change::delete(args, context),
        Command::Prune(args) => prune::run(args, context),
    }
}

/// The sets of one machine.
struct Found {
    hostname: Hostname,
    sets: Vec<StoredSet>,
    strays: Strays,
}

impl Found {
    /// Reads what one machine keeps.
    async fn read(agent: &Agent, config: &BtrfsSnapshotsConfig) -> Result<Self, ModuleError> {
        let (sets, strays) = agent.sets(BytePath::from(config.snapshot_dir.as_path())).await?;
        Ok(Self { hostname: agent.hostname().clone(), sets, strays })
    }

    /// Returns the sets that these words mean, each once, oldest first.
    fn chosen(&self, words: &[String]) -> Result<Vec<&StoredSet>, CliError> {
        let mut chosen: Vec<&StoredSet> = Vec::new();
        for word in words {
            let means = |stored: &&StoredSet| {
                let id = stored.set.id();
                id.session.as_str() == word || word.parse::<SetId>().is_ok_and(|wanted| wanted == id)
            };
            let before = chosen.len();
            chosen.extend(self.sets.iter().filter(means));
            if chosen.len() == before {
                return Err(CliError::Usage {
                    message: format!("there is no set or session `{word}` on {}", self.hostname),
                    help: Some("`pc-switcher snapshots list` shows what there is".into()),
                });
            }
        }
        chosen.sort_by_key(|stored| stored.set.id());
        chosen.dedup();
        Ok(chosen)
    }
}

/// Returns what the config says of snapshots.
fn settings(context: &mut Context<'_>) -> Result<BtrfsSnapshotsConfig, CliError> {
    let config = context.load_config(&[], &[])?;
    let table = config.table(&ModuleName::literal("btrfs-snapshots"));
    BtrfsSnapshotsConfig::deserialize(table).map_err(|error| CliError::Failed(error.to_string()))
}

/// Does work with the agent of the machine that was named, or of this one.
fn with_agent<T>(
    place: &Where,
    context: &Context<'_>,
    work: impl AsyncFnOnce(&Agent, &Contact) -> Result<T, ModuleError>,
) -> Result<T, CliError> {
    let own = engine::own_name().map_err(CliError::Failed)?;
    let is_other = |name: &&str| name.parse::<Hostname>().map_or(true, |name| !name.same_machine(&own));
    let target = place.machine.as_deref().filter(is_other);
    with_machines(target, &context.env, async |contact| {
        let link = match target {
            Some(_) => contact.reach.target(&contact.cancel).await?.agent,
            None => contact.reach.source(&contact.cancel).await?.agent,
        };
        work(&Agent::new(&link), contact).await
    })
}

/// Takes a machine's lock, so that no sync starts from what is being removed. It is free again when the agent ends.
async fn lock(agent: &Agent, contact: &Contact) -> Result<(), ModuleError> {
    let request = LockRequest {
        session: SessionId::from_uuid(uuid::Uuid::new_v4()),
        role: Role::Target,
        from: contact.reach.own_name(),
        user: format!("{}, snapshots", contact.reach.user()),
    };
    match agent.lock(request).await? {
        LockReply::Held => Ok(()),
        LockReply::Busy(holder) => Err(phases::busy(agent.hostname(), holder)),
    }
}

/// Reads a kind: `pre-sync`, or `presync` as it stands in names.
fn kind(text: &str) -> Result<SnapshotKind, String> {
    let means = |kind: &SnapshotKind| kind.in_name() == text || render::word(*kind) == text;
    SnapshotKind::ALL.into_iter().find(means).ok_or_else(|| {
        let all: Vec<String> = SnapshotKind::ALL.into_iter().map(render::word).collect();
        format!("one of {} is wanted", all.join(", "))
    })
}
