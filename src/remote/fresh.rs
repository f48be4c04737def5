//! A new login, beside the connection that is there: what the next sync will need.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::env::RemoteEnv;
use super::launch;
use super::preferences::preferences;

/// How long it may take; longer, and somebody is asked to touch or type something.
const LIMIT: Duration = Duration::from_secs(15);

/// An exchange of keys that takes a tenth of the time of the default one; the others stay allowed.
const QUICK_EXCHANGE: &str = "KexAlgorithms=^curve25519-sha256";

/// Logs in to `target` anew, over no shared connection, and asks nobody.
///
/// # Errors
/// The last words of ssh.
pub(super) async fn login(target: &OsStr, env: &RemoteEnv) -> Result<(), String> {
    let mut command = Command::new(&env.ssh);
    command.args(&env.ssh_options);
    for option in
        ["ControlMaster=no", "ControlPath=none", "BatchMode=yes", "ConnectTimeout=10", "LogLevel=ERROR"]
    {
        command.arg("-o").arg(option);
    }
    if preferences(target, env).await.any_exchange {
        // Nothing is sent over it that a later computer could be wanted for.
        command.args(["-o", QUICK_EXCHANGE]);
    }
    command.args(["-n", "-T", "-x", "--"]).arg(target).arg("true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    launch::deaf_and_mortal(&mut command);
    let child = launch::spawn(command).map_err(|error| format!("ssh cannot be started: {error}"))?;
    let output = match timeout(LIMIT, child.wait_with_output()).await {
        Ok(output) => output.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no login within {} s", LIMIT.as_secs())),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
    Err(last.unwrap_or("ssh said nothing").to_owned())
}
