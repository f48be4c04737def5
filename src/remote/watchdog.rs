//! The small `sh` watchdog under which every command runs, on both machines.
//!
//! Invariant: when the watchdog's stdin ends, the command's whole process group ends (TERM, then KILL), and it ends too
//! when its leader does or when its time is over. Nothing of the command passes through the login shell: that shell sees
//! one fixed line without quotes inside; argv and stdin follow on stdin, counted, so a broken connection can neither
//! cut an argument nor end the command's input early. Facts: ssh.md S9 to S12, S16, S18.
//!
//! Wire: the specification (as long as the line says), the command's stdin (as long as the specification says), a
//! newline, then the words `TERM` or `KILL`, a line each, until the end of the stream.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// What the watchdog says first, on both outputs; whatever a login shell prints before it is skipped.
pub(super) const READY: &[u8] = b"pc-switcher-ready\n";

/// What stands at the end of stderr when the program does not exist.
pub(super) const NO_PROGRAM: &[u8] = b"pc-switcher-no-such-program\n";

/// How long the watchdog waits between TERM and KILL when its stdin ends.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Reads the specification and runs it in a session of its own. It is no member of that session's group, so it can
/// report the exit code after the group was killed. No `'`, `!` or line break: every login shell must leave it alone.
const LAUNCHER: &str = concat!(
    "exec 4>&1 6>&2 2>/dev/null; echo pc-switcher-ready; echo pc-switcher-ready >&6; ",
    r#"code=$(setsid sh -c "eval \"\$(dd bs=\$1 count=1 iflag=fullblock)\"" sh "$1" 5>&1 >&4 4>&-); "#,
    r#"exit "${code:-$?}""#
);

/// Leader of the group: `$$` is its id. File descriptors: 3 our stdin, 5 the exit code, 6 the command's stderr.
const HEAD: &str = r#"export LC_ALL=C.UTF-8
exec 3<&0
"#;

const BODY: &str = r#"if ! command -v "$1" >/dev/null; then
  echo pc-switcher-no-such-program >&6; echo 127 >&5; exit
fi
trap : TERM
( trap '' TERM; exec 3<&- 5>&- 6>&-; sleep $limit; kill -s KILL -- -$$ ) </dev/null >/dev/null &
feed() {
  [ $blocks -eq 0 ] || dd bs=262144 count=$blocks iflag=fullblock <&3 || return 1
  [ $rest -eq 0 ] || dd bs=$rest count=1 iflag=fullblock <&3 || return 1
  IFS= read -r go <&3
}
{
  trap '' TERM; exec 5>&- 6>&-
  if feed; then
    exec >/dev/null
    while read -r word <&3; do
      case $word in TERM|KILL) kill -s $word -- -$$ ;; esac
    done
  else
    cat <&3 >/dev/null
  fi
  kill -s TERM -- -$$; sleep $grace; kill -s KILL -- -$$
} | {
  trap : TERM
  ( trap - TERM; exec 2>&6 3<&- 5>&- 6>&-; exec "$@" )
  echo $? >&5
  kill -s KILL -- -$$
}
"#;

const BLOCK: u64 = 256 << 10;

/// Returns the line for the login shell of another machine.
pub(super) fn login_line(spec: &[u8]) -> String {
    format!("exec sh -c '{LAUNCHER}' pc-switcher {}", spec.len())
}

/// Returns the arguments of `sh` on this machine.
pub(super) fn launcher_args(spec: &[u8]) -> [String; 4] {
    ["-c".into(), LAUNCHER.into(), "pc-switcher".into(), spec.len().to_string()]
}

/// Returns the specification of a command that reads `input_len` bytes and may run for `limit`; `None` if an argument
/// holds a NUL byte.
pub(super) fn specification<'a>(
    program: &'a OsString,
    args: &'a [OsString],
    input_len: u64,
    limit: Duration,
) -> Option<Vec<u8>> {
    let mut spec = HEAD.as_bytes().to_vec();
    spec.extend_from_slice(b"set --");
    for word in std::iter::once(program).chain(args) {
        if word.as_bytes().contains(&0) {
            return None;
        }
        spec.push(b' ');
        spec.extend_from_slice(&quote(word));
    }
    // The front ends a late command itself; this limit is for the case that the front cannot be heard any more.
    let limit = limit.as_secs().saturating_add(10).min(i32::MAX as u64);
    let (blocks, rest, grace) = (input_len / BLOCK, input_len % BLOCK, GRACE.as_secs());
    spec.extend_from_slice(format!("\nlimit={limit} blocks={blocks} rest={rest} grace={grace}\n").as_bytes());
    spec.extend_from_slice(BODY.as_bytes());
    Some(spec)
}

/// Quotes a word for a POSIX shell: nothing in it has a meaning any more.
pub(super) fn quote(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    #[test]
    fn the_line_for_the_login_shell_has_one_pair_of_quotes_and_no_bang() {
        let line = login_line(b"12345");
        assert_eq!(line.matches('\'').count(), 2);
        assert!(!line.contains(['!', '\n']));
        assert!(line.ends_with(" pc-switcher 5"));
    }

    #[test]
    fn an_argument_with_a_nul_byte_is_refused() {
        let args = [OsString::from_vec(vec![b'a', 0])];
        assert!(specification(&"echo".into(), &args, 0, Duration::ZERO).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_back_what_was_quoted(word in proptest::collection::vec(1_u8.., 0..64)) {
            let mut script = b"printf %s ".to_vec();
            script.extend_from_slice(&quote(OsStr::from_bytes(&word)));
            let out = Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
            prop_assert_eq!(out.stdout, word);
        }
    }
}
