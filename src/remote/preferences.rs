//! What the user's own ssh configuration leaves to us, asked of ssh itself. Nothing is contacted for it.

use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::ciphers::{Ciphers, has_aes};
use super::env::RemoteEnv;
use super::met::{self, Met};
use super::ssh_options::config_value;

/// What is left to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Preferences {
    /// What is known of the ciphers.
    pub(super) ciphers: Ciphers,
    /// Whether the configuration leaves the exchange of keys to us.
    pub(super) any_exchange: bool,
}

/// What was found out for one target, once for all copies of an environment.
#[derive(Clone, Default)]
pub struct Known(Arc<OnceCell<(OsString, Preferences)>>);

/// Returns what is left to us in connections to `target`.
pub(super) async fn preferences(target: &OsStr, env: &RemoteEnv) -> Preferences {
    let known = env.preferences.0.get_or_init(async || (target.to_owned(), ask(target, env).await)).await;
    match known.0 == target {
        true => known.1,
        false => ask(target, env).await,
    }
}

/// Compares what ssh makes of the user's configuration with what it does without any.
async fn ask(target: &OsStr, env: &RemoteEnv) -> Preferences {
    let dump = async |options: &[&OsStr]| {
        let mut command = Command::new(&env.ssh);
        command.args(options).arg("-G").arg("--").arg(target);
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = timeout(Duration::from_secs(10), command.output()).await.ok()?.ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let users: Vec<&OsStr> = env.ssh_options.iter().map(AsRef::as_ref).collect();
    let plain = ["-F", "/dev/null"].map(OsStr::new);
    let (Some(theirs), Some(default)) = tokio::join!(dump(&users), dump(&plain)) else {
        return Preferences::default();
    };
    let is_left = |key| {
        let value = config_value(&theirs, key);
        value.is_some() && value == config_value(&default, key)
    };
    let cpuinfo = tokio::fs::read_to_string("/proc/cpuinfo").await.unwrap_or_default();
    let Met { aes: theirs } = env.hosts.as_ref().map(|file| met::recall(file, target)).unwrap_or_default();
    Preferences {
        ciphers: Ciphers { is_left: is_left("ciphers"), ours: has_aes(&cpuinfo), theirs },
        any_exchange: is_left("kexalgorithms"),
    }
}
