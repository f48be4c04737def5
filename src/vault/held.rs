//! A set of snapshots for one backup: taken by the agent of this machine, held while it is read, and removed afterwards.
//!
//! Whoever may not start the agent without a password, or has no btrfs, reads what lies there; a backup of one's own files
//! needs no more rights than these files do. A set that a crash left behind says itself until when it stays.

use std::path::PathBuf;
use std::time::Duration;

use jiff::ToSpan as _;
use pc_switcher_agent::proto::{CopyOrder, CreateSet, StoredSet, TakeSet, Words};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{
    AgentLink, BytePath, ModuleError, ModuleName, SessionId, SetId, SnapshotKind, SnapshotSet, UtcStamp,
};
use pc_switcher_vault::service::{Place, Reading, View};
use pc_switcher_vault::sync::{readings, sets_of, view_of};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::{own_name, quiet_env, user};
use crate::clock;
use crate::config::Config;
use crate::paths::Env;
use crate::remote::{Reach, StartedAgent};

/// What is said of such a set, and how one is known that a killed backup left, or that is a base no more.
const NOTE: &str = "read by `bt backup`";
/// How long one stays that the next backup compares with.
const KEPT_HOURS: i64 = 30 * 24;

/// How long the agent may take to start and to take a set.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end.
const CLOSE: Duration = Duration::from_secs(3);

/// A set that is read.
pub struct HeldSet {
    agent: StartedAgent,
    dropping: Option<JoinHandle<()>>,
    set: SnapshotSet,
    note: String,
    snapshot_dir: BytePath,
}

/// How directories are read in a set.
pub struct Handed {
    /// Where.
    pub view: View,
    /// With what changed since the last backup.
    pub sources: Vec<Reading>,
    /// What the set does not hold, and why.
    pub lacking: Vec<(PathBuf, String)>,
}

impl HeldSet {
    /// Returns what it is called.
    pub fn id(&self) -> SetId {
        self.set.id()
    }

    /// Takes a set of the subvolumes that the config names, and returns how these directories are read in it, and which are not.
    /// `bases` are what was recorded of them.
    ///
    /// # Errors
    /// Why no set can be taken or read; nothing of it is left then.
    pub async fn take(
        env: &Env,
        config: &Config,
        directories: &[PathBuf],
        bases: &[(PathBuf, Place)],
        cancel: &CancellationToken,
    ) -> Result<(Self, Handed), ModuleError> {
        let late = || ModuleError::failed(format!("no answer within {} s", PATIENCE.as_secs()));
        let kept = sets_of(bases);
        let taken = tokio::time::timeout(PATIENCE, Self::new(env, config, &kept, cancel));
        let held = taken.await.unwrap_or_else(|_| Err(late()))?;
        let read = tokio::time::timeout(PATIENCE, held.hand_over(directories, bases)).await;
        match read.unwrap_or_else(|_| Err(late())) {
            Ok(handed) => Ok((held, handed)),
            Err(error) => {
                held.release(false).await.ok();
                Err(error)
            }
        }
    }

    async fn new(
        env: &Env,
        config: &Config,
        bases: &[SetId],
        cancel: &CancellationToken,
    ) -> Result<Self, ModuleError> {
        let table = config.table(&ModuleName::literal("btrfs-snapshots"));
        let settings = BtrfsSnapshotsConfig::deserialize(table)
            .map_err(|error| ModuleError::failed(error.to_string()))?;
        let own = own_name().map_err(ModuleError::failed)?;
        let agent = Reach::new(quiet_env(env), None).start_local_agent(&own, cancel).await?;
        let snapshot_dir = BytePath::from(settings.snapshot_dir.as_path());
        // Of each user by themselves: they know nothing of each other's bases.
        let note = format!("{NOTE} of {} (user {})", user(env), env.uid);
        drop_others(link(&agent), &snapshot_dir, &note, bases).await;
        let now = clock::system()();
        let order = CreateSet {
            set: TakeSet {
                session: SessionId::from_uuid(uuid::Uuid::new_v4()),
                stamp: UtcStamp::new(now),
                kind: SnapshotKind::Session,
                snapshot_dir: BytePath::from(settings.snapshot_dir.as_path()),
                subvolumes: settings.subvolumes.clone(),
            },
            words: Words {
                note: Some(note.clone()),
                until: now.checked_add(KEPT_HOURS.hours()).ok().map(UtcStamp::new),
                ..Words::default()
            },
            pinned: false,
            copies: CopyOrder::default(),
        };
        match link(&agent).create_set(order).await {
            Ok(created) => Ok(Self { agent, dropping: None, set: created.set, note, snapshot_dir }),
            Err(error) => {
                agent.process.close(CLOSE).await;
                Err(error.into())
            }
        }
    }

    async fn hand_over(
        &self,
        directories: &[PathBuf],
        bases: &[(PathBuf, Place)],
    ) -> Result<Handed, ModuleError> {
        let place = self.set.dir();
        let place = place.ok_or_else(|| ModuleError::failed("the set has no members"))?;
        let paths = directories.iter().map(|path| BytePath::from(path.as_path())).collect();
        let agent = link(&self.agent);
        let held = agent.held(place, self.set.id(), paths).await?;
        let sources = readings(&agent, &self.set, &held, directories, bases).await?;
        let (view, lacking) = view_of(held);
        Ok(Handed { view, sources, lacking })
    }

    /// Removes the sets before it, but these that are still bases, while other work goes on: a set of which all was read takes a second.
    pub fn drop_former(&mut self, kept: Vec<SetId>) {
        let kept = [kept, vec![self.set.id()]].concat();
        let (link, dir, note) = (link(&self.agent), self.snapshot_dir.clone(), self.note.clone());
        let work = async move { drop_others(link, &dir, &note, &kept).await };
        self.dropping = Some(tokio::spawn(work));
    }

    /// Removes the set again, or those before it where it was recorded as a base.
    ///
    /// # Errors
    /// If it could not be removed; it goes with a later prune then.
    pub async fn release(self, is_base: bool) -> Result<(), ModuleError> {
        if let Some(dropping) = self.dropping {
            dropping.await.ok();
        }
        let dropped = match is_base {
            true => {
                drop_others(link(&self.agent), &self.snapshot_dir, &self.note, &[self.set.id()]).await;
                Ok(())
            }
            false => link(&self.agent).drop_set(self.set).await,
        };
        self.agent.process.close(CLOSE).await;
        Ok(dropped?)
    }
}

/// Removes sets that this user's backups left behind, but these.
async fn drop_others(agent: Agent, dir: &BytePath, note: &str, kept: &[SetId]) {
    let Ok((sets, _)) = agent.sets(dir.clone()).await else { return };
    let is_ours = |left: &StoredSet| left.words.note.as_deref() == Some(note) && !left.in_use;
    for left in sets.into_iter().filter(is_ours).filter(|left| !kept.contains(&left.set.id())) {
        agent.drop_set(left.set).await.ok();
    }
}

fn link(agent: &StartedAgent) -> Agent {
    let link: std::sync::Arc<dyn AgentLink> = std::sync::Arc::clone(&agent.link) as _;
    Agent::new(&link)
}
