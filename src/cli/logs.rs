//! `logs`: the log of one session.

use pc_switcher_contract::SessionId;

/// Show the log of a session
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Show the newest session; this is the default
    #[arg(long, conflicts_with_all = ["session", "follow"])]
    pub last: bool,
    /// Show the session with this id
    #[arg(long, value_name = "ID")]
    pub session: Option<SessionId>,
    /// Go on showing lines as they come
    #[arg(long)]
    pub follow: bool,
}
