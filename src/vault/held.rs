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
use pc_switcher_vault::service::View;
use pc_switcher_vault::sync::view_of;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::cli::{own_name, quiet_env};
use crate::clock;
use crate::config::Config;
use crate::paths::Env;
use crate::remote::{Reach, StartedAgent};

/// What is said of such a set, and how one is known that a killed backup left.
const NOTE: &str = "read by `bt backup`";

/// How long the agent may take to start and to take a set.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end.
const CLOSE: Duration = Duration::from_secs(3);

/// A set that is read.
pub struct HeldSet {
    agent: StartedAgent,
    set: SnapshotSet,
}

impl HeldSet {
    /// Returns what it is called.
    pub fn id(&self) -> SetId {
        self.set.id()
    }

    /// Takes a set of the subvolumes that the config names, and returns how these directories are read in it, and which are not.
    ///
    /// # Errors
    /// Why no set can be taken or read; nothing of it is left then.
    pub async fn take(
        env: &Env,
        config: &Config,
        directories: &[PathBuf],
        cancel: &CancellationToken,
    ) -> Result<(Self, View, Vec<(PathBuf, String)>), ModuleError> {
        let late = || ModuleError::failed(format!("no answer within {} s", PATIENCE.as_secs()));
        let taken = tokio::time::timeout(PATIENCE, Self::new(env, config, cancel));
        let held = taken.await.unwrap_or_else(|_| Err(late()))?;
        let read = tokio::time::timeout(PATIENCE, held.hand_over(directories)).await;
        match read.unwrap_or_else(|_| Err(late())) {
            Ok((view, lacking)) => Ok((held, view, lacking)),
            Err(error) => {
                held.release().await.ok();
                Err(error)
            }
        }
    }

    async fn new(env: &Env, config: &Config, cancel: &CancellationToken) -> Result<Self, ModuleError> {
        let table = config.table(&ModuleName::literal("btrfs-snapshots"));
        let settings = BtrfsSnapshotsConfig::deserialize(table)
            .map_err(|error| ModuleError::failed(error.to_string()))?;
        let own = own_name().map_err(ModuleError::failed)?;
        let agent = Reach::new(quiet_env(env), None).start_local_agent(&own, cancel).await?;
        let dir = BytePath::from(settings.snapshot_dir.as_path());
        if let Ok((sets, _)) = link(&agent).sets(dir).await {
            // What a backup left that was killed.
            let is_ours = |left: &StoredSet| left.words.note.as_deref() == Some(NOTE) && !left.in_use;
            for left in sets.into_iter().filter(is_ours) {
                link(&agent).drop_set(left.set).await.ok();
            }
        }
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
                note: Some(NOTE.into()),
                until: now.checked_add(24.hours()).ok().map(UtcStamp::new),
                ..Words::default()
            },
            pinned: false,
            copies: CopyOrder::default(),
        };
        match link(&agent).create_set(order).await {
            Ok(created) => Ok(Self { agent, set: created.set }),
            Err(error) => {
                agent.process.close(CLOSE).await;
                Err(error.into())
            }
        }
    }

    async fn hand_over(
        &self,
        directories: &[PathBuf],
    ) -> Result<(View, Vec<(PathBuf, String)>), ModuleError> {
        let place = self.set.members.first().and_then(|member| member.path.parent());
        let place = place.ok_or_else(|| ModuleError::failed("the set has no members"))?;
        let paths = directories.iter().map(|path| BytePath::from(path.as_path())).collect();
        Ok(view_of(link(&self.agent).held(place, self.set.id(), paths).await?))
    }

    /// Removes the set again.
    ///
    /// # Errors
    /// If it could not be removed; it goes with a later prune then.
    pub async fn release(self) -> Result<(), ModuleError> {
        let dropped = link(&self.agent).drop_set(self.set).await;
        self.agent.process.close(CLOSE).await;
        Ok(dropped?)
    }
}

fn link(agent: &StartedAgent) -> Agent {
    let link: std::sync::Arc<dyn AgentLink> = std::sync::Arc::clone(&agent.link) as _;
    Agent::new(&link)
}
