//! The ssh master process: started on the user's terminal, watched, ended.
//!
//! The user's own configuration, agent, host-key policy and prompts hold; only [`super::ssh_options`] is added. ssh logs
//! into a pipe of ours; prompts use the terminal itself, and so does what it shows on stderr (a banner, the wish for
//! a touch of a hardware key). Why a master of our own: docs/adr/0003-ssh-master-of-our-own.md.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openssh::Session;
use pc_switcher_contract::LogLevel;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::diagnose::diagnose;
use super::env::{Log, RemoteEnv};
use super::error::ConnectError;
use super::preferences::{Preferences, preferences};
use super::ssh_options::{Circumstances, master_args};
use super::terminal::TerminalSettings;
use super::{channel::shell_code, launch};

/// ssh appends a random suffix of 17 bytes to the socket's name, and a socket's path has at most 107.
const LONGEST_SOCKET: usize = 88;

/// Without a person at the terminal nothing takes longer; with one, typing may.
const UNATTENDED_LIMIT: Duration = Duration::from_secs(60);

/// How long ssh has to end after TERM.
const TERM_GRACE: Duration = Duration::from_secs(3);

/// Words of ssh that are kept for a diagnosis.
const KEPT_LINES: usize = 200;

/// A running ssh master. Dropping it ends the process.
pub(super) struct Master {
    socket: PathBuf,
    gone: watch::Receiver<Option<String>>,
    end: mpsc::Sender<()>,
    _dir: TempDir,
}

impl Master {
    /// Connects and authenticates; returns when channels can be opened.
    ///
    /// # Errors
    /// Why there is no connection; [`ConnectError::Cancelled`] if `cancel` was first.
    pub(super) async fn start(
        target: &OsStr,
        env: &RemoteEnv,
        cancel: &CancellationToken,
    ) -> Result<Master, ConnectError> {
        let host = target.to_string_lossy().into_owned();
        let failed = |why: String| ConnectError::Ssh { host: host.clone(), why };
        let dir =
            socket_dir(env).map_err(|error| failed(format!("cannot make a socket directory: {error}")))?;
        let socket = dir.path().join("s");
        let Preferences { ciphers, .. } = tokio::select! {
            known = preferences(target, env) => known,
            () = cancel.cancelled() => return Err(ConnectError::Cancelled),
        };
        let circumstances = Circumstances { has_terminal: env.has_terminal, ciphers };
        let mut command = Command::new(&env.ssh);
        command.args(&env.ssh_options).args(["-E", "/dev/stdout"]);
        command.args(master_args(&socket, target, circumstances));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command.stderr(if env.has_terminal { Stdio::inherit() } else { Stdio::piped() });
        launch::deaf_and_mortal(&mut command);

        let settings = TerminalSettings::save();
        let mut child = launch::spawn(command)
            .map_err(|error| failed(format!("`{}` cannot be started: {error}", env.ssh.to_string_lossy())))?;
        let words = Words { kept: Arc::default(), log: Arc::clone(&env.log), host: host.clone() };
        let readers = [
            child.stdout.take().map(|pipe| words.clone().read(pipe)),
            child.stderr.take().map(|pipe| words.clone().read(pipe)),
        ];
        let waited = tokio::select! {
            () = ready(&socket) => Ok(()),
            status = child.wait() => Err(Some(status)),
            () = cancel.cancelled() => Err(None),
            () = sleep(UNATTENDED_LIMIT), if !env.has_terminal => {
                words.keep("Connection timed out".into());
                Err(Some(Ok(end(&mut child).await)))
            }
        };
        match waited {
            Ok(()) => {}
            Err(None) => {
                end(&mut child).await;
                return Err(ConnectError::Cancelled);
            }
            Err(Some(_)) => {
                // A proxy that outlives ssh may hold the pipe open.
                for reader in readers.into_iter().flatten() {
                    let _ = timeout(Duration::from_secs(1), reader).await;
                }
                return Err(diagnose(&host, &words.all()));
            }
        }
        drop(settings);
        let (gone_in, gone) = watch::channel(None);
        let (end, ending) = mpsc::channel(1);
        tokio::spawn(watch_over(child, ending, gone_in, words));
        Ok(Master { socket, gone, end, _dir: dir })
    }

    /// Returns the path of the control socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Resolves when the process is gone, to its last words.
    pub(super) async fn lost(&self) -> String {
        let mut gone = self.gone.clone();
        match gone.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            _ => "ssh is not watched any more".into(),
        }
    }

    /// Returns the last words, if the process is gone.
    pub(super) fn is_lost(&self) -> Option<String> {
        self.gone.borrow().clone()
    }

    /// Ends the process, within a few seconds.
    pub(super) async fn close(&self) {
        let _ = self.end.try_send(());
        self.lost().await;
    }
}

/// What ssh says: kept for a diagnosis and passed on to the log.
#[derive(Clone)]
struct Words {
    kept: Arc<Mutex<Vec<String>>>,
    log: Log,
    host: String,
}

impl Words {
    fn keep(&self, line: String) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LINES {
            kept.remove(0);
        }
        kept.push(line);
    }

    fn all(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last(&self) -> Option<String> {
        self.all().iter().rev().map(|line| line.trim().to_owned()).find(|line| !line.is_empty())
    }

    fn read(self, pipe: impl AsyncRead + Send + Unpin + 'static) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !line.is_empty() {
                    (self.log)(LogLevel::Full, format!("`{}`: ssh: {line}", self.host));
                    self.keep(line);
                }
            }
        })
    }
}

fn socket_dir(env: &RemoteEnv) -> std::io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("ssh-").rand_bytes(6);
    if let Some(runtime) = &env.runtime_dir {
        let ours = runtime.join("pc-switcher");
        std::fs::create_dir_all(&ours)?;
        let dir = builder.tempdir_in(&ours)?;
        if dir.path().as_os_str().len() + 2 <= LONGEST_SOCKET {
            return Ok(dir);
        }
    }
    builder.tempdir_in(&env.temp_dir)
}

/// Resolves when the master answers on its socket.
async fn ready(socket: &Path) {
    let session = Session::resume_mux(socket.into(), None);
    loop {
        if socket.exists() && session.check().await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(15)).await;
    }
}

/// Ends ssh: TERM first, so that a prompt can put the terminal's echo back.
async fn end(child: &mut Child) -> std::process::ExitStatus {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
        let _ = kill_process(pid, Signal::TERM);
    }
    match timeout(TERM_GRACE, child.wait()).await {
        Ok(Ok(status)) => status,
        _ => {
            let _ = child.start_kill();
            child.wait().await.unwrap_or_default()
        }
    }
}

/// Waits for the end of ssh or the wish for it; a dropped [`Master`] is such a wish.
async fn watch_over(
    mut child: Child,
    mut ending: mpsc::Receiver<()>,
    gone: watch::Sender<Option<String>>,
    words: Words,
) {
    let status = tokio::select! {
        status = child.wait() => status.ok(),
        _ = ending.recv() => {
            end(&mut child).await;
            gone.send_replace(Some("it was closed".into()));
            return;
        }
    };
    // Its last line may still be on the way.
    sleep(Duration::from_millis(50)).await;
    let code = status.map_or(-1, shell_code);
    let why = words.last().unwrap_or_else(|| format!("ssh ended with exit code {code}"));
    gone.send_replace(Some(why));
}
