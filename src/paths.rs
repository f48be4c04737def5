//! Where everything of the unprivileged half lies: pure functions of the environment.
//!
//! The environment itself is collected once, by the entry point, and handed on as [`Env`]; nothing else reads it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use thiserror::Error;

/// The name of our directory below each base directory.
const OURS: &str = "pc-switcher";

/// The environment of one run, collected once.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// All variables.
    pub vars: BTreeMap<OsString, OsString>,
    /// The config file that the command line names.
    pub config: Option<PathBuf>,
    /// The settings of the vault that the command line names.
    pub vault_settings: Option<PathBuf>,
    /// The user's id.
    pub uid: u32,
    /// Whether standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
    /// Whether agents can be halted at a step: only in the program that the tests of two machines build.
    pub halts: bool,
}

impl Env {
    /// Returns a variable; an empty one counts as not set.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Whether colours are wanted on standard error.
    pub fn colour_on_stderr(&self) -> bool {
        self.stderr_is_terminal && self.colour()
    }

    /// Whether colours are wanted on standard output.
    pub fn colour_on_stdout(&self) -> bool {
        self.stdout_is_terminal && self.colour()
    }

    fn colour(&self) -> bool {
        self.var("NO_COLOR").is_none() && self.var("TERM") != Some(OsStr::new("dumb"))
    }

    /// Whether the test modules exist: `PC_SWITCHER_TEST_MODULES=1`.
    pub fn test_modules(&self) -> bool {
        self.var("PC_SWITCHER_TEST_MODULES") == Some(OsStr::new("1"))
    }

    /// Returns a base directory: the variable if it is an absolute path, else the place below the home.
    fn base(&self, variable: &'static str, below_home: &str) -> Result<PathBuf, NoHome> {
        if let Some(base) = self.absolute(variable) {
            return Ok(base);
        }
        self.absolute("HOME").map(|home| home.join(below_home)).ok_or(NoHome { variable })
    }

    /// Returns a variable that holds an absolute path; relative ones are ignored, as the XDG rules say.
    fn absolute(&self, variable: &str) -> Option<PathBuf> {
        self.var(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

/// The environment names no place for our files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("neither `{variable}` nor `HOME` is set to an absolute path")]
pub struct NoHome {
    /// The variable that was looked for first.
    pub variable: &'static str,
}

/// Returns the config file that is read when no other is named.
pub fn config_file(env: &Env) -> Result<PathBuf, NoHome> {
    Ok(env.base("XDG_CONFIG_HOME", ".config")?.join(OURS).join("config.toml"))
}

/// Returns the settings of the vault, where `bt` has them.
pub fn vault_settings(env: &Env) -> Result<PathBuf, NoHome> {
    if let Some(named) = &env.vault_settings {
        return Ok(named.clone());
    }
    Ok(env.base("XDG_CONFIG_HOME", ".config")?.join("bt.toml"))
}

/// Returns the user's home, if the environment names one.
pub fn home(env: &Env) -> Option<PathBuf> {
    env.absolute("HOME")
}

/// Returns the directory of the user's state: logs and history.
pub fn state_dir(env: &Env) -> Result<PathBuf, NoHome> {
    Ok(env.base("XDG_STATE_HOME", ".local/state")?.join(OURS))
}

/// Returns the directory of the log files, one per session.
pub fn log_dir(env: &Env) -> Result<PathBuf, NoHome> {
    Ok(state_dir(env)?.join("logs"))
}

/// Returns the database of past sessions.
pub fn history_db(env: &Env) -> Result<PathBuf, NoHome> {
    Ok(state_dir(env)?.join("history.db"))
}

/// Returns the file of what is remembered of machines that were met.
pub fn hosts_file(env: &Env) -> Result<PathBuf, NoHome> {
    Ok(state_dir(env)?.join("hosts.json"))
}

/// Returns the directory of what lives no longer than a login: the front's lock, sockets.
pub fn runtime_dir(env: &Env) -> PathBuf {
    env.absolute("XDG_RUNTIME_DIR")
        .unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", env.uid)))
        .join(OURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> Env {
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Env { vars, uid: 1000, ..Env::default() }
    }

    #[test]
    fn the_xdg_variables_come_before_the_home() {
        let env = env(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/c"), ("XDG_RUNTIME_DIR", "/r")]);
        assert_eq!(config_file(&env).unwrap(), PathBuf::from("/c/pc-switcher/config.toml"));
        assert_eq!(state_dir(&env).unwrap(), PathBuf::from("/home/a/.local/state/pc-switcher"));
        assert_eq!(log_dir(&env).unwrap(), PathBuf::from("/home/a/.local/state/pc-switcher/logs"));
        assert_eq!(history_db(&env).unwrap(), PathBuf::from("/home/a/.local/state/pc-switcher/history.db"));
        assert_eq!(runtime_dir(&env), PathBuf::from("/r/pc-switcher"));
    }

    #[test]
    fn relative_and_empty_variables_are_ignored() {
        let env = env(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "c"), ("XDG_STATE_HOME", "")]);
        assert_eq!(config_file(&env).unwrap(), PathBuf::from("/home/a/.config/pc-switcher/config.toml"));
        assert_eq!(state_dir(&env).unwrap(), PathBuf::from("/home/a/.local/state/pc-switcher"));
        assert_eq!(runtime_dir(&env), PathBuf::from("/run/user/1000/pc-switcher"));
    }

    #[test]
    fn without_a_home_the_error_names_both_variables() {
        let error = config_file(&env(&[])).unwrap_err();
        assert_eq!(error.to_string(), "neither `XDG_CONFIG_HOME` nor `HOME` is set to an absolute path");
    }

    #[test]
    fn no_color_and_a_pipe_switch_colours_off() {
        let mut terminal = env(&[("TERM", "xterm")]);
        terminal.stderr_is_terminal = true;
        assert!(terminal.colour_on_stderr());
        terminal.vars.insert("NO_COLOR".into(), "1".into());
        assert!(!terminal.colour_on_stderr());
        assert!(!env(&[("TERM", "xterm")]).colour_on_stderr());
    }
}
