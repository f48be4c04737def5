//! The connection to the target: one authentication, one master, many channels.

use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openssh::Session;
use pc_switcher_contract::{Cmd, ExecError, Executor, Hostname};
use pc_switcher_installer::STABLE_PATH;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::channels::Channels;
use super::ciphers::has_aes;
use super::elevate::{Greeted, Place, Starter};
use super::env::RemoteEnv;
use super::error::ReachError;
use super::master::Master;
use super::met::{self, Met};
use super::ssh_executor::SshExecutor;
use super::state::{ConnectionState, ConnectionStep};

/// How long running commands have when the connection is closed.
const CLOSING_GRACE: Duration = Duration::from_secs(2);

/// How long the answer to the first question and the start of the agent may lie apart.
const APART: Duration = Duration::from_secs(3);

/// What the other machine is asked first.
const QUESTION: &str =
    "uname -n && id -un && id -u && { grep -m 1 -E '^(flags|Features)' /proc/cpuinfo || :; }";

/// A connection to the other machine (rows D701 to D714). Dropping it ends ssh and with it everything we started there.
pub struct TargetConnection {
    typed: OsString,
    env: RemoteEnv,
    master: Master,
    channels: Channels,
    executor: SshExecutor,
    login: Login,
    early: Mutex<Option<Greeted>>,
    state: Mutex<ConnectionState>,
}

/// Who we are on the other machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Our name there.
    pub user: String,
    /// Our user id there.
    pub uid: u32,
    /// Whether the processor there knows AES, if it says.
    aes: Option<bool>,
}

impl TargetConnection {
    /// Connects to `target`, which is whatever the user's ssh understands: a name, an alias, `user@host`.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(
        target: &OsStr,
        env: &RemoteEnv,
        cancel: &CancellationToken,
    ) -> Result<TargetConnection, ReachError> {
        let mut state = ConnectionState::Disconnected;
        step(&mut state, ConnectionStep::Connect);
        let master = Master::start(target, env, cancel).await?;
        step(&mut state, ConnectionStep::Established);
        let typed = target.to_string_lossy().into_owned();
        let session = Arc::new(Session::resume_mux(master.socket().into(), None));
        let channels = Channels::new(session, env.channels, typed.clone(), Arc::clone(&env.log));
        // Nearly always it is installed and takes no password: it need not wait for the machine's name.
        let early = Starter {
            place: Place::There(channels.clone()),
            hostname: typed.clone(),
            user: String::new(),
            is_root: false,
            program: STABLE_PATH.into(),
            sudo: "sudo".into(),
            log: Arc::clone(&env.log),
        };
        let asked = tokio::select! {
            asked = both(ask_name(&channels, &typed), early.start(None, cancel)) => asked,
            () = cancel.cancelled() => Err(ExecError::Cancelled),
            why = master.lost() => Err(ExecError::Transport { hostname: typed.clone(), why }),
        };
        let ((hostname, login), early) = match asked {
            Ok(asked) => asked,
            Err(error) => {
                master.close().await;
                return Err(error.into());
            }
        };
        if let Some(file) = env.hosts.as_ref().filter(|_| env.learns) {
            met::remember(file, target, Met { aes: login.aes });
        }
        let channels = channels.renamed(&hostname);
        let executor = SshExecutor::new(hostname, channels.clone());
        Ok(Self {
            typed: target.to_owned(),
            env: env.clone(),
            master,
            channels,
            executor,
            login,
            early: Mutex::new(early),
            state: Mutex::new(state),
        })
    }

    /// Returns what the user typed.
    pub fn typed(&self) -> &OsStr {
        &self.typed
    }

    /// Returns the name that the machine gives itself.
    pub fn hostname(&self) -> &Hostname {
        self.executor.hostname()
    }

    /// Returns who we are there.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Returns the executor of this connection; clones share their commands.
    pub fn executor(&self) -> &SshExecutor {
        &self.executor
    }

    /// Takes the agent of the installed program that was started with `sudo -n` beside the first question, if it greeted. One that
    /// is not taken, or is let go of, has done nothing and ends.
    pub(super) fn take_early(&self) -> Option<Greeted> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Returns where the connection stands.
    pub fn state(&self) -> ConnectionState {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == ConnectionState::Connected && self.master.is_lost().is_some() {
            step(&mut state, ConnectionStep::Failed);
        }
        *state
    }

    /// Tries whether a new login works without a question.
    ///
    /// # Errors
    /// The last words of ssh.
    pub async fn fresh_login(&self) -> Result<(), String> {
        super::fresh::login(&self.typed, &self.env).await
    }

    /// Resolves when the connection is gone.
    pub async fn lost(&self) -> ExecError {
        ExecError::Transport { hostname: self.hostname().to_string(), why: self.master.lost().await }
    }

    /// Ends running commands and then ssh; returns within a few seconds, whatever hangs. Doing it twice is in order.
    pub async fn disconnect(&self) {
        if !self.advance(ConnectionStep::Disconnect) {
            return;
        }
        if self.master.is_lost().is_none() {
            self.executor.terminate_all(CLOSING_GRACE).await;
        }
        self.master.close().await;
        self.advance(ConnectionStep::Closed);
    }

    fn advance(&self, wanted: ConnectionStep) -> bool {
        let current = self.state();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match current.next(wanted) {
            Ok(next) => *state = next,
            Err(_) => return false,
        }
        true
    }
}

/// Waits for the machine's name, and for the agent that was started beside. That one is let go of where it keeps the question from
/// its answer, since the server may give one channel only, or comes much later.
async fn both<N, S, E>(
    asking: impl Future<Output = Result<N, ExecError>>,
    starting: impl Future<Output = Result<S, E>>,
) -> Result<(N, Option<S>), ExecError> {
    let (mut asking, mut starting) = (std::pin::pin!(asking), Box::pin(starting));
    tokio::select! {
        biased;
        asked = &mut asking => {
            let asked = asked?;
            Ok((asked, timeout(APART, starting).await.ok().and_then(Result::ok)))
        }
        started = &mut starting => match timeout(APART, &mut asking).await {
            Ok(asked) => Ok((asked?, started.ok())),
            Err(_) => {
                drop(started);
                Ok((asking.await?, None))
            }
        },
    }
}

fn step(state: &mut ConnectionState, wanted: ConnectionStep) {
    if let Ok(next) = state.next(wanted) {
        *state = next;
    }
}

/// Asks the machine for its own name, since the alias that was typed says nothing (ssh.md S43), and for ours.
async fn ask_name(channels: &Channels, typed: &str) -> Result<(Hostname, Login), ExecError> {
    let host = typed.rsplit('@').next().unwrap_or(typed);
    let provisional = host.parse().or_else(|_| "target".parse());
    let provisional = provisional.map_err(|_| ExecError::Cancelled)?;
    let asking = SshExecutor::new(provisional, channels.clone());
    let output = asking.run(Cmd::new("sh").args(["-c", QUESTION]).into()).await?;
    let failed =
        |why: String| ExecError::Failed { hostname: typed.to_owned(), what: QUESTION.to_owned(), why };
    if !output.ok() {
        return Err(failed(format!("exit {}: {}", output.code, output.stderr_text().trim())));
    }
    let text = output.stdout_text();
    let mut lines = text.trim().lines().map(str::trim);
    let (Some(name), Some(user), Some(uid)) = (lines.next(), lines.next(), lines.next()) else {
        return Err(failed(format!("it answered `{}`", text.escape_default())));
    };
    let name = name.parse().map_err(|error: pc_switcher_contract::IdError| failed(error.to_string()))?;
    let uid = uid.parse().map_err(|_| failed(format!("`{uid}` is no user id")))?;
    Ok((name, Login { user: user.to_owned(), uid, aes: lines.next().map(has_aes) }))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::channel;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_holds_the_only_channel_is_let_go_of() {
        let (held, freed) = channel::<()>();
        let asking = async {
            // The server refuses it until the agent's channel is free.
            assert!(freed.await.is_err());
            Ok("desk")
        };
        let starting = async { Ok::<_, ()>(held) };
        let (name, early) = both(asking, starting).await.unwrap();
        assert_eq!((name, early.is_none()), ("desk", true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_comes_late_or_never_is_not_waited_for() {
        let after = |seconds| async move {
            sleep(Duration::from_secs(seconds)).await;
            Ok::<_, ()>("agent")
        };
        let asked = || async { Ok("desk") };
        assert_eq!(both(asked(), after(1)).await.unwrap(), ("desk", Some("agent")));
        assert_eq!(both(asked(), after(30)).await.unwrap(), ("desk", None));
        assert_eq!(both(asked(), async { Err::<(), ()>(()) }).await.unwrap(), ("desk", None));
    }
}
