//! Puts a real run together: stream, screen, log, questions, history, the way to both machines.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use pc_switcher_agent::proto::Healed;
use pc_switcher_btrfs_snapshots::config::BtrfsSnapshotsConfig;
use pc_switcher_contract::{
    ErrorKind, ExecError, Gatekeeper, Hostname, LogLevel, ModuleError, ModuleName, Role, SessionId,
};
use pc_switcher_disk_monitor::config::DiskConfig;
use serde::Deserialize as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Exit;
use crate::clock;
use crate::config::{Config, SyncRequest};
use crate::events::{CoreLog, EventBus, FileLog, Tally};
use crate::history::{ProcessTag, SessionRow, Store, row_of};
use crate::lock::{FrontLock, Holder, LockError};
use crate::orchestrator::deadman::DeadmanSettings;
use crate::orchestrator::plan::RunPlan;
use crate::orchestrator::real_reach::RealReach;
use crate::orchestrator::run::FrontLock as TakeFrontLock;
use crate::orchestrator::{Chronicle, Deps, Finished, run};
use crate::paths::{self, Env};
use crate::registry::registry;
use crate::remote::{PasswordPrompt, Reach, RemoteEnv};
use crate::session::{Report, SyncSession};
use crate::signal::{Escalation, Interrupts};
use crate::ui::{FdConsole, Gates, Mode, Outputs, Prompter, Screen, ScreenOptions, TerminalFacts};

/// Runs one sync and returns how it ended.
pub fn sync(request: SyncRequest, config: &Config, env: &Env) -> Exit {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(sync_here(request, config, env));
            runtime.shutdown_timeout(std::time::Duration::from_millis(500));
            exit
        }
        Err(error) => fail(&format!("cannot start: {error}")),
    }
}

/// Says on standard error why nothing could even begin.
fn fail(why: &str) -> Exit {
    eprintln!("error: {why}");
    Exit::Failed
}

async fn sync_here(request: SyncRequest, config: &Config, env: &Env) -> Exit {
    let own = match own_name() {
        Ok(own) => own,
        Err(why) => return fail(&why),
    };
    let clock = clock::system();
    let session = SessionId::from_uuid(uuid::Uuid::new_v4());
    let bus = EventBus::new(session.clone(), clock.clone());
    let core = bus.core(own.clone());
    let facts = terminal_facts(env);
    let screen_options = ScreenOptions {
        mode: Mode::choose(request.json, !request.progress, facts),
        level: config.log_cli_level,
        colours: facts.colours(),
        labels: Vec::new(),
    };
    let screen = Screen::start(bus.subscribe(), screen_options, Outputs::standard());
    let real = !request.dry_run;
    let log = real
        .then(|| paths::log_dir(env).ok())
        .flatten()
        .map(|dir| FileLog::start(&dir, clock(), &own, config.log_file_level, &core));
    let cancel = CancellationToken::new();
    let mut asking = facts;
    // With JSON on standard output a question would land among the data.
    asking.stdout &= !request.json;
    let console = match FdConsole::standard(asking) {
        Ok(console) => console,
        Err(error) => return fail(&format!("cannot use the terminal: {error}")),
    };
    let prompter = Arc::new(Prompter::new(Arc::new(console), cancel.clone()));
    prompter.attach(screen.handle());
    let interrupts = match listen(&prompter, &cancel) {
        Ok(interrupts) => interrupts,
        Err(error) => return fail(&format!("cannot listen to signals: {error}")),
    };

    let specs = registry(env);
    let plan = match RunPlan::build(&specs, &request.modules, config) {
        Ok(plan) => plan,
        Err(why) => return fail(&why),
    };
    let overwrites = specs
        .iter()
        .filter(|spec| request.modules.contains(&spec.name))
        .filter_map(|spec| spec.first_sync.map(|text| format!("{}: {text}", spec.name)))
        .collect();
    let reach = RealReach::new(
        Reach::new(
            RemoteEnv { learns: real, ..remote_env(env, facts, &core) },
            Some(Arc::new(Passwords(Arc::clone(&prompter)))),
        ),
        request.target.clone().into(),
        own.clone(),
        user(env),
        Some(screen.handle()),
    );
    let deps = Deps {
        session: session.clone(),
        reach: Arc::new(reach),
        log: core.clone(),
        clock: clock.clone(),
        gates: gates_of(&request, &prompter, &core),
        overwrites,
        deadman: match deadman(config) {
            Ok(settings) => settings,
            Err(why) => return fail(&why),
        },
        chronicle: real.then(|| chronicle(env, config, &core)),
        front_lock: front_lock(env, &session, &request.target, clock().to_string()),
        log_path: log.as_ref().and_then(|log| log.path().map(PathBuf::from)),
        request,
    };
    let Finished { exit, report } = run(deps, plan, interrupts).await;
    prompter.restore_terminal();
    bus.close();
    if let Some(log) = log {
        log.finish();
    }
    screen.finish(Some(&report));
    exit
}

/// When the target takes a sync back by itself.
fn deadman(config: &Config) -> Result<DeadmanSettings, String> {
    let disk = DiskConfig::deserialize(config.table(&ModuleName::literal("disk-monitor")));
    let snapshots = BtrfsSnapshotsConfig::deserialize(config.table(&ModuleName::literal("btrfs-snapshots")));
    Ok(DeadmanSettings {
        mode: config.rollback.deadman,
        limit: config.rollback.limit(),
        required: config.rollback.health.clone(),
        reserve: disk.map_err(|error| error.to_string())?.reserve_minimum,
        keep_good: snapshots.map_err(|error| error.to_string())?.keep_good,
    })
}

pub(crate) fn own_name() -> Result<Hostname, String> {
    pc_switcher_agent::linux::machine::hostname().map_err(|error| error.to_string())
}

pub(crate) fn user(env: &Env) -> String {
    let named = ["USER", "LOGNAME"].iter().find_map(|name| env.var(name)).map(OsStr::to_string_lossy);
    named.map_or_else(|| format!("uid {}", env.uid), std::borrow::Cow::into_owned)
}

pub(crate) fn terminal_facts(env: &Env) -> TerminalFacts {
    TerminalFacts {
        stdin: env.stdin_is_terminal,
        stdout: env.stdout_is_terminal,
        stderr: env.stderr_is_terminal,
        no_color: env.var("NO_COLOR").is_some(),
        dumb: env.var("TERM").is_none_or(|term| term == "dumb"),
    }
}

fn remote_env(env: &Env, facts: TerminalFacts, core: &CoreLog) -> RemoteEnv {
    let mut remote = asking_env(env, facts);
    let core = core.clone();
    remote.log = Arc::new(move |level: LogLevel, text: String| core.log(level, text));
    remote
}

/// The surroundings of a command that may ask a person and keeps no log.
pub(crate) fn asking_env(env: &Env, facts: TerminalFacts) -> RemoteEnv {
    let mut remote = quiet_env(env);
    let runtime = paths::runtime_dir(env);
    remote.runtime_dir = runtime.parent().filter(|base| base.is_dir()).map(|base| base.to_owned());
    remote.has_terminal = facts.stdin && facts.stderr;
    remote
}

/// The surroundings of a command that asks the agent of this machine and nobody else.
pub(crate) fn quiet_env(env: &Env) -> RemoteEnv {
    let own_exe = std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut remote = RemoteEnv::new(env.uid, user(env), own_exe, env!("CARGO_PKG_VERSION"));
    remote.hosts = paths::hosts_file(env).ok();
    remote
}

/// Turns signals into messages; the third exits at once, with the terminal given back.
pub(super) fn listen(
    prompter: &Arc<Prompter>,
    cancel: &CancellationToken,
) -> std::io::Result<mpsc::Receiver<(String, Escalation)>> {
    let mut interrupts = Interrupts::listen()?;
    let (send, receive) = mpsc::channel(8);
    let (prompter, cancel) = (Arc::clone(prompter), cancel.clone());
    tokio::spawn(async move {
        loop {
            let (which, escalation) = interrupts.next().await;
            cancel.cancel();
            if escalation == Escalation::ExitNow {
                prompter.restore_terminal();
                exit_now();
            }
            let _ = send.send((which.as_str().to_owned(), escalation)).await;
        }
    });
    Ok(receive)
}

/// Ends this process; the agents end themselves when their pipes close.
#[expect(clippy::disallowed_methods, reason = "the third Ctrl+C skips everything, destructors included")]
fn exit_now() {
    std::process::exit(i32::from(Exit::Aborted.code()));
}

/// Asks for sudo's password.
pub(super) struct Passwords(pub(super) Arc<Prompter>);

#[async_trait]
impl PasswordPrompt for Passwords {
    async fn ask(&self, prompt: String) -> Result<String, ExecError> {
        let secret = self.0.password(&prompt).await.map_err(|_| ExecError::Cancelled)?;
        Ok(String::from_utf8_lossy(secret.as_bytes()).into_owned())
    }
}

fn gates_of(
    request: &SyncRequest,
    prompter: &Arc<Prompter>,
    core: &CoreLog,
) -> crate::orchestrator::run::GatesOf {
    let flags: HashSet<_> = request.open_gates.iter().copied().collect();
    let (prompter, core, dry_run) = (Arc::clone(prompter), core.clone(), request.dry_run);
    Box::new(move |source, target| {
        let gates: Arc<dyn Gatekeeper> = Arc::new(Gates {
            prompter: Arc::clone(&prompter),
            flags: flags.clone(),
            dry_run,
            source: source.clone(),
            target: target.clone(),
            log: core.clone(),
        });
        gates
    })
}

fn front_lock(env: &Env, session: &SessionId, target: &str, since: String) -> TakeFrontLock {
    let runtime = paths::runtime_dir(env);
    let base = runtime.parent().filter(|base| base.is_dir()).map(|base| base.to_owned());
    let holder =
        Holder { pid: std::process::id(), session: session.to_string(), target: target.to_owned(), since };
    Box::new(move || match FrontLock::try_take(base.as_deref(), &holder) {
        Ok(lock) => {
            let path = lock.as_ref().map(|lock| lock.path().to_owned());
            Ok((Box::new(lock), path))
        }
        Err(error @ LockError::Busy(_)) => Err(ModuleError::new(ErrorKind::Busy, error.to_string())
            .hint("wait for it, or end it with Ctrl+C where it runs")),
        Err(error) => Err(ModuleError::failed(error.to_string())),
    })
}

/// The history of this machine. A history that cannot be written is a warning, never a failed sync.
struct Diary {
    store: Mutex<Option<(Store, Option<SessionRow>)>>,
    config: String,
    core: CoreLog,
}

fn chronicle(env: &Env, config: &Config, core: &CoreLog) -> Arc<dyn Chronicle> {
    let store = paths::history_db(env)
        .map_err(|error| error.to_string())
        .and_then(|path| Store::open(&path).map_err(|error| error.to_string()));
    let store = match store {
        Ok(store) => Some((store, None)),
        Err(error) => {
            core.warning(format!("the history cannot be written: {error}"));
            None
        }
    };
    Arc::new(Diary { store: Mutex::new(store), config: config.text.clone(), core: core.clone() })
}

impl Diary {
    fn tally(&self) -> Tally {
        self.core.bus().tally()
    }
}

impl Chronicle for Diary {
    fn note(&self, session: &SyncSession) {
        let mut held = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((store, row)) = held.as_mut() else { return };
        let written = match row {
            Some(row) => {
                row.refresh(session, &self.tally());
                store.update(row)
            }
            None => {
                let first = row_of(session, Role::Source, &self.config, ProcessTag::current().ok());
                let begun = store.begin(&first);
                *row = Some(first);
                begun
            }
        };
        if let Err(error) = written {
            *held = None;
            self.core.warning(format!("the history cannot be written: {error}"));
        }
    }

    fn end(&self, session: &SyncSession, report: &Report) {
        let mut held = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((store, Some(row))) = held.as_mut() else { return };
        row.close(session, report);
        if let Err(error) = store.finish(row) {
            self.core.warning(format!("the history cannot be written: {error}"));
        }
    }

    fn learn(&self, healed: &Healed) {
        let mut held = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((store, _)) = held.as_mut() else { return };
        // A session of somebody else's is not in this history.
        let known = store.get(&healed.session);
        let learned =
            known.and_then(|row| match row.filter(|row| row.exit_code != Some(Exit::RolledBack.code())) {
                Some(row) => store.update(&SessionRow { exit_code: Some(Exit::RolledBack.code()), ..row }),
                None => Ok(()),
            });
        if let Err(error) = learned {
            self.core.warning(format!("the history cannot be written: {error}"));
        }
    }

    fn row_for_target(&self, session: &SyncSession, report: &Report) -> Vec<u8> {
        let mut row = row_of(session, Role::Target, &self.config, None);
        row.close(session, report);
        serde_json::to_vec(&row).unwrap_or_default()
    }
}
