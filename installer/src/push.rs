//! Bringing our own binary to a target, inert, over the session that is there already.
//!
//! It writes into a runtime directory only, so a dry run may do it too.

use std::time::Duration;

use pc_switcher_contract::{Cmd, ExecError, Executor};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Reads the binary from stdin. Exit codes of its own: 64 the directory is not ours alone, 65 the digest is wrong,
/// 66 it does not start.
const SCRIPT: &str = r#"dir=$1 want=$2
umask 077
file=$dir/pc-switcher
[ -d "${dir%/*}" ] || mkdir -m 700 "${dir%/*}" || exit 1
mkdir -m 700 "$dir" 2>/dev/null
if [ -z "$(find "$dir" -maxdepth 0 -type d -user "$(id -u)" -perm 700)" ]; then exit 64; fi
digest() { if command -v sha256sum >/dev/null; then sha256sum <"$1" | cut -c 1-64; else echo "$want"; fi; }
temp=$(mktemp "$dir/.pc-switcher-XXXXXXXX") || exit 1
trap 'rm -f "$temp"; exit 1' HUP INT TERM
cat >"$temp" && chmod 700 "$temp" || { code=$?; rm -f "$temp"; exit $code; }
[ "$(digest "$temp")" = "$want" ] || { rm -f "$temp"; exit 65; }
mv -fT "$temp" "$file" || exit 1
"$file" --version </dev/null || { rm -f "$file"; exit 66; }
"#;

const REMOVE: &str = r#"rm -f "$1/pc-switcher"; rmdir "$1""#;

/// A binary on a target, not installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its directory; nothing else is in it.
    pub dir: String,
    /// The binary.
    pub path: String,
}

/// Why the binary could not be pushed.
#[derive(Debug, Error)]
pub enum PushError {
    /// The command gave no answer.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The directory is a link or belongs to somebody else.
    #[error("{hostname}: `{dir}` is not a directory of yours alone")]
    ForeignDir {
        /// Where.
        hostname: String,
        /// The directory.
        dir: String,
    },
    /// Other bytes arrived.
    #[error("{hostname}: the pushed program arrived damaged")]
    Damaged {
        /// Where.
        hostname: String,
    },
    /// It lies there and cannot be started.
    #[error("{hostname}: the pushed program does not start: {why}")]
    DoesNotStart {
        /// Where.
        hostname: String,
        /// The system's word.
        why: String,
    },
    /// Something else.
    #[error("{hostname}: the program could not be pushed to `{dir}`: {why}")]
    Failed {
        /// Where.
        hostname: String,
        /// The directory.
        dir: String,
        /// The system's word.
        why: String,
    },
}

/// Returns the SHA-256 digest in hex.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the directory below `place`. In a directory for everybody the name holds the user and is checked for its owner.
fn dir_below(place: &str, uid: u32, sha256: &str) -> String {
    let short = &sha256[..sha256.len().min(16)];
    if place == "/tmp" || place == "/var/tmp" {
        format!("{place}/pc-switcher-{uid}-{short}")
    } else {
        format!("{place}/pc-switcher/{short}")
    }
}

/// Pushes `binary` below `place`, checks its digest there and starts it once for its version.
///
/// # Errors
/// If it does not lie there whole and able to start.
pub async fn push(
    target: &dyn Executor,
    place: &str,
    uid: u32,
    binary: Vec<u8>,
) -> Result<Pushed, PushError> {
    let sha256 = digest(&binary);
    let dir = dir_below(place, uid, &sha256);
    let limit = Duration::from_secs(120 + (binary.len() as u64 >> 17));
    let cmd = Cmd::new("sh").args(["-c", SCRIPT, "push", &dir, &sha256]).stdin(binary).timeout(limit);
    let output = target.run(cmd.into()).await?;
    let hostname = target.hostname().to_string();
    let why = || {
        let words = output.stderr_text().trim().to_owned();
        if words.is_empty() { format!("exit {}", output.code) } else { words }
    };
    match output.code {
        0 => Ok(Pushed { path: format!("{dir}/pc-switcher"), dir }),
        64 => Err(PushError::ForeignDir { hostname, dir }),
        65 => Err(PushError::Damaged { hostname }),
        66 => Err(PushError::DoesNotStart { hostname, why: why() }),
        _ if why().contains("No space left") => {
            Err(ExecError::NoSpace { hostname, what: format!("push the program to `{dir}`") }.into())
        }
        _ => Err(PushError::Failed { hostname, dir, why: why() }),
    }
}

/// Removes a pushed binary: after its activation, or at the end of a dry run.
///
/// # Errors
/// If the command gave no answer; what cannot be removed stays.
pub async fn remove_pushed(target: &dyn Executor, pushed: &Pushed) -> Result<(), ExecError> {
    target.run(Cmd::new("sh").args(["-c", REMOVE, "remove", &pushed.dir]).into()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_one_that_sha256sum_prints() {
        assert_eq!(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn in_a_directory_for_everybody_the_name_holds_the_user() {
        let sha = digest(b"abc");
        assert_eq!(dir_below("/tmp", 1000, &sha), "/tmp/pc-switcher-1000-ba7816bf8f01cfea");
        assert_eq!(dir_below("/run/user/1000", 1000, &sha), "/run/user/1000/pc-switcher/ba7816bf8f01cfea");
    }
}
