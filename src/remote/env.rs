//! What this part of the program may know of its surroundings; filled in by the command line front.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pc_switcher_contract::LogLevel;

use super::preferences::Known;

/// Where lines for the log go; the text names its machine.
pub type Log = Arc<dyn Fn(LogLevel, String) + Send + Sync>;

/// The surroundings of a run.
#[derive(Clone)]
pub struct RemoteEnv {
    /// The user's runtime directory, if there is one.
    pub runtime_dir: Option<PathBuf>,
    /// Where temporary directories may be made.
    pub temp_dir: PathBuf,
    /// Our user id.
    pub uid: u32,
    /// Our login name.
    pub user: String,
    /// Whether a person can be asked: a terminal on stdin and stderr.
    pub has_terminal: bool,
    /// The path of the file that we run from.
    pub own_exe: PathBuf,
    /// The bytes that we run from, even if that file was replaced meanwhile.
    pub own_image: PathBuf,
    /// Our version.
    pub version: String,
    /// Where an installed program lies.
    pub stable_path: PathBuf,
    /// The ssh client.
    pub ssh: OsString,
    /// Options for the ssh client that stand before ours; for tests.
    pub ssh_options: Vec<OsString>,
    /// Channels at a time.
    pub channels: usize,
    /// Where is kept what is remembered of machines that were met; nothing is remembered without it.
    pub hosts: Option<PathBuf>,
    /// Whether what is new of them may be written there.
    pub learns: bool,
    /// What was found out about the ssh configuration.
    pub preferences: Known,
    /// The log.
    pub log: Log,
}

impl RemoteEnv {
    /// Makes surroundings with the usual places; `own_exe` is what `/proc/self/exe` points to.
    pub fn new(
        uid: u32,
        user: impl Into<String>,
        own_exe: impl Into<PathBuf>,
        version: impl Into<String>,
    ) -> Self {
        Self {
            runtime_dir: None,
            temp_dir: "/tmp".into(),
            uid,
            user: user.into(),
            has_terminal: false,
            own_exe: own_exe.into(),
            own_image: "/proc/self/exe".into(),
            version: version.into(),
            stable_path: Path::new(pc_switcher_installer::STABLE_PATH).to_owned(),
            ssh: "ssh".into(),
            ssh_options: Vec::new(),
            channels: super::channels::CHANNELS,
            hosts: None,
            learns: false,
            preferences: Known::default(),
            log: Arc::new(|_, _| {}),
        }
    }
}
