//! restic and we in one repository: each heeds the locks of the other, also while the other one does nothing for long.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use pc_switcher_contract::{ErrorKind, ModuleError};
use pc_switcher_vault::engine::Quiet;
use pc_switcher_vault::error::Result;
use pc_switcher_vault::format::Id;
use pc_switcher_vault::service::{BackupReport, PruneOrder, PruneReport};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::given::{Given, everything, noise, word};

/// A restic that stands still, with a lock of its own in the repository.
struct Stopped {
    child: Child,
    pid: Pid,
}

impl Stopped {
    /// Starts restic, and stops it as soon as it has its lock.
    fn in_the_middle_of(given: &Given, args: &[&str]) -> Self {
        assert!(locks(given).is_empty());
        for _ in 0..20 {
            let mut command = given.command(args);
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let pid = Pid::from_child(&child);
            let mut stopped = Self { child, pid };
            while locks(given).is_empty() && stopped.child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            if stopped.child.try_wait().unwrap().is_some() {
                continue;
            }
            kill_process(pid, Signal::STOP).unwrap();
            // It may have come to its end a moment ago.
            let stands = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
            if stands.is_some_and(|(_, status)| status.stopped()) && !locks(given).is_empty() {
                return stopped;
            }
        }
        panic!("restic is too fast to be stopped");
    }

    fn goes_on(mut self) {
        kill_process(self.pid, Signal::CONT).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Gone already, as a rule.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Returns the locks that are written whole.
fn locks(given: &Given) -> BTreeSet<PathBuf> {
    let entries = given.repo().join("locks").read_dir().unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().parse::<Id>().is_ok()).collect()
}

fn back_up(given: &Given) -> Result<BackupReport> {
    given.add();
    given.service().backup(None, &mut word, &Quiet::default())
}

fn prune(given: &Given) -> Result<PruneReport> {
    given.service().prune(&PruneOrder::default(), &mut word, &Quiet::default())
}

/// Proves that somebody was refused, with the name of who is in the way.
fn names_the_holder<T>(refused: Result<T>, holder: &Stopped, how: &str) {
    let error: ModuleError = refused.err().expect("restic has a lock");
    assert_eq!(error.kind, ErrorKind::Busy, "{error}");
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let said = error.to_string();
    let wanted = format!("locked {how}by process {} of ", holder.pid.as_raw_nonzero());
    assert!(said.contains(&wanted) && said.contains(&format!("on `{}`", hostname.trim())), "{said}");
}

fn with_two_backups() -> Option<Given> {
    let given = Given::new()?;
    everything(&given.source());
    given.set_up();
    given.back_up();
    std::fs::write(given.source().join("more"), noise(100_000, 2)).unwrap();
    given.back_up();
    Some(given)
}

#[test]
fn whoever_meets_a_prune_of_restic_names_it_and_changes_nothing() {
    let Some(given) = with_two_backups() else { return };
    let there = || -> BTreeSet<PathBuf> {
        let kinds = ["snapshots", "index", "locks"].map(|kind| given.repo().join(kind));
        kinds
            .into_iter()
            .flat_map(|kind| kind.read_dir().unwrap().map(|entry| entry.unwrap().path()))
            .collect()
    };
    std::fs::write(given.source().join("more"), noise(100_000, 3)).unwrap();
    let alone = Stopped::in_the_middle_of(&given, &["prune", "--max-unused", "0"]);
    let before = there();
    names_the_holder(back_up(&given), &alone, "exclusively ");
    names_the_holder(prune(&given), &alone, "exclusively ");
    assert_eq!(there(), before);
    alone.goes_on();
    let stored = back_up(&given).unwrap();
    assert!(stored.is_clean() && stored.versions == 1, "what was staged is stored then: {stored:?}");
    prune(&given).unwrap();
    given.restic(&["check", "--read-data"]);
    assert!(locks(&given).is_empty());
}

#[test]
fn beside_a_backup_of_restic_we_back_up_and_do_not_prune() {
    let Some(given) = with_two_backups() else { return };
    let source = given.path("other source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("theirs"), noise(3_000_000, 4)).unwrap();
    let shared = Stopped::in_the_middle_of(&given, &["backup", source.to_str().unwrap()]);
    names_the_holder(prune(&given), &shared, "");
    std::fs::write(given.source().join("more"), noise(100_000, 3)).unwrap();
    let stored = back_up(&given).unwrap();
    assert!(stored.is_clean() && stored.vaults[0].snapshot.is_some(), "{stored:?}");
    assert_eq!(locks(&given).len(), 1, "theirs stays, and ours is gone");
    shared.goes_on();
    prune(&given).unwrap();
    given.restic(&["check", "--read-data"]);
    let listed = given.restic(&["snapshots", "--json"]);
    assert_eq!(listed.matches("\"short_id\"").count(), 4, "{listed}");
}
