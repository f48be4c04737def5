//! `snapshots`: the sets that syncs take, on this machine or another.

mod adopt;
mod auto;
mod change;
mod component;
mod create;
mod diff;
mod export;
mod list;
mod prune;
pub(super) mod render;
mod restore;
mod verify;
mod versions;

use pc_switcher_agent::proto::{CopyOrder, LockReply, LockRequest, StoredSet, Strays};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::automatic::SnapshotsConfig;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{
    BytePath, Hostname, ModuleError, ModuleName, Role, SessionId, SetId, SnapshotKind,
};
use serde::Deserialize;

use super::contact::{Contact, with_machines};
use super::{CliError, Context, Exit, engine, sync};
use crate::config::nearest::nearest;
use crate::config::{Config, tables};
use crate::orchestrator::phases;
use crate::orchestrator::reach::Reach as _;
use crate::paths::Env;

/// Take, see, pin and remove sets of snapshots
///
/// A sync takes a set of snapshots before and after it, on both machines; the sets of one sync stay and go together. What
/// `keep` in [btrfs-snapshots] does not keep is removed after each sync that completed. Sets that were taken by hand stay.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    List(list::ListArgs),
    Show(list::ShowArgs),
    Create(create::CreateArgs),
    Restore(restore::RestoreArgs),
    Versions(versions::VersionsArgs),
    Diff(diff::DiffArgs),
    Verify(verify::VerifyArgs),
    Annotate(create::AnnotateArgs),
    Pin(change::PinArgs),
    Unpin(change::UnpinArgs),
    Good(change::GoodArgs),
    /// Remove sets; never pinned ones, or those that the next sync needs
    ///
    /// A volume of LVM that `list` names as one of no set here goes as well, by that name, if somebody says yes at the terminal or
    /// with --allow-loss.
    Delete(change::DeleteArgs),
    Prune(prune::PruneArgs),
    Adopt(adopt::AdoptArgs),
    Export(export::ExportArgs),
    Import(export::ImportArgs),
    Auto(auto::AutoArgs),
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
    /// A session (then all its sets), a name, or a set as `snapshots list --json` names it
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
        Command::Create(args) => create::create(args, context),
        Command::Versions(args) => versions::run(args, context),
        Command::Diff(args) => diff::run(args, context),
        Command::Restore(args) => restore::run(args, context),
        Command::Verify(args) => verify::run(args, context),
        Command::Annotate(args) => create::annotate(args, context),
        Command::Pin(args) => change::pin(args, context),
        Command::Unpin(args) => change::unpin(args, context),
        Command::Good(args) => change::good(args, context),
        Command::Delete(args) => change::delete(args, context),
        Command::Prune(args) => prune::run(args, context),
        Command::Adopt(args) => adopt::run(args, context),
        Command::Export(args) => export::export(args, context),
        Command::Import(args) => export::import(args, context),
        Command::Auto(args) => auto::run(args, context),
    }
}

/// The sets of one machine.
pub(super) struct Found {
    /// Which machine.
    pub(super) hostname: Hostname,
    /// Its sets, oldest first.
    pub(super) sets: Vec<StoredSet>,
    /// What else lies there.
    pub(super) strays: Strays,
}

impl Found {
    /// Reads what one machine keeps.
    pub(super) async fn read(agent: &Agent, config: &BtrfsSnapshotsConfig) -> Result<Self, ModuleError> {
        let (mut sets, strays) = agent.sets(BytePath::from(config.snapshot_dir.as_path())).await?;
        sets.sort_by_cached_key(age);
        Ok(Self { hostname: agent.hostname().clone(), sets, strays })
    }

    /// Returns the sets that these words mean, each once, oldest first.
    fn chosen(&self, words: &[String]) -> Result<Vec<&StoredSet>, CliError> {
        let mut chosen: Vec<&StoredSet> = Vec::new();
        for word in words {
            chosen.extend(self.meant(word)?);
        }
        chosen.sort_by_cached_key(|stored| age(stored));
        chosen.dedup();
        Ok(chosen)
    }

    /// Returns the sets that one word means: those of a session, a set, or the session that has this name.
    pub(super) fn meant(&self, word: &str) -> Result<Vec<&StoredSet>, CliError> {
        let of = |means: &dyn Fn(&StoredSet) -> bool| -> Vec<&StoredSet> {
            self.sets.iter().filter(|stored| means(stored)).collect()
        };
        let id = word.parse::<SetId>().ok();
        let plain =
            of(&|stored| stored.set.session.as_str() == word || id.as_ref() == Some(&stored.set.id()));
        if !plain.is_empty() {
            return Ok(plain);
        }
        if word == "good" {
            let newest = of(&|stored| stored.words.good).into_iter().max_by_key(|stored| age(stored));
            return match newest {
                Some(newest) => Ok(vec![newest]),
                None => Err(CliError::Usage {
                    message: format!("no set on {} is marked as good", self.hostname),
                    help: Some("`pc-switcher snapshots good SESSION` marks one".into()),
                }),
            };
        }
        let named = of(&|stored| stored.words.name.as_deref() == Some(word));
        let mut sessions: Vec<&str> = named.iter().map(|stored| stored.set.session.as_str()).collect();
        sessions.dedup();
        match sessions.len() {
            1 => Ok(named),
            0 => Err(CliError::Usage {
                message: format!("there is no set, session or name `{word}` on {}", self.hostname),
                help: Some(self.near(word)),
            }),
            _ => Err(CliError::Usage {
                message: format!("{} sets on {} are called `{word}`", sessions.len(), self.hostname),
                help: Some(format!("name one of the sessions {}", sessions.join(", "))),
            }),
        }
    }

    /// Returns the one set that a word means; of a session the first: the set before its sync.
    fn first(&self, word: &str) -> Result<&StoredSet, CliError> {
        let meant = self.meant(word)?;
        meant
            .into_iter()
            .min_by_key(|stored| age(stored))
            .ok_or_else(|| CliError::Failed(format!("there is no set `{word}` on {}", self.hostname)))
    }

    /// Returns the one set that a word means; of a session the last: the set after its sync.
    fn last(&self, word: &str) -> Result<&StoredSet, CliError> {
        let meant = self.meant(word)?;
        meant
            .into_iter()
            .max_by_key(|stored| age(stored))
            .ok_or_else(|| CliError::Failed(format!("there is no set `{word}` on {}", self.hostname)))
    }

    /// Returns what may have been meant.
    fn near(&self, word: &str) -> String {
        let sessions = self.sets.iter().map(|stored| stored.set.session.as_str());
        let names = self.sets.iter().filter_map(|stored| stored.words.name.as_deref());
        match nearest(word, names.chain(sessions)) {
            Some(near) => format!("did you mean `{near}`? `pc-switcher snapshots list` shows what there is"),
            None => "`pc-switcher snapshots list` shows what there is".into(),
        }
    }
}

/// Returns what the config says of snapshots.
pub(super) fn settings(context: &mut Context<'_>) -> Result<BtrfsSnapshotsConfig, CliError> {
    of(&context.load_config(&[], &[])?)
}

/// As [`settings`], of a config that is read already.
pub(super) fn of(config: &Config) -> Result<BtrfsSnapshotsConfig, CliError> {
    let table = config.table(&ModuleName::literal("btrfs-snapshots"));
    BtrfsSnapshotsConfig::deserialize(table).map_err(|error| CliError::Failed(error.to_string()))
}

/// Returns what the config says of sets that are taken by themselves, and of components.
fn automatic(config: &Config) -> Result<SnapshotsConfig, CliError> {
    let table = config.own_table(tables::SNAPSHOTS);
    SnapshotsConfig::deserialize(table).map_err(|error| CliError::Failed(error.to_string()))
}

/// Returns what the config says of snapshots, and of what sets are where they are copies.
fn both(context: &mut Context<'_>) -> Result<(BtrfsSnapshotsConfig, CopyOrder), CliError> {
    let config = context.load_config(&[], &[])?;
    Ok((of(&config)?, automatic(&config)?.copies()))
}

/// Does work with the agent of the machine that was named, or of this one.
pub(super) fn with_agent<T>(
    place: &Where,
    context: &Context<'_>,
    work: impl AsyncFnOnce(&Agent, &Contact) -> Result<T, ModuleError>,
) -> Result<T, CliError> {
    with_agent_in(place, &context.env, work)
}

/// As [`with_agent`], for work that prints meanwhile.
pub(super) fn with_agent_in<T>(
    place: &Where,
    env: &Env,
    work: impl AsyncFnOnce(&Agent, &Contact) -> Result<T, ModuleError>,
) -> Result<T, CliError> {
    let own = engine::own_name().map_err(CliError::Failed)?;
    let is_other = |name: &&str| name.parse::<Hostname>().map_or(true, |name| !name.same_machine(&own));
    let target = place.machine.as_deref().filter(is_other);
    with_machines(target, env, async |contact| {
        let link = match target {
            Some(_) => contact.reach.target(&contact.cancel).await?.agent,
            None => contact.reach.source(&contact.cancel).await?.agent,
        };
        work(&Agent::new(&link), contact).await
    })
}

/// Returns with whose access rights files are read and written on a machine: ours here, and there those of whom we log in as.
async fn caller(agent: &Agent, contact: &Contact, own_uid: u32) -> Result<u32, ModuleError> {
    let Some(name) = contact.reach.target_user() else { return Ok(own_uid) };
    let users = agent.facts().await?.users;
    let user = users.into_iter().find(|user| user.name == name);
    user.map(|user| user.uid).ok_or_else(|| {
        ModuleError::failed(format!("{}: `{name}` is no user in `/etc/passwd`", agent.hostname()))
    })
}

/// Takes a machine's lock, so that no sync starts from what is being removed. It is free again when the agent ends.
pub(super) async fn lock(agent: &Agent, contact: &Contact) -> Result<(), ModuleError> {
    match agent.lock(lock_request(contact)).await? {
        LockReply::Held => Ok(()),
        LockReply::Busy(holder) => Err(phases::busy(agent.hostname(), holder)),
    }
}

fn lock_request(contact: &Contact) -> LockRequest {
    LockRequest {
        session: SessionId::from_uuid(uuid::Uuid::new_v4()),
        role: Role::Target,
        from: contact.reach.own_name(),
        user: format!("{}, snapshots", contact.reach.user()),
    }
}

/// By this sets stand oldest first.
fn age(stored: &StoredSet) -> (u64, SetId) {
    (stored.set.transaction(), stored.set.id())
}

/// Reads a kind: `pre-sync`, or `presync` as it stands in names.
fn kind(text: &str) -> Result<SnapshotKind, String> {
    let means = |kind: &SnapshotKind| kind.in_name() == text || render::word(*kind) == text;
    SnapshotKind::ALL.into_iter().find(means).ok_or_else(|| {
        let all: Vec<String> = SnapshotKind::ALL.into_iter().map(render::word).collect();
        format!("one of {} is wanted", all.join(", "))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use pc_switcher_contract::{SnapshotMember, SnapshotSet};

    use super::*;

    pub(in crate::cli) fn stored(id: &str, otransid: u64) -> StoredSet {
        let id: SetId = id.parse().unwrap();
        let name = format!("@home-{}-{}-{}", id.kind.in_name(), id.stamp, id.session);
        let member = SnapshotMember {
            path: format!("/.snapshots/{name}").as_str().into(),
            name: name.parse().unwrap(),
            uuid: String::new(),
            source_uuid: String::new(),
            id: otransid,
            otransid,
            ctransid: otransid,
            first_taken: None,
            apart: None,
        };
        let set = SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind: id.kind,
            stamp: id.stamp,
            session: id.session,
            consistent: true,
            members: vec![member],
        };
        StoredSet {
            set,
            backend: pc_switcher_agent::proto::Backend::Btrfs,
            pinned: false,
            hard: None,
            in_use: false,
            holders: Vec::new(),
            has_steps: false,
            needs: Vec::new(),
            missing: Vec::new(),
            away: Vec::new(),
            words: pc_switcher_agent::proto::Words::default(),
            system: None,
        }
    }

    #[test]
    fn a_session_means_the_set_before_its_sync_or_after_it_also_if_both_are_of_one_second_or_the_clock_was_set_back()
     {
        for (pre, post) in [
            ("20251115T120000Z-abc12345-presync", "20251115T120000Z-abc12345-postsync"),
            ("20251115T120000Z-abc12345-presync", "20251114T080000Z-abc12345-postsync"),
        ] {
            let found = |sets: Vec<StoredSet>| Found {
                hostname: "desk".parse().unwrap(),
                sets,
                strays: Strays::default(),
            };
            for sets in [vec![stored(pre, 7), stored(post, 9)], vec![stored(post, 9), stored(pre, 7)]] {
                let found = found(sets);
                assert_eq!(found.first("abc12345").unwrap().set.id().to_string(), pre);
                assert_eq!(found.last("abc12345").unwrap().set.id().to_string(), post);
                assert_eq!(found.first(post).unwrap().set.id().to_string(), post, "a set is named by itself");
                let all = found.chosen(&["abc12345".into()]).unwrap();
                let order: Vec<String> = all.iter().map(|stored| stored.set.id().to_string()).collect();
                assert_eq!(order, [pre, post]);
            }
        }
    }
}
