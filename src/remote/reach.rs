//! The steps by which the orchestrator makes both machines ready.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pc_switcher_agent::linux::machine;
use pc_switcher_contract::{ExecError, Executor, Hostname, LogLevel};
use pc_switcher_installer::{
    Decision, Own, ProbeError, PushError, Pushed, STABLE_PATH, decide, digest, probe, push, remove_pushed,
};
use tokio_util::sync::CancellationToken;

use super::agent_process::{StartedAgent, adopt};
use super::connection::TargetConnection;
use super::elevate::{PasswordPrompt, Place, Starter, is_plain};
use super::env::RemoteEnv;
use super::error::ReachError;
use super::preferences::preferences;

/// How long an agent of another program has to end before the right one is started.
const CLOSING: Duration = Duration::from_secs(2);

/// Makes both machines ready: own agent, connection, target's program and agent.
pub struct Reach {
    env: RemoteEnv,
    prompt: Option<Arc<dyn PasswordPrompt>>,
}

/// The target with its agent running.
pub struct PreparedTarget {
    /// The agent.
    pub agent: StartedAgent,
    /// Who we are there.
    pub user: String,
    /// Our binary there, if it had to be pushed: it wants `Request::Activate`, and [`Reach::remove_pushed`] after it.
    pub pushed: Option<Pushed>,
}

impl PreparedTarget {
    /// Whether our program is not installed there yet.
    pub fn needs_activation(&self) -> bool {
        self.pushed.is_some()
    }
}

impl Reach {
    /// Makes the façade. Without a prompt nobody is asked for a password.
    pub fn new(env: RemoteEnv, prompt: Option<Arc<dyn PasswordPrompt>>) -> Self {
        let prompt = prompt.filter(|_| env.has_terminal);
        Self { env, prompt }
    }

    /// Finds out what can be known before a connection, and contacts nobody.
    pub async fn look_ahead(&self, target: &OsStr) {
        preferences(target, &self.env).await;
    }

    /// Connects to what the user typed.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(
        &self,
        target: &OsStr,
        cancel: &CancellationToken,
    ) -> Result<TargetConnection, ReachError> {
        TargetConnection::connect(target, &self.env, cancel).await
    }

    /// Starts the agent of this machine. The installed program is used if it is this very one, since sudoers names it.
    ///
    /// # Errors
    /// If it may not or cannot be started.
    pub async fn start_local_agent(
        &self,
        hostname: &Hostname,
        cancel: &CancellationToken,
    ) -> Result<StartedAgent, ReachError> {
        let is_root = self.env.uid == 0;
        let program = if !is_root && self.is_installed().await {
            self.env.stable_path.clone()
        } else {
            self.env.own_exe.clone()
        };
        let starter = Starter {
            place: Place::Here,
            hostname: hostname.to_string(),
            user: self.env.user.clone(),
            is_root,
            program: program.into(),
            sudo: "sudo".into(),
            log: Arc::clone(&self.env.log),
        };
        self.start_agent(starter, cancel).await
    }

    /// Probes the target, pushes our program if another or none is installed there, and starts the agent.
    ///
    /// # Errors
    /// If the target refuses our program, or its agent may not or cannot be started.
    pub async fn prepare_target(
        &self,
        connection: &TargetConnection,
        cancel: &CancellationToken,
    ) -> Result<PreparedTarget, ReachError> {
        tokio::select! {
            prepared = self.prepare(connection, cancel) => prepared,
            lost = connection.lost() => Err(lost.into()),
            () = cancel.cancelled() => Err(ExecError::Cancelled.into()),
        }
    }

    /// Removes the pushed program: after its activation, or when a dry run is over.
    ///
    /// # Errors
    /// If the target did not answer.
    pub async fn remove_pushed(
        &self,
        connection: &TargetConnection,
        pushed: &Pushed,
    ) -> Result<(), ReachError> {
        Ok(remove_pushed(connection.executor(), pushed).await?)
    }

    async fn prepare(
        &self,
        connection: &TargetConnection,
        cancel: &CancellationToken,
    ) -> Result<PreparedTarget, ReachError> {
        if let Some(prepared) = self.installed(connection, cancel).await? {
            return Ok(prepared);
        }
        let hostname = connection.hostname();
        let binary = self.own_bytes().await?;
        let own = Own {
            version: self.env.version.parse().map_err(|error| ReachError::Program {
                hostname: hostname.to_string(),
                why: format!("our own version `{}` is no version: {error}", self.env.version),
                hint: None,
            })?,
            sha256: sha256(Arc::clone(&binary)).await,
            arch: std::env::consts::ARCH.to_owned(),
        };
        let executor: &dyn Executor = connection.executor();
        let probe = probe(executor, binary.len() as u64).await.map_err(|error| match error {
            ProbeError::Exec(error) => error.into(),
            ProbeError::Nonsense { .. } => refused(hostname, error.to_string(), None),
        })?;
        let (program, pushed) = match decide(&probe, &own) {
            Decision::UseInstalled => (OsString::from(STABLE_PATH), None),
            Decision::Push { place, replaces } => {
                let before = replaces.map_or_else(|| "nothing".to_owned(), |version| version.to_string());
                let message =
                    format!("{hostname}: bringing pc-switcher {} there ({before} is installed)", own.version);
                (self.env.log)(LogLevel::Info, message);
                let pushed = push(executor, &place, probe.uid, binary.as_ref().clone()).await;
                let pushed = pushed.map_err(|error| push_failed(hostname, error))?;
                (OsString::from(&pushed.path), Some(pushed))
            }
            decision => return Err(refusal(hostname, decision)),
        };
        if !is_plain(&program) {
            let why = format!("`{}` is no path that a program of ours can lie at", program.to_string_lossy());
            return Err(refused(hostname, why, None));
        }
        let starter = Starter {
            place: Place::There(connection.channels().clone()),
            hostname: hostname.to_string(),
            user: probe.user.clone(),
            is_root: probe.uid == 0,
            program,
            sudo: "sudo".into(),
            log: Arc::clone(&self.env.log),
        };
        match self.start_agent(starter, cancel).await {
            Ok(agent) => {
                connection.executor().set_agent(Arc::clone(&agent.link) as _);
                Ok(PreparedTarget { agent, user: probe.user, pushed })
            }
            Err(error) => {
                if let Some(pushed) = &pushed {
                    let _ = remove_pushed(executor, pushed).await;
                }
                Err(error)
            }
        }
    }

    /// Starts the program that is installed there, if it is this very one and takes no password: nothing else has to be
    /// known of the machine then. An agent that has only greeted has done nothing.
    async fn installed(
        &self,
        connection: &TargetConnection,
        cancel: &CancellationToken,
    ) -> Result<Option<PreparedTarget>, ReachError> {
        let image = self.env.own_image.clone();
        let own = tokio::task::spawn_blocking(move || machine::program_digest(&image));
        let login = connection.login();
        let starter = Starter {
            place: Place::There(connection.channels().clone()),
            hostname: connection.hostname().to_string(),
            user: login.user.clone(),
            is_root: login.uid == 0,
            program: STABLE_PATH.into(),
            sudo: "sudo".into(),
            log: Arc::clone(&self.env.log),
        };
        let early = connection.take_early().filter(|_| !starter.is_root);
        let started = async {
            let greeted = match early {
                Some(greeted) => greeted,
                None => starter.start(None, cancel).await?,
            };
            adopt(greeted, (&starter.hostname, true), &self.env.version).await.map_err(ReachError::from)
        };
        // Why it did not start is found out by a probe.
        let Ok(agent) = started.await else { return Ok(None) };
        let is_own = matches!(own.await, Ok(Ok(own)) if own == agent.hello.digest);
        if !is_own || agent.hello.version != self.env.version {
            agent.process.close(CLOSING).await;
            return Ok(None);
        }
        connection.executor().set_agent(Arc::clone(&agent.link) as _);
        Ok(Some(PreparedTarget { agent, user: login.user.clone(), pushed: None }))
    }

    async fn start_agent(
        &self,
        starter: Starter,
        cancel: &CancellationToken,
    ) -> Result<StartedAgent, ReachError> {
        let greeted = starter.start(self.prompt.as_deref(), cancel).await?;
        let machine = (starter.hostname.as_str(), matches!(starter.place, Place::There(_)));
        tokio::select! {
            agent = adopt(greeted, machine, &self.env.version) => Ok(agent?),
            () = cancel.cancelled() => Err(ExecError::Cancelled.into()),
        }
    }

    async fn own_bytes(&self) -> Result<Arc<Vec<u8>>, ReachError> {
        read(&self.env.own_image).await.map(Arc::new).map_err(|error| {
            ReachError::Exec(ExecError::Failed {
                hostname: "this machine".into(),
                what: format!("read our own program `{}`", self.env.own_image.display()),
                why: error.to_string(),
            })
        })
    }

    /// Whether the program at the stable path is this very one.
    async fn is_installed(&self) -> bool {
        let place = |path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
        if matches!((place(&self.env.stable_path), place(&self.env.own_image)), (Ok(one), Ok(other)) if one == other)
        {
            return true;
        }
        let (installed, own) = tokio::join!(read(&self.env.stable_path), read(&self.env.own_image));
        matches!((installed, own), (Ok(installed), Ok(own)) if installed == own)
    }
}

async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    tokio::fs::read(path).await
}

async fn sha256(bytes: Arc<Vec<u8>>) -> String {
    tokio::task::spawn_blocking(move || digest(&bytes)).await.unwrap_or_default()
}

fn refused(hostname: &Hostname, why: String, hint: Option<String>) -> ReachError {
    ReachError::Program { hostname: hostname.to_string(), why, hint }
}

fn push_failed(hostname: &Hostname, error: PushError) -> ReachError {
    match error {
        PushError::Exec(error) => error.into(),
        other => {
            let text = other.to_string();
            let why = text.strip_prefix(&format!("{hostname}: ")).unwrap_or(&text).to_owned();
            refused(hostname, why, None)
        }
    }
}

fn refusal(hostname: &Hostname, decision: Decision) -> ReachError {
    let (why, hint) = match decision {
        Decision::RefuseNewer { installed, own } => (
            format!("pc-switcher {installed} is installed there, and this machine has the older {own}"),
            format!("install pc-switcher {installed} here, or sync from {hostname} to this machine"),
        ),
        Decision::RefuseArch { theirs, own } => (
            format!("it is a `{theirs}` machine, and this program is built for `{own}`"),
            format!("install the `{theirs}` build of the same version on {hostname}"),
        ),
        Decision::NoPlace { unfit } => (
            format!("no directory takes our program: {}", unfit.join("; ")),
            format!("make room below `/run/user` or `/tmp` on {hostname}, without `noexec`"),
        ),
        Decision::UseInstalled | Decision::Push { .. } => {
            return refused(hostname, "it is ready".into(), None);
        }
    };
    refused(hostname, why, Some(hint))
}
