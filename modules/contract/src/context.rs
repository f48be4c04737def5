//! What a module is handed: everything it may touch.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::agent::AgentLink;
use crate::error::ModuleError;
use crate::event::Reporter;
use crate::exec::{Executor, RemoteExecutor};
use crate::gate::Gatekeeper;
use crate::ids::{Hostname, ModuleName, SessionId};
use crate::pair::{Attempt, Lacking, Manifest, PairRecord, PartRecord};
use crate::path::BytePath;
use crate::proven::ProvenFile;
use crate::snapshot::{SnapshotKind, SnapshotSet};
use crate::threshold::Threshold;
use crate::vital::{Area, Sentinel};

/// A machine's part in a session. Messages name machines by hostname, never by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Where the user worked and typed the command.
    Source,
    /// Where the user will go on.
    Target,
}

/// The right to change something. The orchestrator makes one per real run and none in a dry run.
#[derive(Debug, Clone)]
pub struct WriteLicence(());

impl WriteLicence {
    /// Makes a licence; for the orchestrator and for tests.
    pub fn grant() -> Self {
        Self(())
    }
}

/// Whether the run may write.
#[derive(Debug, Clone)]
pub enum RunMode {
    /// Nothing is written on either machine.
    DryRun,
    /// A real run.
    Real(WriteLicence),
}

impl RunMode {
    /// Returns the licence of a real run.
    pub fn licence(&self) -> Option<&WriteLicence> {
        match self {
            RunMode::DryRun => None,
            RunMode::Real(licence) => Some(licence),
        }
    }

    /// Whether nothing may be written.
    pub fn is_dry(&self) -> bool {
        matches!(self, RunMode::DryRun)
    }
}

/// The machine the user sits at.
#[derive(Clone)]
pub struct Machine {
    /// The name it gives itself.
    pub hostname: Hostname,
    /// Runs commands there.
    pub executor: Arc<dyn Executor>,
    /// Its elevated half.
    pub agent: Arc<dyn AgentLink>,
}

/// The machine the user moves to.
#[derive(Clone)]
pub struct TargetMachine {
    /// The name it gives itself.
    pub hostname: Hostname,
    /// Runs commands there.
    pub executor: Arc<dyn RemoteExecutor>,
    /// Its elevated half.
    pub agent: Arc<dyn AgentLink>,
}

/// What modules of one session leave for later ones: sets taken so far and the record of the last sync.
#[derive(Debug, Default)]
pub struct SessionBoard {
    sets: Mutex<Vec<(Role, SnapshotSet)>>,
    pair: Mutex<Option<PairRecord>>,
    proven_then: Mutex<Arc<Vec<ProvenFile>>>,
    proven: Mutex<Vec<ProvenFile>>,
    rule_hash: Mutex<Option<String>>,
    parts: Mutex<Vec<PartRecord>>,
    apart: Mutex<Vec<BytePath>>,
    alien: Mutex<Vec<BytePath>>,
    lacking: Mutex<Vec<Lacking>>,
    folders: Mutex<Vec<BytePath>>,
    nested: Mutex<Option<Vec<BytePath>>>,
    attempts: Mutex<Vec<Attempt>>,
    without_snapshots: Mutex<Vec<(Role, BytePath, String)>>,
    manifests: Mutex<Vec<(Role, Manifest)>>,
    unsent: Mutex<Vec<BytePath>>,
    commit_pending: AtomicBool,
    commit_asked: AtomicBool,
    conflicts: Mutex<Vec<String>>,
    checks: Mutex<Vec<String>>,
    unsettled: Mutex<Vec<BytePath>>,
    idle: Mutex<Vec<ModuleName>>,
    left: AtomicUsize,
    reserve: Mutex<Option<Threshold>>,
    min_free: Mutex<Option<Threshold>>,
    sentinel: Mutex<Option<Arc<dyn Sentinel>>>,
}

impl SessionBoard {
    /// Notes a set.
    pub fn add_set(&self, role: Role, set: SnapshotSet) {
        lock(&self.sets).push((role, set));
    }

    /// Returns the set of that machine and kind.
    pub fn set(&self, role: Role, kind: SnapshotKind) -> Option<SnapshotSet> {
        lock(&self.sets).iter().find(|(r, set)| *r == role && set.kind == kind).map(|(_, set)| set.clone())
    }

    /// Returns all sets in the order in which they were taken.
    pub fn sets(&self) -> Vec<(Role, SnapshotSet)> {
        lock(&self.sets).clone()
    }

    /// Asks that the subvolumes holding these folders join the snapshot sets; called while validating.
    pub fn want_folders(&self, folders: impl IntoIterator<Item = BytePath>) {
        let mut wanted = lock(&self.folders);
        for folder in folders {
            if !wanted.contains(&folder) {
                wanted.push(folder);
            }
        }
    }

    /// Returns the folders whose subvolumes join the snapshot sets.
    pub fn folders(&self) -> Vec<BytePath> {
        lock(&self.folders).clone()
    }

    /// Asks that these subvolumes inside of the folders' ones join the snapshot sets as well; called once, while validating:
    /// what is made later waits for the next sync.
    pub fn want_nested(&self, roots: Vec<BytePath>) {
        lock(&self.nested).get_or_insert(roots);
    }

    /// Returns the roots of nested subvolumes that this run follows, on either machine; `None` if nobody has looked yet.
    pub fn nested(&self) -> Option<Vec<BytePath>> {
        lock(&self.nested).clone()
    }

    /// Notes how much must stay free while the run goes on; called while validating.
    pub fn put_reserve(&self, reserve: Threshold) {
        *lock(&self.reserve) = Some(reserve);
    }

    /// Returns how much must stay free while the run goes on: below it the run is stopped.
    pub fn reserve(&self) -> Option<Threshold> {
        *lock(&self.reserve)
    }

    /// Notes how much must be free for the run to begin; called while validating.
    pub fn put_min_free(&self, min_free: Threshold) {
        *lock(&self.min_free) = Some(min_free);
    }

    /// Returns how much must be free for the run to begin.
    pub fn min_free(&self) -> Option<Threshold> {
        *lock(&self.min_free)
    }

    /// Notes who is to be told before a module changes anything on the target.
    pub fn put_sentinel(&self, sentinel: Arc<dyn Sentinel>) {
        *lock(&self.sentinel) = Some(sentinel);
    }

    /// Says which areas a module touches on the target, before its first change there.
    ///
    /// # Errors
    /// If it must not begin.
    pub async fn about_to_change(&self, areas: &[Area]) -> Result<(), ModuleError> {
        let sentinel = lock(&self.sentinel).clone();
        match sentinel {
            Some(sentinel) => sentinel.about_to_change(areas).await,
            None => Ok(()),
        }
    }

    /// Notes a conflict and where the losing version is kept, a line for people.
    pub fn add_conflict(&self, line: impl Into<String>) {
        lock(&self.conflicts).push(line.into());
    }

    /// Returns all conflicts.
    pub fn conflicts(&self) -> Vec<String> {
        lock(&self.conflicts).clone()
    }

    /// Notes an absolute path that somebody changed on the target while the sync ran, without touching anything of it.
    pub fn add_unsettled(&self, path: BytePath) {
        lock(&self.unsettled).push(path);
    }

    /// Returns the paths that somebody changed on the target while the sync ran.
    pub fn unsettled(&self) -> Vec<BytePath> {
        lock(&self.unsettled).clone()
    }

    /// Notes that so many paths stay other than on the source, each named before.
    pub fn add_left(&self, count: usize) {
        self.left.fetch_add(count, Ordering::SeqCst);
    }

    /// Returns how many paths stay other than on the source.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }

    /// Notes that a module changed nothing on the target in this run; whoever does not say so is taken to have changed it.
    pub fn note_idle(&self, module: &ModuleName) {
        lock(&self.idle).push(module.clone());
    }

    /// Whether a module said that it changed nothing on the target.
    pub fn is_idle(&self, module: &ModuleName) -> bool {
        lock(&self.idle).contains(module)
    }

    /// Notes what was checked after the work and found right, a fragment for people.
    pub fn add_check(&self, line: impl Into<String>) {
        lock(&self.checks).push(line.into());
    }

    /// Returns what was checked and found right.
    pub fn checks(&self) -> Vec<String> {
        lock(&self.checks).clone()
    }

    /// Notes that a commit was asked for (`true`) or answered (`false`).
    pub fn set_commit_pending(&self, pending: bool) {
        self.commit_pending.store(pending, Ordering::SeqCst);
        self.commit_asked.fetch_or(pending, Ordering::SeqCst);
    }

    /// Whether a commit was ever asked for in this run.
    pub fn commit_was_asked(&self) -> bool {
        self.commit_asked.load(Ordering::SeqCst)
    }

    /// Whether a commit was asked for and its end is not known.
    pub fn commit_pending(&self) -> bool {
        self.commit_pending.load(Ordering::SeqCst)
    }

    /// Notes the valid record of the last sync of these two machines.
    pub fn put_pair(&self, record: PairRecord) {
        *lock(&self.pair) = Some(record);
    }

    /// Returns the record of the last sync, if both machines hold the same one and their sets still exist.
    pub fn pair(&self) -> Option<PairRecord> {
        lock(&self.pair).clone()
    }

    /// Notes the files that were proven to be the same on both machines when the record of the last sync was written.
    pub fn put_proven_then(&self, files: Vec<ProvenFile>) {
        *lock(&self.proven_then) = Arc::new(files);
    }

    /// Returns the files that were proven to be the same at the last sync.
    pub fn proven_then(&self) -> Arc<Vec<ProvenFile>> {
        Arc::clone(&lock(&self.proven_then))
    }

    /// Notes files that this run proved to be the same in the source's pre set and the target's post set, the surest first.
    pub fn add_proven(&self, files: impl IntoIterator<Item = ProvenFile>) {
        lock(&self.proven).extend(files);
    }

    /// Returns the files that this run proved to be the same.
    pub fn proven(&self) -> Vec<ProvenFile> {
        lock(&self.proven).clone()
    }

    /// Notes syncs of these two machines after the last recorded one: what they committed is ours.
    pub fn put_attempts(&self, attempts: Vec<Attempt>) {
        *lock(&self.attempts) = attempts;
    }

    /// Returns the syncs after the last recorded one, oldest first.
    pub fn attempts(&self) -> Vec<Attempt> {
        lock(&self.attempts).clone()
    }

    /// Notes a part of a folder on a file system without snapshots; called while validating.
    pub fn add_without_snapshots(&self, role: Role, root: BytePath, fs_type: String) {
        lock(&self.without_snapshots).push((role, root, fs_type));
    }

    /// Returns the parts of folders without snapshots: machine, where they begin, file system.
    pub fn without_snapshots(&self) -> Vec<(Role, BytePath, String)> {
        lock(&self.without_snapshots).clone()
    }

    /// Notes what a machine keeps of a part without snapshots; a later one replaces it.
    pub fn put_manifest(&self, role: Role, manifest: Manifest) {
        let mut manifests = lock(&self.manifests);
        manifests.retain(|(other, held)| *other != role || held.root != manifest.root);
        manifests.push((role, manifest));
    }

    /// Returns what a machine keeps of its parts without snapshots.
    pub fn manifests(&self, role: Role) -> Vec<Manifest> {
        let manifests = lock(&self.manifests);
        manifests.iter().filter(|(other, _)| *other == role).map(|(_, manifest)| manifest.clone()).collect()
    }

    /// Notes an absolute path that changed on the source while it was read, and so was not brought over.
    pub fn add_unsent(&self, path: BytePath) {
        lock(&self.unsent).push(path);
    }

    /// Returns the paths that changed on the source while they were read.
    pub fn unsent(&self) -> Vec<BytePath> {
        lock(&self.unsent).clone()
    }

    /// Notes a part of the folders that was compared.
    pub fn put_part(&self, part: PartRecord) {
        let mut parts = lock(&self.parts);
        parts.retain(|other| other.root != part.root);
        parts.push(part);
    }

    /// Returns the parts of the folders that were compared.
    pub fn parts(&self) -> Vec<PartRecord> {
        lock(&self.parts).clone()
    }

    /// Notes a path where both machines differ though nothing was to be done.
    pub fn add_apart(&self, path: BytePath) {
        lock(&self.apart).push(path);
    }

    /// Returns the paths where both machines differ though nothing was to be done, each once.
    pub fn apart(&self) -> Vec<BytePath> {
        let mut apart = lock(&self.apart).clone();
        apart.sort();
        apart.dedup();
        apart
    }

    /// Notes a path at and below which nobody looked whether both machines have the same.
    pub fn add_alien(&self, path: BytePath) {
        lock(&self.alien).push(path);
    }

    /// Returns the paths at and below which nobody looked whether both machines have the same, each once.
    pub fn alien(&self) -> Vec<BytePath> {
        let mut alien = lock(&self.alien).clone();
        alien.sort();
        alien.dedup();
        alien
    }

    /// Notes an attribute that a machine lacks because its file system does not hold it.
    pub fn add_lacking(&self, lacking: Lacking) {
        lock(&self.lacking).push(lacking);
    }

    /// Returns the attributes that file systems do not hold, each once.
    pub fn lacking(&self) -> Vec<Lacking> {
        let mut lacking = lock(&self.lacking).clone();
        lacking.sort();
        lacking.dedup();
        lacking
    }

    /// Notes the digest of the rules that this run applies.
    pub fn put_rule_hash(&self, hash: String) {
        *lock(&self.rule_hash) = Some(hash);
    }

    /// Returns the digest of the rules that this run applies.
    pub fn rule_hash(&self) -> Option<String> {
        lock(&self.rule_hash).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Tells the time; tests bring their own.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// Everything a module may touch, injected.
#[derive(Clone)]
pub struct ModuleContext {
    /// The session.
    pub session: SessionId,
    /// The machine the user sits at.
    pub source: Machine,
    /// The machine the user moves to.
    pub target: TargetMachine,
    /// The module's voice.
    pub reporter: Reporter,
    /// Set when the run must stop; a module looks at it between steps and in every wait.
    pub cancel: CancellationToken,
    /// Whether the run may write.
    pub mode: RunMode,
    /// Asks the user.
    pub gates: Arc<dyn Gatekeeper>,
    /// What earlier modules left.
    pub board: Arc<SessionBoard>,
    /// Tells the time, UTC.
    pub clock: Clock,
}

impl ModuleContext {
    /// Returns the agent of the machine in that role.
    pub fn agent(&self, role: Role) -> &Arc<dyn AgentLink> {
        match role {
            Role::Source => &self.source.agent,
            Role::Target => &self.target.agent,
        }
    }

    /// Returns the name of the machine in that role.
    pub fn hostname(&self, role: Role) -> &Hostname {
        match role {
            Role::Source => &self.source.hostname,
            Role::Target => &self.target.hostname,
        }
    }
}
