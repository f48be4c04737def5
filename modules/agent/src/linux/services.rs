//! The agent of a real machine: every call of the protocol, answered.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pc_switcher_contract::{Role, SessionId, SetId, SnapshotKind, SnapshotMember, SnapshotSet};

use super::btrfs::KernelBtrfs;
use super::deadman::{self, Deadman};
use super::exec::Groups;
use super::install::{self, Places};
use super::lock::{Attempt, LOCK_PATH, MachineLock};
use super::mounts::Mounts;
use super::snapshots::Needs;
use super::state::{STATE_PATH, StateDir};
use super::stdin::WatchedStdin;
use super::trees::EVERY;
use super::{
    boot, connection, diagnose, exec, layout, machine, nested, orphans, put_file, rollback, signals,
    snapshots, space, unchanged, writers,
};
use crate::data;
use crate::data::apply::{Unwatched, Watch, redo};
use crate::proto::{
    AgentError, AgentHello, ChangedRequest, CreateSet, CreatedSet, DeadmanOrder, DeadmanState, DeleteRequest,
    Healed, LockReply, LockRequest, NestedOrder, PROTOCOL, Patience, Redone, Request, RestorePlace,
    RestoreReply, RestoreRequest, RollbackLook, RollbackOrder, RollbackWish, SetsRequest, SharesRequest,
    TakeSet, UndoReport, UndoRequest, VolumeRequest, WalkRequest, encode,
};
use crate::server::{Call, SILENT, Services, serve};

/// Keeps the machine's history below the state directory: the syncs that came here. Rows are JSON objects.
pub trait HistoryKeeper: Send + Sync {
    /// Stores a row.
    ///
    /// # Errors
    /// If it is none, or cannot be stored.
    fn put(&self, state_dir: &Path, row: &[u8]) -> Result<(), String>;
    /// Returns the newest rows, the newest first.
    ///
    /// # Errors
    /// If the history cannot be read.
    fn list(&self, state_dir: &Path, count: usize) -> Result<Vec<Vec<u8>>, String>;
}

/// How an agent runs.
pub struct AgentOptions {
    /// The program's version.
    pub version: String,
    /// After how long a silence the agent ends.
    pub silence: Duration,
    /// Where the machine's state lies.
    pub state_dir: PathBuf,
    /// Where the machine's lock lies.
    pub lock_path: PathBuf,
    /// Keeps the machine's history.
    pub history: Box<dyn HistoryKeeper>,
    /// Looks on at every durable step of a commit.
    pub watch: Box<dyn Watch>,
    /// Whether a silent front means that the ssh connection above this process is dead, and is to be ended as well.
    pub ends_connection: bool,
}

impl AgentOptions {
    /// Makes the options of a real machine: 20 s of silence, the usual places.
    pub fn new(version: impl Into<String>, history: Box<dyn HistoryKeeper>) -> Self {
        Self {
            version: version.into(),
            silence: Duration::from_secs(20),
            state_dir: STATE_PATH.into(),
            lock_path: LOCK_PATH.into(),
            history,
            watch: Box::new(Unwatched),
            ends_connection: true,
        }
    }
}

/// Bytes that our pipes hold, where the kernel lets us.
const PIPE: usize = 1 << 20;

/// The session of a redo without a front.
const NOBODY: &str = "00000000";

struct LinuxServices {
    options: AgentOptions,
    hello: AgentHello,
    state: StateDir,
    lock: Mutex<Option<MachineLock>>,
    groups: Groups,
    sent: data::sent::Sent,
    /// To the sets that were taken here: nobody removes them while this agent lives.
    references: Mutex<HashMap<SetId, snapshots::Reference>>,
    deadman: Deadman,
}

/// Runs the agent on standard input and output until its front is gone.
///
/// # Errors
/// If the front broke the protocol, fell silent, or the machine refuses the signals.
pub fn main(options: AgentOptions) -> Result<(), String> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let stop = signals::take_over().map_err(|error| format!("cannot take over signals: {error}"))?;
    // Without it orphans still end with their session, only daemons among them do not.
    let _ = orphans::adopt();
    let hello = AgentHello {
        protocol: PROTOCOL,
        version: options.version.clone(),
        hostname: machine::hostname().map_err(|error| error.to_string())?,
        machine_id: machine::machine_id(),
        uid: rustix::process::geteuid().as_raw(),
        pid: std::process::id(),
        digest: machine::program_digest(Path::new(machine::OWN_IMAGE)).unwrap_or_default(),
    };
    let input = io::BufReader::with_capacity(256 << 10, WatchedStdin::new(stop, options.silence));
    let ends_connection = options.ends_connection;
    let state = StateDir::new(options.state_dir.clone());
    let services = Arc::new(LinuxServices {
        options,
        hello,
        state,
        lock: Mutex::default(),
        groups: Groups::default(),
        sent: data::sent::Sent::default(),
        references: Mutex::default(),
        deadman: Deadman::default(),
    });
    // A larger pipe means fewer switches of tasks; what is no pipe stays as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(rustix::stdio::stdin(), PIPE);
    let _ = rustix::pipe::fcntl_setpipe_size(rustix::stdio::stdout(), PIPE);
    // Unbuffered: the standard library would look for line ends in megabytes of content.
    let output = rustix::io::dup(rustix::stdio::stdout())
        .map_err(|error| format!("cannot use standard output: {error}"))?;
    let ended = serve(services, input, Box::new(File::from(output)));
    if ends_connection && ended.as_ref().is_err_and(|why| why == SILENT) {
        connection::end_own();
    }
    ended
}

/// Brings sessions that were cut off to their end, for a boot without any front. Returns what is to be told, by the next sync
/// as well; `None` if a sync is under way, which has seen to it.
///
/// # Errors
/// If the machine's lock or its state cannot be used.
pub fn redo_alone(options: &AgentOptions) -> Result<Option<Vec<Redone>>, AgentError> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match lock_alone(options)? {
        None => Ok(None),
        Some(_lock) => {
            let state = StateDir::new(options.state_dir.clone());
            rollback::wait_for_snapshots(&state);
            // Neither waits for the other: snapshots that are not mounted keep no commit from its end.
            let back = rollback::redo(&state, options.watch.as_ref());
            let redone = redo(&state, Patience::TryAgainLater, options.watch.as_ref())?;
            back.map(|()| Some(redone))
        }
    }
}

/// Brings a rollback that was cut off to its end, and has the subvolumes inside come along, at the beginning of a boot: nothing that
/// uses them runs yet. Returns how it stands; `None` if somebody else sees to it.
///
/// # Errors
/// If the machine's lock or its state cannot be used, or the machine does not let us.
pub fn rollback_alone(options: &AgentOptions) -> Result<Option<RollbackLook>, AgentError> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let Some(_lock) = lock_alone(options)? else { return Ok(None) };
    let state = StateDir::new(options.state_dir.clone());
    rollback::wait_for_snapshots(&state);
    rollback::redo(&state, options.watch.as_ref())?;
    rollback::run(&RollbackOrder::Look, &state, options.watch.as_ref()).map(Some)
}

/// Takes a sync back that nobody had confirmed before the machine was started anew.
///
/// # Errors
/// If the machine's lock or its state cannot be used, or it cannot be taken back.
pub fn heal_alone(options: &AgentOptions) -> Result<Option<Healed>, AgentError> {
    match lock_alone(options)? {
        None => Ok(None),
        Some(_lock) => deadman::at_boot(&StateDir::new(options.state_dir.clone()), options.watch.as_ref()),
    }
}

/// Sees at boot to a rollback on trial, and returns what is to be said of it.
///
/// # Errors
/// If the machine's lock or its state cannot be used, or the rollback cannot be taken back.
pub fn trial_alone(options: &AgentOptions) -> Result<Option<String>, AgentError> {
    let state = StateDir::new(options.state_dir.clone());
    match lock_alone(options)? {
        None => rollback::attend_later(&state).map(|()| None),
        Some(_lock) => rollback::at_boot(&state, options.watch.as_ref()),
    }
}

/// Watches over a sync or a rollback until it is confirmed or taken back.
///
/// # Errors
/// If it cannot be taken back.
pub fn watch_alone(options: &AgentOptions, session: &SessionId) -> Result<(), AgentError> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let state = StateDir::new(options.state_dir.clone());
    deadman::watch(session, &state, &options.lock_path, options.watch.as_ref())?;
    rollback::watch(session, &state, &options.lock_path, options.watch.as_ref())
}

/// Takes the machine's lock without any front; `None` if somebody else has it.
fn lock_alone(options: &AgentOptions) -> Result<Option<MachineLock>, AgentError> {
    let request = LockRequest {
        session: NOBODY.parse().map_err(|error| AgentError::failed(format!("{error}")))?,
        role: Role::Target,
        from: machine::hostname()?,
        user: "redo".into(),
    };
    match MachineLock::try_take(&options.lock_path, &request)? {
        Attempt::Busy(_) => Ok(None),
        Attempt::Held(lock) => Ok(Some(lock)),
    }
}

impl LinuxServices {
    /// Brings cut off sessions to their end. Without the lock it could be one that is under way.
    fn redo(&self, patience: Patience, at_once: bool) -> Result<Vec<Redone>, AgentError> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref() {
            Some(_) => {
                match at_once {
                    true => rollback::redo_at_once(&self.state, self.options.watch.as_ref())?,
                    false => rollback::redo(&self.state, self.options.watch.as_ref())?,
                }
                redo(&self.state, patience, self.options.watch.as_ref())
            }
            None => Err(AgentError::protocol("a redo needs the machine's lock")),
        }
    }

    /// Takes a sync back. Without the machine's lock another one could be under way.
    fn undo(&self, request: &UndoRequest, call: &Call) -> Result<UndoReport, AgentError> {
        match self.lock.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(_) => {}
            None => return Err(AgentError::protocol("an undo needs the machine's lock")),
        }
        data::undo::run(request, call, &self.state, self.options.watch.as_ref())
    }

    /// Does something about a rollback. Without the machine's lock it may only look.
    fn rollback(&self, order: &RollbackOrder, call: &Call) -> Result<RollbackLook, AgentError> {
        let is_look = matches!(
            order,
            RollbackOrder::Look
                | RollbackOrder::Check(_)
                | RollbackOrder::Strays(_)
                | RollbackOrder::Decided { .. }
        );
        // What has begun goes on to its end, whoever listens.
        let _shield = (!is_look).then(|| call.shield());
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() && !is_look {
            return Err(AgentError::protocol("a rollback needs the machine's lock"));
        }
        let stays = matches!(order, RollbackOrder::Confirm(_) | RollbackOrder::Stay);
        let place = stays.then(|| self.state.get(rollback::POINTER)).transpose()?.flatten();
        let look = rollback::run_at_once(&by_pins(order), &self.state, self.options.watch.as_ref())?;
        if let Some(place) = place {
            boot::trusted(pc_switcher_contract::BytePath::new(place).as_path());
        }
        Ok(look)
    }

    /// Does something about the dead man. Without the machine's lock it may only look.
    fn deadman(&self, order: &DeadmanOrder, call: &Call) -> Result<DeadmanState, AgentError> {
        let is_held = self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        match is_held || *order == DeadmanOrder::Look {
            true => self.deadman.run(order, &self.state, self.options.watch.as_ref(), call),
            false => Err(AgentError::protocol("the dead man needs the machine's lock")),
        }
    }

    fn take_set(&self, request: &TakeSet) -> Result<SnapshotSet, AgentError> {
        let (set, reference) = snapshots::take_set(request)?;
        let mut references = self.references.lock().unwrap_or_else(PoisonError::into_inner);
        references.extend(reference.map(|reference| (set.id(), reference)));
        Ok(set)
    }

    /// Takes a set that people want. Nothing here works with it afterwards, but for one that is taken to be read.
    fn create_set(&self, request: &CreateSet, call: &Call) -> Result<CreatedSet, AgentError> {
        let (created, reference) = snapshots::create_set(request, &|| call.is_cancelled())?;
        if created.set.kind == SnapshotKind::Session {
            let mut references = self.references.lock().unwrap_or_else(PoisonError::into_inner);
            references.extend(reference.map(|reference| (created.set.id(), reference)));
        }
        Ok(created)
    }

    /// Brings paths back. What a sync is working on is not replaced under its feet.
    fn restore(&self, request: &RestoreRequest, call: &Call) -> Result<RestoreReply, AgentError> {
        let is_locked = self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        match (&request.place, is_locked) {
            (RestorePlace::InPlace(_), false) => {
                Err(AgentError::protocol("a restore in place needs the machine's lock"))
            }
            _ => snapshots::restore(request, call),
        }
    }

    fn drop_set(&self, set: &SnapshotSet) -> Result<(), AgentError> {
        self.references.lock().unwrap_or_else(PoisonError::into_inner).remove(&set.id());
        snapshots::drop_set(set)
    }

    fn needs(&self) -> Result<Needs, AgentError> {
        Needs::read(&self.state, &self.hello.machine_id)
    }

    /// Makes or removes a nested subvolume. Without the machine's lock another sync could be under way.
    fn nested(&self, order: &NestedOrder) -> Result<bool, AgentError> {
        match self.lock.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(_) => nested::run(&KernelBtrfs, order),
            None => Err(AgentError::protocol("a nested subvolume needs the machine's lock")),
        }
    }

    /// Removes a set. Without the machine's lock a sync could be about to start from it.
    fn delete_set(&self, request: &DeleteRequest) -> Result<Vec<SnapshotMember>, AgentError> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref() {
            Some(_) => snapshots::delete_set(request, || self.needs()),
            None => Err(AgentError::protocol("removing a set needs the machine's lock")),
        }
    }

    fn delete_sets(&self, request: &SetsRequest) -> Result<Vec<(SetId, Option<String>)>, AgentError> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref() {
            Some(_) => snapshots::delete_sets(request, || self.needs()),
            None => Err(AgentError::protocol("removing sets needs the machine's lock")),
        }
    }

    fn delete_volume(&self, request: &VolumeRequest) -> Result<(), AgentError> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref() {
            Some(_) => snapshots::delete_volume(request),
            None => Err(AgentError::protocol("removing a volume needs the machine's lock")),
        }
    }

    fn take_lock(&self, request: &LockRequest) -> Result<LockReply, AgentError> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = held.as_ref() {
            let own = lock.is_of(request);
            return Ok(if own { LockReply::Held } else { LockReply::Busy(Some(lock.holder().clone())) });
        }
        Ok(match MachineLock::try_take(&self.options.lock_path, request)? {
            Attempt::Held(lock) => {
                *held = Some(lock);
                LockReply::Held
            }
            Attempt::Busy(holder) => LockReply::Busy(holder),
        })
    }
}

/// Returns an order to go back to what there is of a set: where another tool has removed members, those of its pin.
fn by_pins(order: &RollbackOrder) -> RollbackOrder {
    let by_pin = |wish: &RollbackWish| RollbackWish {
        to: snapshots::with_pin(wish.snapshot_dir.as_path(), &wish.to),
        ..wish.clone()
    };
    match order {
        RollbackOrder::Check(wish) => RollbackOrder::Check(by_pin(wish)),
        RollbackOrder::Prepare(wish) => RollbackOrder::Prepare(by_pin(wish)),
        other => other.clone(),
    }
}

/// Answers [`Request::Moved`].
fn moved(request: &ChangedRequest, call: &Call) -> Result<bool, AgentError> {
    let (base, root) = (&request.base, &request.tree.root);
    let since = unchanged::since_in_any(&KernelBtrfs, base.as_path(), root.as_path())
        .map_err(|error| AgentError::io(format!("cannot compare `{base}` and `{root}`"), &error))?;
    since.map_or(Ok(false), |since| data::moved::run(request, since, call))
}

/// Answers [`Request::Shares`].
fn shares(request: &SharesRequest, call: &Call) -> Result<(), AgentError> {
    let root = &request.tree.root;
    let since = match &request.base {
        Some(base) => unchanged::since(&KernelBtrfs, base.as_path(), root.as_path())
            .map_err(|error| AgentError::io(format!("cannot compare `{base}` and `{root}`"), &error))?,
        None => None,
    };
    data::shares::run(request, since, call)
}

/// Answers [`Request::Changed`].
fn changed(request: &ChangedRequest, call: &Call) -> Result<bool, AgentError> {
    let (base, root) = (&request.base, &request.tree.root);
    let since = unchanged::since(&KernelBtrfs, base.as_path(), root.as_path())
        .map_err(|error| AgentError::io(format!("cannot compare `{base}` and `{root}`"), &error))?;
    since.map_or(Ok(false), |since| data::changed::run(request, since, call))
}

impl Services for LinuxServices {
    fn hello(&self) -> AgentHello {
        self.hello.clone()
    }

    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError> {
        Ok(match request {
            Request::Facts => encode(&machine::facts()?),
            Request::Lock(request) => encode(&self.take_lock(&request)?),
            Request::Diagnose => encode(&diagnose::diagnose()?),
            Request::Unchanged { from, to } => {
                let same = unchanged::unchanged(&KernelBtrfs, from.as_path(), to.as_path());
                encode(
                    &same.map_err(|error| {
                        AgentError::io(format!("cannot compare `{from}` and `{to}`"), &error)
                    })?,
                )
            }
            Request::Writers(request) => encode(&writers::writers(&request.folders)),
            Request::Layout(request) => encode(&layout::layout(&request)?),
            Request::Space(paths) => encode(&space::space(&KernelBtrfs, &Mounts::read()?, &paths)?),
            Request::TakeSet(request) => encode(&self.take_set(&request)?),
            Request::CheckSet(set) => encode(&snapshots::check_set(&set)),
            Request::DropSet(set) => encode(&self.drop_set(&set)?),
            Request::Sets(dir) => {
                encode(&snapshots::list_sets(dir.as_path(), self.needs(), &mut |set| call.item(&set))?)
            }
            Request::DeleteSet(request) => encode(&self.delete_set(&request)?),
            Request::DeleteSets(request) => encode(&self.delete_sets(&request)?),
            Request::DeleteVolume(request) => encode(&self.delete_volume(&request)?),
            Request::PinSet(request) => encode(&snapshots::pin_set(&request)?),
            Request::CreateSet(request) => encode(&self.create_set(&request, call)?),
            Request::Export(request) => encode(&snapshots::export(&request, call)?),
            Request::Import(request) => encode(&snapshots::import(&request, call)?),
            Request::HasAll(request) => encode(&snapshots::has_all(&request)?),
            Request::AnnotateSet(request) => encode(&snapshots::annotate_set(request)?),
            Request::Versions(request) => encode(&snapshots::versions(&request, call)?),
            Request::Diff(request) => encode(&snapshots::diff(&request, call)?),
            Request::Restore(request) => encode(&self.restore(&request, call)?),
            Request::GoodSet { snapshot_dir, mark } => {
                encode(&snapshots::mark_good(snapshot_dir.as_path(), &mark)?)
            }
            Request::Gains(dir) => encode(&snapshots::gains(dir.as_path(), call)?),
            Request::Holdings(request) => encode(&snapshots::holdings(&request, call)?),
            Request::Adopt(request) => encode(&snapshots::adopt(&request)?),
            Request::Boot { snapshot_dir, order } => encode(&boot::run(&snapshot_dir, &order)?),
            Request::Held(request) => encode(&snapshots::hand_over(&request)?),
            Request::Verify(request) => encode(&snapshots::verify(&request, call)?),
            Request::Walk(request) => encode(&data::walk::run(&request, call)?),
            Request::Digests(request) => encode(&data::walk::run_digests(&request, call)?),
            Request::List(request) => encode(&data::walk::list(&request, call)?),
            Request::Changed(request) => encode(&changed(&request, call)?),
            Request::Moved(request) => encode(&moved(&request, call)?),
            Request::Read { root } => encode(&data::read::run(&root, call, &self.sent)?),
            Request::WalkKept { tree, key } => {
                encode(&data::walk::run_kept(&WalkRequest { tree }, &key, call, &self.state)?)
            }
            Request::Kept(key) => encode(&data::manifest::run(&key, call, &self.state)?),
            Request::CheckKept(key) => encode(&data::manifest::check(&key, &self.state)?),
            Request::ReadLive { root } => encode(&data::read::run_live(&root, call, &self.sent)?),
            Request::Delta { root, base } => encode(&data::delta::run(&root, &base, call)?),
            Request::ReadDelta { root, base } => {
                encode(&data::read::run_delta(&root, &base, call, &self.sent)?)
            }
            Request::Shares(request) => encode(&shares(&request, call)?),
            Request::ReadRest { root } => encode(&data::read::run_rest(&root, call, &self.sent)?),
            Request::Blocks { root } => encode(&data::blocks::run(&root, call)?),
            Request::ReadBlocks { root } => encode(&data::read::run_blocks(&root, call, &self.sent)?),
            Request::Since { root, base } => encode(&data::since::run(&root, &base, call)?),
            Request::Ranges { root, base } => encode(&data::since::run_ranges(&root, &base, call)?),
            Request::Reread { root, base } => encode(&data::since::run_reread(&root, &base, call)?),
            Request::ReadRanges { root, base } => encode(&data::read::run_ranges(&root, &base, call)?),
            Request::Digest { root } => encode(&data::digest::run(&root, call, &self.sent)?),
            Request::Apply(request) => {
                encode(&data::apply::run(&request, call, &self.state, self.options.watch.as_ref())?)
            }
            Request::Settle(path, limit) => {
                encode(&space::settle(&EVERY, &path, Duration::from_millis(limit.into()), call)?)
            }
            Request::Rollback(order) => encode(&self.rollback(&order, call)?),
            Request::Deadman(order) => encode(&self.deadman(&order, call)?),
            Request::Nested(order) => encode(&self.nested(&order)?),
            Request::Undo(request) => encode(&self.undo(&request, call)?),
            Request::Redo { patience, at_once } => encode(&self.redo(patience, at_once)?),
            Request::StateGet(key) => encode(&self.state.get(&key)?),
            Request::StateList(prefix) => encode(&self.state.list(&prefix)?),
            Request::StatePut(key, value) => encode(&self.state.put(&key, value.as_deref())?),
            Request::HistoryPut(row) => {
                let stored = self.options.history.put(self.state.root(), &row);
                encode(&stored.map_err(AgentError::failed)?)
            }
            Request::HistoryList(count) => {
                let rows = self.options.history.list(self.state.root(), count as usize);
                for row in rows.map_err(AgentError::failed)? {
                    call.item(&row)?;
                }
                encode(&())
            }
            Request::Exec(request) => encode(&exec::run(&self.groups, &request, call)?),
            Request::PutFile(request) => encode(&put_file::run(&request, call)?),
            Request::Activate(request) => {
                let places = Places::default();
                encode(&install::activate(
                    &places,
                    &request,
                    &self.options.version,
                    Path::new("/proc/self/exe"),
                )?)
            }
        })
    }

    fn shut_down(&self) {
        self.groups.end_all();
        orphans::end_all(self.deadman.keeps());
    }
}
