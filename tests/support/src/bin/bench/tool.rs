//! The tools, as a person would call them.

use clap::ValueEnum;
use pc_switcher_testkit::lab::Cmd;

use super::{LIMIT, case::Case};

/// Where rsync copies to.
pub const COPY: &str = "/srv/copy";
/// Where it copies an image to as it copies everything else.
pub const WHOLE: &str = "/srv/whole";
/// Where `btrfs send` takes its snapshots, and where `btrfs receive` puts them.
pub const SEND: &str = "/srv/send";
pub const RECEIVE: &str = "/srv/receive";
/// Where Unison copies to.
pub const UNISON: &str = "/srv/unison";

/// What pc-switcher leaves alone in these homes, so that all have the same work.
const EXCLUDES: [&str; 3] = ["--exclude=.ssh", "--exclude=.local/state/pc-switcher", "--exclude=.cache"];

/// How a copy is compared with the home.
const STRICT: [&str; 5] = ["-aHAXS", "--delete", "-n", "-i", "--omit-dir-times"];
/// How that of Unison is: it keeps no links' owners and times, and the pipe stays out of it.
const LOOSE: [&str; 7] =
    ["-rlpt", "--delete", "-n", "-i", "--omit-dir-times", "--omit-link-times", "--exclude=special"];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Tool {
    #[value(skip)]
    PcSwitcher,
    /// rsync -aHAXS --delete, for the image --inplace --no-whole-file
    Rsync,
    /// rsync -aHAXS --delete for the image, too: it writes a new file of what it has and what comes
    #[value(skip)]
    RsyncWhole,
    /// rsync over a connection that was there before
    #[value(skip)]
    RsyncOpen,
    /// btrfs send | ssh btrfs receive
    Send,
    /// Unison in batch mode
    Unison,
    #[value(skip)]
    OwnWalk,
}

impl Tool {
    /// Returns its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::PcSwitcher => "pc-switcher",
            Self::Rsync => "rsync",
            Self::RsyncWhole => "rsync -aHAXS",
            Self::RsyncOpen => "rsync, connected",
            Self::Send => "btrfs send",
            Self::Unison => "unison",
            Self::OwnWalk => "own walk",
        }
    }

    /// Returns the start of the name of the program whose memory counts.
    pub fn program(self) -> &'static str {
        match self {
            Self::PcSwitcher | Self::OwnWalk => "pc-switcher",
            Self::Rsync | Self::RsyncWhole | Self::RsyncOpen => "rsync",
            Self::Send => "btrfs",
            Self::Unison => "unison",
        }
    }

    /// Returns what alice types on the laptop.
    pub fn command(self, case: Case) -> Cmd {
        let cmd = match self {
            Self::PcSwitcher | Self::OwnWalk => own(case),
            // What somebody who knows would take for an image; with holes looked for it would write the whole file.
            Self::Rsync if case == Case::Image => {
                rsync(SSH, &["-aHAX", "--delete", "--inplace", "--no-whole-file"], COPY)
            }
            Self::Rsync => rsync(SSH, &["-aHAXS", "--delete"], COPY),
            Self::RsyncOpen => rsync(SSH_OPEN, &["-aHAXS", "--delete"], COPY),
            Self::RsyncWhole => rsync(SSH, &["-aHAXS", "--delete"], WHOLE),
            Self::Send => Cmd::script(&send()),
            Self::Unison => Cmd::script(UNISON_SCRIPT).args(["bash", UNISON]),
        };
        cmd.as_alice().timeout(LIMIT)
    }

    /// Returns the command that prints what differs between the home and this tool's copy of it, directory times apart:
    /// what a machine writes into its own directories moves them. Unison is held to less, as it keeps less.
    pub fn check(self) -> Cmd {
        let cmd = match self {
            Self::PcSwitcher | Self::OwnWalk => rsync(SSH, &STRICT, "/home"),
            Self::Rsync | Self::RsyncOpen => rsync(SSH, &STRICT, COPY),
            Self::RsyncWhole => rsync(SSH, &STRICT, WHOLE),
            Self::Send => rsync(SSH, &STRICT, &format!("{RECEIVE}/last")),
            Self::Unison => rsync(SSH, &LOOSE, UNISON),
        };
        cmd.as_alice().timeout(LIMIT)
    }

    /// Returns what is done before and after a run, unmeasured: a connection that is there before comes and goes.
    pub fn around(self) -> Option<[Cmd; 2]> {
        let ssh = |words: &[&str]| {
            Cmd::new("ssh").args(["-S", SOCKET]).args(words.iter().copied()).arg("desk").as_alice()
        };
        (self == Self::RsyncOpen).then(|| [ssh(&["-M", "-f", "-N"]), ssh(&["-O", "exit"])])
    }
}

fn own(case: Case) -> Cmd {
    let gate = matches!(case, Case::First | Case::Fallback).then_some("--allow-first-sync");
    // One in a thousand of a million files is deleted.
    Cmd::new("pc-switcher").args(["sync", "desk", "--allow-mass-deletion"]).args(gate)
}

/// Where a connection that is there before is asked for.
const SOCKET: &str = "/tmp/bench-connection";
/// How rsync connects, and how over a connection that is there.
const SSH: &str = "sudo -u alice ssh";
const SSH_OPEN: &str = "sudo -u alice ssh -S /tmp/bench-connection";

/// Root here and there, for owners and attributes; the connection is alice's own.
fn rsync(ssh: &str, options: &[&str], copy: &str) -> Cmd {
    Cmd::new("sudo")
        .args(["rsync", "--numeric-ids", "-e", ssh, "--rsync-path=sudo rsync"])
        .args(options.iter().copied())
        .args(EXCLUDES)
        .arg("/home/")
        .arg(format!("desk:{copy}/"))
}

/// A snapshot, its difference to the one before it if there is one, and a name for what came last.
fn send() -> String {
    format!(
        "set -o pipefail; last=$(ls {SEND} | sort -n | tail -n 1); next=$((last + 1)); \
         sudo btrfs subvolume snapshot -r /home {SEND}/$next >/dev/null; \
         sudo btrfs send -q ${{last:+-p {SEND}/$last}} {SEND}/$next | \
         ssh desk \"sudo btrfs receive -q {RECEIVE} && sudo ln -sfn $next {RECEIVE}/last\""
    )
}

/// Root here and there by way of a script that calls alice's ssh. Its archives lie beside the homes. It ends with 1 if it
/// skipped something; the check afterwards says whether that matters.
const UNISON_SCRIPT: &str = "sudo env UNISON=/var/tmp/unison unison /home \"ssh://desk/$1\" \
     -sshcmd /usr/local/bin/ssh-of-alice -servercmd 'sudo env UNISON=/var/tmp/unison unison' \
     -batch -auto -force /home -confirmbigdel=false -times -owner -group -numericids -perms -1 \
     -ignore 'Name {.ssh,.cache}' -ignore 'Path alice/.local/state/pc-switcher' -ignore 'Path alice/special' \
     >/tmp/unison.log 2>&1 || [ $? = 1 ] || { tail -n 20 /tmp/unison.log >&2; exit 1; }";

/// The script of that name.
pub const SSH_OF_ALICE: &str = "#!/bin/sh\nexec sudo -u alice ssh \"$@\"\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tool: Tool, case: Case) -> String {
        format!("{:?}", tool.command(case))
    }

    #[test]
    fn an_image_is_written_in_place_and_its_holes_are_not_looked_for() {
        assert!(line(Tool::Rsync, Case::Changed).contains("\"-aHAXS\", \"--delete\""));
        let image = line(Tool::Rsync, Case::Image);
        assert!(image.contains("\"-aHAX\", \"--delete\", \"--inplace\", \"--no-whole-file\""), "{image}");
        assert!(line(Tool::RsyncWhole, Case::Image).contains("\"-aHAXS\", \"--delete\""));
    }

    #[test]
    fn only_a_sync_without_a_past_is_allowed_to_be_a_first_one() {
        let allowed = |case: &Case| line(Tool::PcSwitcher, *case).contains("--allow-first-sync");
        let cases: Vec<Case> = Case::ALL.into_iter().filter(allowed).collect();
        assert_eq!(cases, [Case::First, Case::Fallback]);
    }

    #[test]
    fn a_connection_that_is_there_is_opened_before_and_closed_after_a_run() {
        let around = Tool::RsyncOpen.around().unwrap().map(|cmd| format!("{cmd:?}"));
        assert!(around.iter().all(|line| line.contains(SOCKET)), "{around:?}");
        assert!(line(Tool::RsyncOpen, Case::NoChange).contains(SOCKET) && SSH_OPEN.contains(SOCKET));
        assert!(Tool::Rsync.around().is_none());
    }
}
