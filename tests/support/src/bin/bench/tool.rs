//! The two tools, as a person would call them.

use pc_switcher_testkit::lab::Cmd;

use super::{LIMIT, figures::Case};

/// Where rsync copies to.
pub const COPY: &str = "/srv/copy";

/// What pc-switcher leaves alone in this home, so that both have the same work.
const EXCLUDES: [&str; 3] = ["--exclude=.ssh", "--exclude=.local/state/pc-switcher", "--exclude=.cache"];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    PcSwitcher,
    Rsync,
}

impl Tool {
    /// Returns what alice types on the laptop.
    pub fn command(self, case: Case) -> Cmd {
        let cmd = match (self, case) {
            (Self::PcSwitcher, Case::First) => {
                Cmd::new("pc-switcher").args(["sync", "desk", "--allow-first-sync"])
            }
            (Self::PcSwitcher, _) => Cmd::new("pc-switcher").args(["sync", "desk"]),
            // What somebody who knows would take for an image.
            (Self::Rsync, Case::Image) => rsync(&["--delete", "--inplace"], COPY),
            (Self::Rsync, _) => rsync(&["--delete"], COPY),
        };
        cmd.as_alice().timeout(LIMIT)
    }

    /// Returns the start of the name of the program whose memory counts.
    pub fn program(self) -> &'static str {
        match self {
            Self::PcSwitcher => "pc-switcher",
            Self::Rsync => "rsync",
        }
    }

    /// Returns the command that prints what differs between the home and this tool's copy of it, directory times apart:
    /// what a machine writes into its own directories moves them.
    pub fn check(self) -> Cmd {
        let copy = if self == Self::PcSwitcher { "/home" } else { COPY };
        rsync(&["--delete", "-n", "-i", "--omit-dir-times"], copy).as_alice().timeout(LIMIT)
    }
}

/// Root here and there, for owners and attributes; the connection is alice's own.
fn rsync(options: &[&str], copy: &str) -> Cmd {
    Cmd::new("sudo")
        .args(["rsync", "-aHAXS", "--numeric-ids", "-e", "sudo -u alice ssh", "--rsync-path=sudo rsync"])
        .args(options.iter().copied())
        .args(EXCLUDES)
        .arg("/home/")
        .arg(format!("desk:{copy}/"))
}
