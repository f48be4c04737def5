//! Putting a file on the target so that it appears whole or not at all.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use pc_switcher_contract::{Cmd, ExecError, Hostname, Output, SendFile};

/// Reads the file from stdin. The watchdog ends the group before it ends the input, so a half file is never renamed.
const SCRIPT: &str = r#"path=$1 mode=$2 owner=$3
umask 077
case $path in */*) dir=${path%/*}/ ;; *) dir=./ ;; esac
name=${path##*/}
[ -n "$name" ] || { echo "it has no name" >&2; exit 1; }
[ ! -d "$path" ] || [ -L "$path" ] || { echo "a directory stands there" >&2; exit 1; }
temp=$(mktemp "$dir.$name.pc-switcher-XXXXXXXX") || exit 1
trap 'rm -f "$temp"; exit 1' HUP INT TERM
if cat >"$temp" && { [ -z "$owner" ] || chown "$owner" "$temp"; } && chmod "$mode" "$temp" &&
   { sync "$temp" 2>/dev/null || sync; } && mv -fT -- "$temp" "$path"; then
  sync "$dir" 2>/dev/null || :
else
  code=$?; rm -f "$temp"; exit $code
fi
"#;

/// Returns the command that takes `len` bytes on stdin and puts them at their place.
pub(super) fn command(file: &SendFile, len: u64) -> Cmd {
    let owner = file.owner.map_or_else(String::new, |(user, group)| format!("{user}:{group}"));
    let path: OsString = std::ffi::OsStr::from_bytes(file.remote.as_bytes()).to_owned();
    Cmd::new("sh")
        .args(["-c", SCRIPT, "send-file"])
        .arg(path)
        .arg(format!("{:04o}", file.mode & 0o7777))
        .arg(owner)
        // A megabyte in eight seconds is slower than any line that a sync makes sense on.
        .timeout(Duration::from_secs(120 + (len >> 17)))
}

/// Turns the command's end into an answer.
///
/// # Errors
/// If it did not end well.
pub(super) fn judge(output: &Output, hostname: &Hostname, what: &str) -> Result<(), ExecError> {
    if output.ok() {
        return Ok(());
    }
    let (hostname, what) = (hostname.to_string(), what.to_owned());
    let why = output.stderr_text().trim().to_owned();
    if why.contains("No space left") || why.contains("quota exceeded") {
        return Err(ExecError::NoSpace { hostname, what });
    }
    let why = if why.is_empty() { format!("exit {}", output.code) } else { why };
    Err(ExecError::Failed { hostname, what, why })
}
