//! What was seen on a machine, as plain data.

use pc_switcher_agent::proto::{
    BootLook, Diagnosis, Layout, MachineFacts, Redone, RollbackLook, SpaceReport, StoredSet,
};
use pc_switcher_contract::{Hostname, Problem};
use pc_switcher_disk_monitor::parts::Parts;
use serde_json::Value;

use crate::orchestrator::topology::Stranger;

/// A value, or why it could not be had.
pub type Doubt<T> = Result<T, String>;

/// One machine.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it says of itself.
    pub facts: MachineFacts,
    /// How the synced folders and subvolumes lie.
    pub layout: Layout,
    /// What stands in the way of syncs or of ways back.
    pub diagnosis: Diagnosis,
    /// What the modules would refuse there: a sync's own words.
    pub problems: Vec<Problem>,
    /// The user on whose behalf was looked.
    pub user: String,
    /// Whether sudo wanted a password.
    pub sudo_asked: bool,
    /// What `sshd -T` says.
    pub sshd: Doubt<String>,
    /// The installed program's version, or what is installed instead.
    pub installed: Doubt<String>,
    /// Our own version.
    pub own_version: String,
    /// What a dead run left, in words.
    pub markers: Vec<String>,
    /// Syncs that were cut off, and how they were brought to their end just now or before.
    pub redone: Vec<Redone>,
    /// How a rollback stands there, or why that cannot be told.
    pub rollback: Doubt<RollbackLook>,
    /// How boot protection stands there, or why that cannot be told; no more than the count where it is off.
    pub boot: Doubt<BootLook>,
    /// The file system of the snapshots and what it is taken up by, or why that cannot be told.
    pub room: Doubt<(SpaceReport, Parts)>,
    /// Its sets that are marked as good, or why that cannot be told.
    pub good: Doubt<Vec<StoredSet>>,
    /// Whether a sync is under way there: what looks left behind is its own.
    pub is_busy: bool,
    /// The config that applies to a sync that is started there.
    pub config: Doubt<Value>,
    /// By how many milliseconds its clock is ahead of the one of the machine where the command was typed.
    pub clock_ms: i64,
    /// By how many milliseconds `clock_ms` may be wrong, for the time the question was on its way.
    pub clock_doubt_ms: i64,
    /// Whether ssh leads from there to the other machine without a question.
    pub way_back: Option<Doubt<()>>,
    /// Why this machine and the one where the command was typed count as strangers, if they do.
    pub stranger: Option<Stranger>,
    /// Where snapshots go.
    pub snapshot_dir: String,
}

impl Seen {
    /// Returns the machine's name.
    pub fn hostname(&self) -> &Hostname {
        &self.facts.hostname
    }
}
