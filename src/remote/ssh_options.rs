//! The options we add to the user's own ssh configuration; pure.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::ciphers::Ciphers;

/// What decides over the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// Whether a person can be asked.
    pub(super) has_terminal: bool,
    /// What is known of the ciphers.
    pub(super) ciphers: Ciphers,
}

/// Returns the arguments of a master for `target`, which is never read as an option.
pub(super) fn master_args(socket: &Path, target: &OsStr, circumstances: Circumstances) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["-M", "-N", "-T", "-x", "-a"].map(OsString::from).to_vec();
    let mut option = |text: &OsStr| args.extend([OsString::from("-o"), text.to_owned()]);
    let mut path = OsString::from("ControlPath=");
    path.push(quoted_for_ssh(socket));
    option(&path);
    for text in [
        "ControlMaster=yes",
        "ControlPersist=no",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
        "ConnectTimeout=15",
        "RequestTTY=no",
        "RemoteCommand=none",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
    ] {
        option(OsStr::new(text));
    }
    if let Some(text) = circumstances.ciphers.option() {
        option(OsStr::new(text));
    }
    if !circumstances.has_terminal {
        option(OsStr::new("BatchMode=yes"));
    }
    args.extend([OsString::from("--"), target.to_owned()]);
    args
}

/// Percent signs are tokens to ssh, and blanks end a word.
fn quoted_for_ssh(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = vec![b'"'];
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' => bytes.extend_from_slice(b"%%"),
            b'"' | b'\\' => bytes.extend_from_slice(&[b'\\', *byte]),
            other => bytes.push(*other),
        }
    }
    bytes.push(b'"');
    OsString::from_vec(bytes)
}

/// Returns the value of `key` in the output of `ssh -G`.
pub(super) fn config_value<'a>(dump: &'a str, key: &str) -> Option<&'a str> {
    dump.lines()
        .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_looks_like_an_option_stays_a_target() {
        let circumstances = Circumstances { has_terminal: true, ciphers: Ciphers::default() };
        let args = master_args(Path::new("/run/x/s"), OsStr::new("-oProxyCommand=evil"), circumstances);
        assert_eq!(args[args.len() - 2], "--");
        let starts = |word: &str| args.iter().any(|arg| arg.to_string_lossy().starts_with(word));
        assert!(!starts("BatchMode") && !starts("Ciphers"));
    }

    #[test]
    fn without_a_terminal_ssh_asks_nothing() {
        let ciphers = Ciphers { is_left: true, ours: true, theirs: None };
        let circumstances = Circumstances { has_terminal: false, ciphers };
        let args = master_args(Path::new("/run/a %b/s"), OsStr::new("desk"), circumstances);
        assert!(args.iter().any(|arg| arg == "BatchMode=yes"));
        assert!(args.iter().any(|arg| Some(arg.as_os_str()) == ciphers.option().map(OsStr::new)));
        assert!(args.iter().any(|arg| arg == "ControlPath=\"/run/a %%b/s\""));
    }

    #[test]
    fn a_value_of_the_configuration_dump_is_found_by_its_whole_key() {
        assert_eq!(config_value("cipher x\nciphers a,b\nuser me", "ciphers"), Some("a,b"));
        assert_eq!(config_value("ciphersx a", "ciphers"), None);
    }
}
