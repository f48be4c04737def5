//! What a target says of itself, in one round trip.

use std::collections::HashMap;
use std::time::Duration;

use pc_switcher_contract::{Cmd, ExecError, Executor};
use semver::Version;
use thiserror::Error;

use crate::places::STABLE_PATH;

/// Prints `KEY=VALUE` lines. A place is good if a program can be written there and started.
const SCRIPT: &str = r#"stable=$1 need_kib=$2
say() { printf '%s=%s\n' "$1" "$2"; }
say arch "$(uname -m)"; say kernel "$(uname -r)"; say user "$(id -un)"; say uid "$(id -u)"; say home "$HOME"
if [ -e "$stable" ]; then
  say installed "$("$stable" --version </dev/null 2>/dev/null | head -n 1)"
  say installed_sha256 "$(sha256sum <"$stable" 2>/dev/null | cut -c 1-64)"
fi
if ! command -v sudo >/dev/null; then say sudo missing
elif sudo -n true </dev/null >/dev/null 2>&1; then say sudo free
else say sudo password; fi
for place in "$XDG_RUNTIME_DIR" "/run/user/$(id -u)" /tmp /var/tmp; do
  [ -n "$place" ] && [ -d "$place" ] && [ -w "$place" ] || continue
  free=$(df -Pk "$place" 2>/dev/null | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
  if [ "${free:-0}" -lt "$need_kib" ]; then say unfit "$place has too little space"; continue; fi
  trial=$(mktemp "$place/.pc-switcher-XXXXXXXX") || continue
  printf '#!/bin/sh\nexit 0\n' >"$trial"; chmod 700 "$trial"
  if "$trial" 2>/dev/null; then fit=1; else fit=0; fi
  rm -f "$trial"
  if [ $fit = 1 ]; then say place "$place"; break; fi
  say unfit "$place is mounted noexec"
done
say end 1
"#;

/// How a user may use sudo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SudoState {
    /// Without a password.
    Free,
    /// With a password, perhaps only for some commands, perhaps not at all.
    Password,
    /// There is no sudo.
    Missing,
}

/// The program that is installed on a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its version, `None` if it did not say one.
    pub version: Option<Version>,
    /// Its SHA-256 digest in hex, empty if it could not be read.
    pub sha256: String,
}

/// What a target says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its architecture, for example `x86_64`.
    pub arch: String,
    /// The kernel's release.
    pub kernel: String,
    /// The connection's user.
    pub user: String,
    /// That user's id.
    pub uid: u32,
    /// That user's home.
    pub home: String,
    /// What is installed at the stable path.
    pub installed: Option<Installed>,
    /// How that user may use sudo.
    pub sudo: SudoState,
    /// A directory that our binary can be pushed below and started from.
    pub place: Option<String>,
    /// Directories that would have been places, and what is wrong with them.
    pub unfit: Vec<String>,
}

/// Why a target could not be probed.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The command gave no answer.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The answer makes no sense.
    #[error("{hostname}: the probe answered nonsense: {why}")]
    Nonsense {
        /// Where.
        hostname: String,
        /// What was found.
        why: String,
    },
}

/// Returns the command that probes a target for a program of `own_bytes` bytes.
pub fn probe_command(own_bytes: u64) -> Cmd {
    Cmd::new("sh")
        .args(["-c", SCRIPT, "probe", STABLE_PATH])
        .arg((own_bytes / 1024 + 1024).to_string())
        .timeout(Duration::from_secs(60))
}

/// Probes a target.
///
/// # Errors
/// If there is no answer or a senseless one.
pub async fn probe(target: &dyn Executor, own_bytes: u64) -> Result<Probe, ProbeError> {
    let output = target.run(probe_command(own_bytes).into()).await?;
    Probe::parse(&output.stdout_text()).map_err(|why| ProbeError::Nonsense {
        hostname: target.hostname().to_string(),
        why: match output.stderr_text().trim() {
            "" => why,
            words => format!("{why}; {words}"),
        },
    })
}

impl Probe {
    /// Reads the probe's lines.
    ///
    /// # Errors
    /// If a line is missing: an answer that was cut off is never taken for a whole one.
    pub fn parse(text: &str) -> Result<Probe, String> {
        let mut values: HashMap<&str, &str> = HashMap::new();
        let mut unfit = Vec::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if key == "unfit" {
                unfit.push(value.to_owned());
            } else {
                values.insert(key, value);
            }
        }
        let need = |key: &str| {
            let value = values.get(key).filter(|value| !value.is_empty());
            value.map(|value| (*value).to_owned()).ok_or_else(|| format!("`{key}` is missing"))
        };
        need("end")?;
        let uid = need("uid")?;
        let installed = values.get("installed").map(|words| Installed {
            version: words.split_whitespace().find_map(|word| Version::parse(word).ok()),
            sha256: values.get("installed_sha256").map_or_else(String::new, |sha| (*sha).to_owned()),
        });
        Ok(Probe {
            arch: need("arch")?,
            kernel: need("kernel")?,
            user: need("user")?,
            uid: uid.parse().map_err(|_| format!("`{uid}` is no user id"))?,
            home: need("home")?,
            installed,
            sudo: match need("sudo")?.as_str() {
                "free" => SudoState::Free,
                "password" => SudoState::Password,
                "missing" => SudoState::Missing,
                other => return Err(format!("`{other}` is no state of sudo")),
            },
            place: need("place").ok(),
            unfit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "arch=x86_64\nkernel=6.8.0\nuser=alice\nuid=1000\nhome=/home/alice\n\
        installed=pc-switcher 0.2.0\ninstalled_sha256=abcd\nsudo=password\n\
        unfit=/run/user/1000 is mounted noexec\nplace=/tmp\nend=1\n";

    #[test]
    fn a_whole_answer_is_read() {
        let probe = Probe::parse(WHOLE).unwrap();
        let installed = probe.installed.unwrap();
        assert_eq!(installed.version, Some(Version::new(0, 2, 0)));
        assert_eq!(
            (probe.uid, probe.sudo, probe.place.as_deref()),
            (1000, SudoState::Password, Some("/tmp"))
        );
        assert_eq!(probe.unfit, ["/run/user/1000 is mounted noexec"]);
    }

    #[test]
    fn an_answer_that_was_cut_off_anywhere_is_no_answer() {
        for at in 0..WHOLE.len() - 2 {
            assert!(Probe::parse(&WHOLE[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_program_that_says_no_version_is_installed_all_the_same() {
        let probe = Probe::parse(&WHOLE.replace("pc-switcher 0.2.0", "")).unwrap();
        assert_eq!(probe.installed.unwrap().version, None);
    }

    #[test]
    fn the_script_runs_on_this_machine() {
        let cmd = probe_command(1 << 20);
        let output = std::process::Command::new(&cmd.program).args(&cmd.args).output().unwrap();
        let probe = Probe::parse(&String::from_utf8_lossy(&output.stdout)).unwrap();
        assert_eq!(probe.arch, std::env::consts::ARCH);
        assert!(probe.place.is_some(), "{:?}", probe.unfit);
    }
}
